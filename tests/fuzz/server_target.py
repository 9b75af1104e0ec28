"""A server's side of a connection, fed with whatever a client may send."""

from collections.abc import Iterable
from typing import Final

from dataplane_protocol import (
    ARGUMENTS,
    INGEST_FD,
    PROTOCOL_VERSION,
    SERVE_FD,
    Arguments,
    BodyKind,
    BodyMismatchError,
    CallCancelledError,
    ConnectionClosed,
    DataPlaneError,
    End,
    Event,
    Failure,
    Hello,
    IngestArguments,
    InvalidRequestError,
    NoSpaceError,
    Ok,
    RangeNotSatisfiableError,
    Request,
    ServeArguments,
    ServeResult,
    Side,
    State,
    UnsupportedError,
    resolve_range,
)

from .feeding import SCRIPT_SIZE, Wire, cut, same, transcript

#: What the third byte of an input switches on.
_SERVES_FD: Final = 1
_INGESTS_FD: Final = 2
_REFUSES_BODIES: Final = 4
_FAILS_BODIES: Final = 8

_OBJECT: Final = bytes(range(100))
_MAX_MESSAGE: Final = 1000


def check(data: bytes) -> None:
    """Play one input.

    Raises:
        Exception: A promise of the protocol package does not hold.
    """
    if len(data) < SCRIPT_SIZE:
        return
    script, stream, pieces = cut(data)
    whole = _play(script, [stream], has_mirror=True)
    assert same(_play(script, pieces, has_mirror=False), whole)


def _play(script: int, pieces: Iterable[bytes], *, has_mirror: bool) -> list[object]:
    wire = Wire(Side.SERVER, has_mirror=has_mirror)
    return transcript(wire, _Server(wire, script), pieces)


class _Server:
    """Answers as a daemon does, with one object and without one."""

    def __init__(self, wire: Wire, script: int) -> None:
        self._wire = wire
        self._script = script
        self._request: Request | None = None

    def start(self) -> None:
        pass

    def react(self, event: Event) -> None:
        if isinstance(event, Hello):
            self._greet(event)
        elif isinstance(event, ConnectionClosed):
            pass
        elif self._wire.connection.their_state is State.CLOSED:
            assert isinstance(event, Failure)
        elif isinstance(event, Request):
            self._request = event
            self._guarded(self._begin, event)
        elif self._request is None:
            # The rest of a body that was refused.
            assert isinstance(event, memoryview | End | Failure)
        elif isinstance(event, memoryview):
            if self._script & _REFUSES_BODIES:
                self._refuse(NoSpaceError("no room"))
        else:
            self._guarded(self._finish, event)

    def _greet(self, hello: Hello) -> None:
        if hello.version != PROTOCOL_VERSION:
            self._refuse(UnsupportedError("version", details={"versions": [PROTOCOL_VERSION]}))
            return
        enabled = {SERVE_FD: self._script & _SERVES_FD, INGEST_FD: self._script & _INGESTS_FD}
        features = tuple(name for name, is_on in enabled.items() if is_on)
        self._wire.send(
            Hello(features=tuple(name for name in features if name in hello.features), agent="a")
        )

    def _guarded(self, step: object, event: Event) -> None:
        """Do one step of a call; only what a peer may be told of comes out of it."""
        try:
            step(event)
        except (
            InvalidRequestError,
            UnsupportedError,
            RangeNotSatisfiableError,
            BodyMismatchError,
            CallCancelledError,
        ) as exc:
            self._refuse(exc)

    def _begin(self, request: Request) -> None:
        kind = ARGUMENTS.get(request.op)
        if kind is None:
            raise UnsupportedError("operation is not supported")
        arguments = _read(kind, request)
        if (request.body is not None) != isinstance(arguments, IngestArguments):
            raise InvalidRequestError(f"{request.op} and its body do not fit")
        if isinstance(arguments, ServeArguments):
            self._serve(arguments, request)
        elif request.body is None:
            self._answer(Ok(result={}))

    def _finish(self, event: Event) -> None:
        if isinstance(event, Failure):
            raise CallCancelledError("given up")
        assert isinstance(event, End)
        if self._request.body is BodyKind.STREAM:
            event.check_size(self._wire.connection.received_bytes)
        self._answer(Ok(result={}))

    def _serve(self, arguments: ServeArguments, request: Request) -> None:
        offset, length = resolve_range(arguments.byte_range, len(_OBJECT))
        assert 0 <= offset < offset + length <= len(_OBJECT)
        result = ServeResult(size_bytes=len(_OBJECT), offset=offset, length=length).to_wire()
        is_agreed = request.accept_fd and SERVE_FD in self._wire.connection.features
        if is_agreed:
            self._answer(Ok(result=result, body=BodyKind.FD))
        else:
            self._answer(Ok(result=result, body=BodyKind.STREAM))
            self._wire.send_data(_OBJECT[offset : offset + length])
        if self._script & _FAILS_BODIES:
            self._wire.send(Failure(code="corrupt"))
        else:
            self._wire.send(End(size_bytes=length))

    def _answer(self, answer: Ok) -> None:
        self._request = None
        self._wire.send(answer)

    def _refuse(self, error: DataPlaneError) -> None:
        self._request = None
        failure = Failure.from_error(error)
        assert len(failure.message) <= _MAX_MESSAGE
        self._wire.send(failure)


def _read(kind: type[Arguments], request: Request) -> Arguments:
    arguments = kind.from_wire(request.args)
    again = kind.from_wire(arguments.to_wire())
    if not isinstance(arguments, ServeArguments):
        assert again == arguments
        return arguments
    # A range beyond every object may be spelled shorter, but must mean the same bytes.
    assert again.content_address == arguments.content_address
    assert again.backend_id == arguments.backend_id
    if arguments.byte_range is not None:
        assert again.byte_range[0] == arguments.byte_range[0]
        for size in (1, 100, 2**53 - 1):
            assert _resolved(again, size) == _resolved(arguments, size)
    return arguments


def _resolved(arguments: ServeArguments, size: int) -> object:
    try:
        return resolve_range(arguments.byte_range, size)
    except RangeNotSatisfiableError as exc:
        return str(exc)
