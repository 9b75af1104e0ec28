"""The frames of `frames.json`, each sent to a client that is having an object served."""

from collections.abc import Callable, Iterator
from typing import Final, cast

from ..frames import Control
from ..vectors import FrameVector, frames
from ..verdicts import Case, FailedError, Level, SkippedError, case_id
from ..wire import Wire
from .subject import HELLO, SERVE_HELLO, SERVED_HELLO, Client, served_hello

_BYTE_STRING: Final = 2


def cases() -> Iterator[Case[Client]]:
    """Give a case for each frame that a server may or must not send."""
    for vector in frames("refuse"):
        yield _case(vector, "refuses", _refuses)
    for vector in frames("accept"):
        if _is_end(vector) and "digest" not in repr(vector.control):
            yield _case(vector, "accepts", _accepts)
    for vector in frames("either"):
        yield _case(vector, "survives", _survives)


def _is_end(vector: FrameVector) -> bool:
    end = (vector.control or {}).get("end")
    return isinstance(end, dict) and cast("Control", end).get("size_bytes") == len(HELLO.data)


def _case(
    vector: FrameVector, verb: str, player: Callable[[Client, FrameVector], None]
) -> Case[Client]:
    def play(client: Client) -> None:
        if vector.unknown:
            raise SkippedError(vector.unknown)
        player(client, vector)

    return Case(
        case_id=case_id(vector.section, f"{verb} {vector.name}"),
        title=f"A client {verb} the frame of frames.json: {vector.name}.",
        level=Level.MUST,
        play=play,
    )


def _announce_body(wire: Wire) -> None:
    wire.send({"ok": SERVED_HELLO, "body": "stream"})


def _begin_body(wire: Wire) -> None:
    _announce_body(wire)
    wire.send_data(HELLO.data)


def _refuses(client: Client, vector: FrameVector) -> None:
    """Play the frame in place of the answer, and where it would be right but for its fault."""
    is_data = len(vector.frame) > 4 and vector.frame[4] >> 5 == _BYTE_STRING
    for prepare, place in (
        (_nothing, "in place of the answer"),
        (_announce_body if is_data else _begin_body, "in a body"),
    ):
        with client.asked_to_serve() as (session, wire):
            prepare(wire)
            wire.send_raw(vector.frame)
            session.spoil(wire)
            try:
                session.expect_error("protocol", retry=False)
            except FailedError as exc:
                raise FailedError(f"{exc.expected} after the frame {place}", exc.got) from exc


def _nothing(_: Wire) -> None:
    pass


def _accepts(client: Client, vector: FrameVector) -> None:
    """Play the frame as the end of a body."""
    with client.asked_to_serve() as (session, wire):
        _begin_body(wire)
        assert vector.control is not None
        wire.send(vector.control)
        session.expect_ok(SERVE_HELLO.op, served_hello())


def _survives(client: Client, vector: FrameVector) -> None:
    """Play the frame as the end of a body; either way something must come of it."""
    with client.asked_to_serve() as (session, wire):
        _begin_body(wire)
        wire.send_raw(vector.frame)
        outcome = session.outcome()
        if outcome.error is not None:
            session.spoil(wire)
        else:
            _settle(wire)


def _settle(wire: Wire) -> None:
    """Take note that the body has ended well."""
    wire.halves.states = {"client": "ready", "server": "ready"}
    wire.halves.is_broken = False
