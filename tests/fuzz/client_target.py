"""A client's side of a connection, fed with whatever a server may answer."""

from collections.abc import Callable, Iterable, Mapping
from itertools import cycle
from typing import Final

from dataplane_protocol import (
    INGEST_FD,
    SERVE_FD,
    BodyKind,
    BodyMismatchError,
    ConnectionClosed,
    DataPlaneError,
    End,
    Event,
    Failure,
    Hello,
    Ok,
    RemoteProtocolError,
    Request,
    ServeResult,
    Side,
    State,
    backend_list_from_wire,
    backend_list_to_wire,
    backend_status_from_wire,
    backend_status_to_wire,
    deletion_result_from_wire,
    deletion_result_to_wire,
    ingest_result_from_wire,
    ingest_result_to_wire,
    object_page_from_wire,
    object_page_to_wire,
    stat_result_from_wire,
    stat_result_to_wire,
    verify_result_from_wire,
    verify_result_to_wire,
)

from .feeding import SCRIPT_SIZE, Wire, cut, same, transcript

#: What the third byte of an input switches on. Its low bits say which operation comes first.
_FIRST_OPERATION: Final = 7
_OFFERS_FD: Final = 8
_WAITS_IN_BODY: Final = 16

_ADDRESS: Final = "blake3:" + "0" * 64
_NAMED: Final[Mapping[str, object]] = {"content_address": _ADDRESS}

_Codec = tuple[Callable[[Mapping[str, object]], object], Callable[..., Mapping[str, object]]]

#: Every operation with its arguments, and how its result is read and written.
_CALLS: Final[tuple[tuple[str, Mapping[str, object], _Codec], ...]] = (
    ("backend_health", {}, (backend_status_from_wire, backend_status_to_wire)),
    ("ingest_stream", {}, (ingest_result_from_wire, ingest_result_to_wire)),
    ("serve_object", _NAMED, (ServeResult.from_wire, ServeResult.to_wire)),
    ("verify_object", _NAMED, (verify_result_from_wire, verify_result_to_wire)),
    ("delete_object", _NAMED, (deletion_result_from_wire, deletion_result_to_wire)),
    (
        "stat_objects",
        {"content_addresses": [_ADDRESS]},
        (stat_result_from_wire, stat_result_to_wire),
    ),
    ("list_objects", {}, (object_page_from_wire, object_page_to_wire)),
    ("list_backends", {}, (backend_list_from_wire, backend_list_to_wire)),
)


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
    wire = Wire(Side.CLIENT, has_mirror=has_mirror)
    return transcript(wire, _Client(wire, script), pieces)


class _Client:
    """Calls one operation after the other for as long as the server answers."""

    def __init__(self, wire: Wire, script: int) -> None:
        self._wire = wire
        self._script = script
        self._calls = cycle(_CALLS)
        for _ in range(script & _FIRST_OPERATION):
            next(self._calls)
        self._op = ""
        self._codec: _Codec = _CALLS[0][2]

    def start(self) -> None:
        features = (SERVE_FD, INGEST_FD) if self._script & _OFFERS_FD else ()
        self._wire.send(Hello(features=features))

    def react(self, event: Event) -> None:
        connection = self._wire.connection
        if isinstance(event, ConnectionClosed) or connection.their_state is State.CLOSED:
            return
        if isinstance(event, Ok):
            self._read(event)
        elif isinstance(event, Failure):
            _check_error(event)
        elif isinstance(event, End):
            self._check_size(event)
        if connection.our_state in (State.BODY, State.DESCRIPTOR):
            # The answer can only be a refusal; the body is given up for it.
            assert isinstance(event, Failure)
            self._wire.send(Failure(code="cancelled"))
        if connection.is_reusable or connection.our_state is State.READY:
            assert connection.their_state is State.READY
            self._call()

    def _call(self) -> None:
        self._op, args, self._codec = next(self._calls)
        features = self._wire.connection.features
        if self._op != "ingest_stream":
            self._wire.send(Request(op=self._op, args=args, accept_fd=SERVE_FD in features))
            return
        body = BodyKind.FD if INGEST_FD in features else BodyKind.STREAM
        self._wire.send(Request(op=self._op, args=args, body=body))
        if not self._script & _WAITS_IN_BODY:
            if body is BodyKind.STREAM:
                self._wire.send_data(b"body")
            self._wire.send(End(size_bytes=4))

    def _read(self, answer: Ok) -> None:
        """Read the result; what a client may be told of is that it is malformed."""
        from_wire, to_wire = self._codec
        try:
            result = from_wire(answer.result)
        except RemoteProtocolError:
            return
        assert from_wire(to_wire(result)) == result

    def _check_size(self, end: End) -> None:
        received = self._wire.connection.received_bytes
        try:
            end.check_size(received)
        except BodyMismatchError:
            assert end.size_bytes != received
        else:
            assert end.size_bytes == received


def _check_error(failure: Failure) -> None:
    error = failure.to_error()
    assert isinstance(error, DataPlaneError)
    assert Failure.from_error(error) == failure
    assert str(error) == (failure.message or failure.code)
