"""Feed one stream to a connection in several ways, and see that nothing but the events counts.

An input of the targets `server` and `client` is a script of three bytes and then the stream
that the peer sends. The first two bytes say how the stream is cut; the third is left to the
target, but its upper half also says whether a large run of zeros follows the stream, so that
large data frames and control frames at their limit are cheap to reach.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, Protocol

from dataplane_protocol import (
    MAX_CONTROL_SIZE,
    Connection,
    ConnectionClosed,
    Event,
    Failure,
    LocalProtocolError,
    Message,
    Ok,
    RemoteProtocolError,
    Request,
    Side,
    State,
)

SCRIPT_SIZE: Final = 3
_LENGTH_SIZE: Final = 4
_LONG_TAIL: Final = bytes(70_000)


class Actor(Protocol):
    """What one side does about the events of its connection, and about nothing else."""

    def start(self) -> None:
        """Say what this side says without being asked."""

    def react(self, event: Event) -> None:
        """Answer one event."""


class Wire:
    """A connection under test and a mirror: the peer that said what has arrived.

    The mirror takes every step that the connection under test takes, from the other side. If
    one of them allows what the other refuses, the two sides would disagree over a call.

    Args:
        side: The side under test.
        has_mirror: Whether to keep the mirror; the same stream in other pieces needs none.
    """

    def __init__(self, side: Side, *, has_mirror: bool) -> None:
        self.connection = Connection(side)
        self.sent = bytearray()
        self.has_mirror = has_mirror
        self._mirror = Connection(side.other) if has_mirror else None

    def send(self, message: Message) -> None:
        """Send, and see that the peer understands the same."""
        frame = self.connection.send(message)
        self.sent += frame
        self._show(frame, message)

    def send_data(self, payload: bytes) -> None:
        """Send a piece of a body, and see that the peer takes it."""
        frame = self.connection.send_data(len(payload)) + payload
        self.sent += frame
        self._show(frame, payload)

    def reflect(self, event: Event) -> None:
        """See that the peer was allowed to send what arrived."""
        if self._mirror is None or isinstance(event, ConnectionClosed):
            return
        if isinstance(event, memoryview):
            self._mirror.send_data(len(event))
        else:
            self._mirror.send(_stripped(event))
        self._agree(self._mirror)

    def _show(self, frame: bytes, sent: Message | bytes) -> None:
        if self._mirror is not None:
            self._mirror.receive(frame)
            assert self._mirror.next_event() == sent
            self._agree(self._mirror)

    def _agree(self, mirror: Connection) -> None:
        """See that both sides have both halves in the same states."""
        ours = self.connection
        assert (ours.our_state, ours.their_state) == (mirror.their_state, mirror.our_state)
        assert ours.features == mirror.features
        assert ours.received_bytes == mirror.sent_bytes
        assert ours.sent_bytes == mirror.received_bytes


def same(one: list[object], other: list[object]) -> bool:
    """Whether two transcripts are the same; a NaN is not equal to itself, but is the same."""
    return one == other or repr(one) == repr(other)


def cut(data: bytes) -> tuple[int, bytes, Iterator[bytes]]:
    """Read an input: the target's byte, the stream, and the pieces it arrives in."""
    first, second, script = data[0] + 1, data[1] + 1, data[2]
    stream = data[SCRIPT_SIZE:]
    tail = _LONG_TAIL if script >= 0xF0 else b""
    return script, stream + tail, _pieces(stream, (first, second), tail)


def transcript(wire: Wire, actor: Actor, pieces: Iterator[bytes] | list[bytes]) -> list[object]:
    """Play pieces to a connection until their end or a violation, and give what happened.

    Raises:
        AssertionError: A promise does not hold.
    """
    connection = wire.connection
    result: list[object] = []
    given = events = 0
    actor.start()
    try:
        for piece in pieces:
            given += len(piece)
            connection.receive(piece)
            while (event := connection.next_event()) is not None:
                events += 1
                _note(result, event)
                wire.reflect(event)
                actor.react(event)
                _check_reusable(connection)
            _check_held(connection, len(piece))
            assert events <= given
    except RemoteProtocolError as exc:
        result.append(str(exc))
        if wire.has_mirror:
            _check_broken(connection)
        return result
    finally:
        result.append(bytes(wire.sent))
    connection.receive_eof()
    closed = connection.next_event()
    assert isinstance(closed, ConnectionClosed)
    assert not connection.is_reusable
    actor.react(closed)
    result.append(closed)
    return result


def _pieces(stream: bytes, sizes: tuple[int, int], tail: bytes) -> Iterator[bytes]:
    position, turn = 0, 0
    while position < len(stream):
        yield stream[position : position + sizes[turn]]
        position += sizes[turn]
        turn = 1 - turn
    if tail:
        yield tail


def _note(result: list[object], event: Event) -> None:
    """Note an event; pieces of payload are one, wherever they were cut."""
    if not isinstance(event, memoryview):
        result.append(event)
    elif result and isinstance(result[-1], bytearray):
        result[-1] += event
    else:
        assert len(event)
        result.append(bytearray(event))


def _check_reusable(connection: Connection) -> None:
    if connection.is_reusable:
        assert connection.our_state is connection.their_state is State.READY


def _check_held(connection: Connection, given: int) -> None:
    """See that a drained decoder keeps no more than one control frame that is not whole."""
    decoder = connection._decoder
    assert len(decoder._input) == 0
    assert len(decoder._partial) < _LENGTH_SIZE + MAX_CONTROL_SIZE
    assert given or decoder.is_between_frames


def _check_broken(connection: Connection) -> None:
    """See that nothing is read after a violation, and that the peer can be told why."""
    connection.receive(b"\x00\x00\x00\x05\xa1bok\xa0")
    for _ in range(2):
        try:
            event = connection.next_event()
        except RemoteProtocolError:
            continue
        raise AssertionError(f"read after a violation: {event}")
    is_closed = connection.our_state is State.CLOSED
    try:
        connection.send(Failure(code=RemoteProtocolError.default_code))
    except LocalProtocolError:
        assert is_closed
    else:
        assert not is_closed
    assert not connection.is_reusable


def _stripped(message: Message) -> Message:
    """Give a message without what a receiver may take and a sender may not send."""
    if isinstance(message, Request):
        return replace(message, args={})
    if isinstance(message, Ok):
        return replace(message, result={})
    if isinstance(message, Failure):
        return replace(message, details={})
    return message
