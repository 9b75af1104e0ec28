"""One connection, sans-IO: messages in, bytes out, and the other way round."""

from dataclasses import dataclass
from typing import TypeAlias

from ._errors import LocalProtocolError, RemoteProtocolError
from ._frames import FrameDecoder, data_head, encode_frame
from ._halves import Halves, OrderError, Side, State, Step, step_of
from ._messages import (
    INGEST_FD,
    SERVE_FD,
    BodyKind,
    Failure,
    Hello,
    Message,
    Ok,
    Request,
    message_from_wire,
)


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The peer closed its end.

    Attributes:
        is_clean: Whether no call was open and no frame was cut off.
    """

    is_clean: bool


#: What arrives: a control message, a piece of a body, or the end of the connection.
Event: TypeAlias = Message | memoryview | ConnectionClosed


class Connection:
    """Both half-machines over one byte stream.

    It opens nothing, awaits nothing and reads no clock: give it what arrived with `receive`
    or `receive_eof`, take events with `next_event` until it gives `None`, and put what
    `send` and `send_data` give on the wire, in order. One task uses it at a time.

    Args:
        side: Which side this is.
    """

    def __init__(self, side: Side) -> None:
        self._side = side
        self._halves = Halves()
        self._decoder = FrameDecoder()
        self._is_eof = False
        self._offered: frozenset[str] = frozenset()
        self._features: frozenset[str] = frozenset()
        self._accepts_fd = False
        self._violation: RemoteProtocolError | None = None
        self._sent = 0
        self._received = 0

    @property
    def our_state(self) -> State:
        """The state of the half that this side sends."""
        return self._halves[self._side]

    @property
    def their_state(self) -> State:
        """The state of the half that the peer sends."""
        return self._halves[self._side.other]

    @property
    def features(self) -> frozenset[str]:
        """What the client offered and the server enabled; empty before both hellos."""
        return self._features

    @property
    def is_reusable(self) -> bool:
        """Whether no call is open and nothing unread is left, so that a call may start."""
        is_over = self._is_eof or self._violation is not None
        return self._halves.are_ready and self._decoder.is_between_frames and not is_over

    @property
    def due_payload(self) -> int:
        """How many of the next bytes to arrive are payload for sure.

        They may be received where they are wanted, and given to `receive` from there.
        """
        return 0 if self._violation is not None else self._decoder.due_payload

    @property
    def sent_bytes(self) -> int:
        """Payload bytes sent in the body that is or was open last."""
        return self._sent

    @property
    def received_bytes(self) -> int:
        """Payload bytes handed out of the body that is or was open last."""
        return self._received

    def send(self, message: Message) -> bytes:
        """Give the frame of a control message.

        Raises:
            LocalProtocolError: It is not allowed now or too large; nothing has changed.
        """
        frame = encode_frame(message.to_wire())
        self._take(self._side, message, LocalProtocolError)
        if isinstance(message, Request | Ok) and message.body is not None:
            self._sent = 0
        return frame

    def send_data(self, size: int) -> bytes:
        """Give the head of a data frame; `size` bytes of payload must follow it.

        Raises:
            LocalProtocolError: No body is open, or the size is not 1 to `MAX_DATA_SIZE`.
        """
        head = data_head(size)
        self._advance(self._side, Step.DATA, LocalProtocolError)
        self._sent += size
        return head

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes that arrived; pieces of payload will be views of them."""
        self._decoder.receive(data)

    def receive_eof(self) -> None:
        """Note that the peer has closed its end."""
        self._is_eof = True

    def next_event(self) -> Event | None:
        """Give the next event, or `None` when more bytes are needed.

        Raises:
            RemoteProtocolError: The peer violated framing, order or schema, now or before.
                Nothing it sends after that can be understood: tell it why, and close.
        """
        if self._violation is not None:
            raise self._violation
        try:
            return self._next_event()
        except RemoteProtocolError as exc:
            self._violation = exc
            raise

    def _next_event(self) -> Event | None:
        event = self._decoder.next()
        if event is None:
            return self._closed() if self._is_eof else None
        if isinstance(event, memoryview):
            self._advance(self._side.other, Step.DATA, RemoteProtocolError)
            self._received += len(event)
            return event
        message = message_from_wire(event)
        self._take(self._side.other, message, RemoteProtocolError)
        if isinstance(message, Request | Ok) and message.body is not None:
            self._received = 0
        return message

    def _closed(self) -> ConnectionClosed:
        at_rest = self._halves.are_ready or self._halves.are_fresh
        return ConnectionClosed(is_clean=at_rest and self._decoder.is_between_frames)

    def _take(
        self,
        side: Side,
        message: Message,
        error: type[LocalProtocolError] | type[RemoteProtocolError],
    ) -> None:
        """Advance by a message and note what later ones depend on."""
        if isinstance(message, Request | Ok) and message.body is BodyKind.FD:
            self._check_descriptor(message, error)
        self._advance(side, step_of(message), error, _breaks_off(message))
        if isinstance(message, Request):
            self._accepts_fd = message.accept_fd
        elif isinstance(message, Hello):
            named = frozenset(message.features)
            if side is Side.CLIENT:
                self._offered = named
            else:
                self._features = named & self._offered

    def _check_descriptor(
        self,
        message: Request | Ok,
        error: type[LocalProtocolError] | type[RemoteProtocolError],
    ) -> None:
        feature = INGEST_FD if isinstance(message, Request) else SERVE_FD
        if feature not in self._features:
            raise error(f"body is an fd, but {feature} was not agreed on")
        if isinstance(message, Ok) and not self._accepts_fd:
            raise error("body is an fd, but the request does not accept one")

    def _advance(
        self,
        side: Side,
        step: Step,
        error: type[LocalProtocolError] | type[RemoteProtocolError],
        breaks_off: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        try:
            self._halves.advance(side, step, breaks_off=breaks_off)
        except OrderError as exc:
            raise error(str(exc)) from None


def _breaks_off(message: Message) -> bool:
    return isinstance(message, Failure) and message.code == RemoteProtocolError.default_code
