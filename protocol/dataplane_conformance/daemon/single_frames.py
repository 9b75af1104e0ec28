"""The frames of `frames.json`, each put on the wire where a daemon may meet it."""

from collections.abc import Callable, Iterator
from typing import Final, cast

from ..frames import Control
from ..vectors import FrameVector, frames
from ..verdicts import Case, FailedError, Level, SkippedError, case_id, shown
from ..wire import Wire
from .subject import Daemon, end_of, expect, expect_closed, expect_error, expect_violation

#: A body that the vectors' `end` frames state the size and digest of.
_HELLO_WORLD: Final = b"hello world\n"

_INGEST: Final[Control] = {"op": "ingest_stream", "args": {}, "body": "stream"}


def cases() -> Iterator[Case[Daemon]]:
    """Give a case for each frame that a client may or must not send."""
    for vector in frames("refuse"):
        yield _case(vector, "refuses", _refuses)
    for vector in frames("accept"):
        player = _acceptance(vector)
        if player:
            yield _case(vector, "accepts", player)
    for vector in frames("either"):
        yield _case(vector, "survives", _survives)


def _case(
    vector: FrameVector, verb: str, player: Callable[[Daemon, FrameVector], None]
) -> Case[Daemon]:
    def play(daemon: Daemon) -> None:
        if vector.unknown:
            raise SkippedError(vector.unknown)
        if vector.needs:
            raise SkippedError(f"the frame needs {', '.join(vector.needs)}")
        player(daemon, vector)

    return Case(
        case_id=case_id(vector.section, f"{verb} {vector.name}"),
        title=f"A daemon {verb} the frame of frames.json: {vector.name}.",
        level=Level.MUST,
        play=play,
    )


def _refuses(daemon: Daemon, vector: FrameVector) -> None:
    for place, open_wire in _PLACES.items():
        wire = open_wire(daemon)
        wire.send_raw(vector.frame)
        try:
            expect_violation(wire)
        except FailedError as exc:
            raise FailedError(f"{exc.expected} after it was sent {place}", exc.got) from exc
        wire.close()


def _in_a_body(daemon: Daemon) -> Wire:
    wire = daemon.greet()
    wire.send(_INGEST)
    return wire


def _behind_a_body(daemon: Daemon) -> Wire:
    # Most `end` frames of the vectors would be right here, but for their faults.
    wire = _in_a_body(daemon)
    wire.send_data(_HELLO_WORLD)
    return wire


_PLACES: Final[dict[str, Callable[[Daemon], Wire]]] = {
    "after the hello": Daemon.greet,
    "instead of the hello": Daemon.dial,
    "in a body": _behind_a_body,
}


def _acceptance(vector: FrameVector) -> Callable[[Daemon, FrameVector], None] | None:
    """Give how a frame to accept is played, or `None` for those that only a server sends."""
    control = vector.control
    if control is None:
        return _accepts_data
    if "hello" in control:
        return _accepts_hello
    if "op" in control and control.get("body") != "fd":
        return _accepts_request
    if "error" in control:
        return _accepts_error
    if "end" in control and cast("Control", control["end"]).get("size_bytes") == len(_HELLO_WORLD):
        return _accepts_end
    return None


def _accepts_hello(daemon: Daemon, vector: FrameVector) -> None:
    wire = daemon.dial()
    assert vector.control is not None
    wire.send(vector.control)
    if cast("Control", vector.control["hello"])["version"] == 1:
        expect(wire, {"hello": {"version": 1}})
        daemon.call(wire, "list_backends")
    else:
        expect(wire, {"error": {"code": "unsupported", "details": {"versions": [1]}}})
        expect_closed(wire)


def _accepts_request(daemon: Daemon, vector: FrameVector) -> None:
    daemon.require_own(repr(vector.control))
    wire = daemon.greet()
    assert vector.control is not None
    wire.send(vector.control)
    if "body" in vector.control:
        wire.send(end_of(b""))
    _expect_any_answer(wire)
    daemon.call(wire, "list_backends")


def _expect_any_answer(wire: Wire) -> None:
    """Take an answer, with the body that it may have; not one that breaks off."""
    frame = wire.receive()
    if not isinstance(frame, dict) or wire.halves.states["server"] == "closed":
        raise FailedError("an answer", shown(frame))
    while not wire.halves.are_ready:
        if (frame := wire.receive()) is None:
            raise FailedError("the rest of the body", shown(frame))


def _accepts_error(daemon: Daemon, vector: FrameVector) -> None:
    wire = _in_a_body(daemon)
    assert vector.control is not None
    wire.send(vector.control)
    if wire.halves.states["client"] == "closed":
        expect_closed(wire)
        return
    expect_error(wire, "cancelled")
    daemon.call(wire, "list_backends")


def _accepts_end(daemon: Daemon, vector: FrameVector) -> None:
    daemon.known("hello")
    wire = _in_a_body(daemon)
    wire.send_data(_HELLO_WORLD)
    assert vector.control is not None
    wire.send(vector.control)
    # A digest that is not of these bytes, or of an odd algorithm, is answered in good order.
    _expect_any_answer(wire)
    daemon.call(wire, "list_backends")


def _accepts_data(daemon: Daemon, vector: FrameVector) -> None:
    wire = _in_a_body(daemon)
    head = 0 if len(vector.frame) < 5 else _head_size(vector.frame)
    payload = vector.frame[head:]
    wire.send_data(payload)
    wire.send(end_of(payload))
    expect(wire, {"ok": {"size_bytes": len(payload), "sha256_digest": wire.own_body.sha256}})


def _head_size(frame: bytes) -> int:
    return 5 + {0x58: 1, 0x59: 2, 0x5A: 4}.get(frame[4], 0)


def _survives(daemon: Daemon, vector: FrameVector) -> None:
    """Play a frame that may be read or refused; either way something must come of it."""
    daemon.known("hello")
    wire = _in_a_body(daemon)
    wire.send_data(_HELLO_WORLD)
    wire.send_raw(vector.frame)
    frame = wire.receive()
    if isinstance(frame, dict) and "ok" in frame:
        return
    error = frame.get("error") if isinstance(frame, dict) else None
    if not isinstance(error, dict) or cast("Control", error)["code"] != "protocol":
        raise FailedError("ok, or error protocol and the end", shown(frame))
    expect_closed(wire)
    daemon.is_alive()
