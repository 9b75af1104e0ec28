"""Bodies that a client sends and receives (`SPEC.md` 2.2, 5.3 to 5.7, 12)."""

import hashlib
import struct
from typing import Final, cast

from ..frames import Control, Frame
from ..vectors import objects
from ..verdicts import FailedError, Group, SkippedError, shown
from ..wire import Wire
from .adapter import Call
from .subject import (
    HEALTH,
    HEALTHY,
    HELLO,
    SERVE_HELLO,
    SERVED_HELLO,
    Client,
    Session,
    served_hello,
)

GROUP: Final = Group[Client]()

_MIB: Final = 1024 * 1024
_DATA_SIZE: Final = 262_144

#: More than any socket holds, so that a client that does not look cannot be done with it.
_HUGE: Final = 64 * _MIB

#: Bytes that may come behind a refusal: what sockets hold, and the frame that was begun.
_BEGUN: Final = 4 * _MIB


def _counting(size: int) -> bytes:
    return struct.pack(f">{size // 4}I", *range(size // 4))


def _take_body(wire: Wire) -> tuple[list[int], Frame | None]:
    """Take a body of the client: the sizes of its frames, and what ended it."""
    sizes: list[int] = []
    while isinstance(frame := wire.receive(), bytes):
        sizes.append(len(frame))
    return sizes, frame


def _ingested(body: bytes, **fields: object) -> Control:
    sha256 = f"sha256:{hashlib.sha256(body).hexdigest()}"
    return {
        "primary_digest": sha256,
        "sha256_digest": sha256,
        "size_bytes": len(body),
        "receipt": {
            "backend_id": "default",
            "outcome": "created",
            "generation": 1,
            "stored_at_ms": 1_790_000_000_000,
        },
        **fields,
    }


def _ingest(body: bytes) -> Call:
    return Call(op="ingest_stream", args={"primary_algorithm": "sha256"}, body=body)


@GROUP.must("7.1")
def ingest_of_many_frames(client: Client) -> None:
    """A large body arrives whole, in order and with the right size in its end."""
    body = _counting(3 * _MIB + 4)
    with client.session(_ingest(body)) as session:
        wire, _ = session.request()
        _, end = _take_body(wire)
        if end is None or isinstance(end, bytes) or "end" not in end:
            raise FailedError("end behind the body", shown(end))
        wanted = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if wire.peer_body.sha256 != wanted:
            raise FailedError(f"a body with digest {wanted}", wire.peer_body.sha256)
        wire.send({"ok": _ingested(body)})
        session.expect_ok("ingest_stream", _ingested(body))


@GROUP.should("2.2")
def data_frames_of_the_recommended_size(client: Client) -> None:
    """Data frames have 262,144 bytes, but for the last."""
    body = _counting(2 * _MIB + 4)
    with client.session(_ingest(body)) as session:
        wire, _ = session.request()
        sizes, _ = _take_body(wire)
        odd = [size for size in sizes[:-1] if size != _DATA_SIZE]
        if odd:
            raise FailedError(f"{_DATA_SIZE} bytes in each data frame but the last", shown(odd))
        wire.send({"ok": _ingested(body)})


@GROUP.must("10")
def unknown_outcome_of_an_ingest(client: Client) -> None:
    """An outcome of a later version is passed on."""
    body = b"hello world\n"
    with client.session(_ingest(body)) as session:
        wire, _ = session.request()
        _take_body(wire)
        result = _ingested(body)
        receipt = {**cast("Control", result["receipt"]), "outcome": "linked", "later": [None]}
        wire.send({"ok": {**result, "receipt": receipt, "later": 1}})
        session.expect_ok("ingest_stream", {**result, "receipt": receipt})


@GROUP.must("7.2")
def served_in_frames_of_every_size(client: Client) -> None:
    """A served body may be cut anywhere, up to 1 MiB a frame."""
    body = _counting(4 * _MIB)
    name = f"sha256:{hashlib.sha256(body).hexdigest()}"
    call = Call(op="serve_object", args={"content_address": name})
    sizes = (1, 23, 24, 255, 256, 65_535, 65_536, 262_144, _MIB, _MIB - 1, 1, _MIB)
    with client.session(call) as session:
        wire, _ = session.request()
        result = {"size_bytes": len(body), "offset": 0, "length": len(body)}
        wire.send({"ok": result, "body": "stream"})
        start = 0
        for size in (*sizes, len(body) - sum(sizes)):
            wire.send_data(body[start : start + size])
            start += size
        wire.send({"end": {"size_bytes": len(body), "digest": name}})
        session.expect_ok("serve_object", {**result, "body_digest": name})


def _refuse_and_drain(session: Session) -> tuple[Wire, list[int], Frame | None]:
    wire, _ = session.request()
    wire.send({"error": {"code": "no_space", "message": "as the kit says"}})
    return (wire, *_take_body(wire))


@GROUP.must("5.3")
def refused_while_it_sends(client: Client) -> None:
    """An early refusal is the outcome, and the body is ended before the next call."""
    with client.session(_ingest(bytes(_HUGE)), HEALTH) as session:
        _, _, end = _refuse_and_drain(session)
        if isinstance(end, dict) and not set(end) & {"end", "error"}:
            raise FailedError("the end of the body, or error", shown(end))
        session.expect_error("no_space", retry=False)
        wire, _ = session.request()
        wire.send({"ok": HEALTHY})
        session.expect_ok(HEALTH.op, HEALTHY)


@GROUP.should("5.3")
def gives_a_refused_body_up(client: Client) -> None:
    """A refused body is given up at the next frame boundary, with `cancelled`."""
    with client.session(_ingest(bytes(_HUGE))) as session:
        _, sizes, end = _refuse_and_drain(session)
        error = end.get("error") if isinstance(end, dict) else None
        code = cast("Control", error)["code"] if isinstance(error, dict) else None
        if sum(sizes) > _BEGUN or code != "cancelled":
            raise FailedError(
                f"error cancelled within {_BEGUN} bytes", f"{shown(end)} after {sum(sizes)}"
            )
        session.expect_error("no_space", retry=False)


@GROUP.should("5.3")
def connection_in_use_after_a_refusal(client: Client) -> None:
    """After an early refusal the connection carries the next call."""
    with client.session(_ingest(bytes(_HUGE)), HEALTH) as session:
        refused, _, _ = _refuse_and_drain(session)
        session.expect_error("no_space", retry=False)
        wire, _ = session.request()
        wire.send({"ok": HEALTHY})
        session.expect_ok(HEALTH.op, HEALTHY)
        if wire is not refused:
            raise FailedError("the next call on the same connection", "another connection")


@GROUP.must("5.3")
def reason_is_read_after_a_broken_pipe(client: Client) -> None:
    """A client whose write fails reads on, since the reason may be there."""
    with client.session(_ingest(bytes(_HUGE))) as session:
        wire, _ = session.request()
        # In this order no client can learn the reason while it is still able to write.
        wire.shut_down_reading()
        wire.send({"error": {"code": "too_large", "message": "as the kit says"}})
        wire.close()
        session.expect_error("too_large", retry=False)


@GROUP.must("12.5")
def own_body_that_fails(client: Client) -> None:
    """A body whose source fails is aborted, and the failure is that of the source."""
    call = Call(
        op="ingest_stream",
        args={},
        body=_counting(3 * _MIB),
        fail_after=2 * _MIB,
    )
    with client.session(call, HEALTH) as session:
        wire, _ = session.request()
        _, end = _take_body(wire)
        if isinstance(end, dict):
            if "error" not in end:
                raise FailedError("error in place of the end, or a close", shown(end))
            wire.send({"error": {"code": "cancelled", "message": "as the kit says"}})
        session.expect_error("source")
        wire, _ = session.request()
        wire.send({"ok": HEALTHY})
        session.expect_ok(HEALTH.op, HEALTHY)


@GROUP.should("5.4")
def aborts_with_cancelled(client: Client) -> None:
    """The code of an abort is `cancelled`, and the connection stays in use."""
    call = Call(op="ingest_stream", args={}, body=_counting(3 * _MIB), fail_after=2 * _MIB)
    with client.session(call, HEALTH) as session:
        aborted, _ = session.request()
        _, end = _take_body(aborted)
        error = end.get("error") if isinstance(end, dict) else None
        if not isinstance(error, dict) or cast("Control", error)["code"] != "cancelled":
            raise FailedError("error cancelled", shown(end))
        aborted.send({"error": {"code": "cancelled", "message": "as the kit says"}})
        session.expect_error("source")
        wire, _ = session.request()
        wire.send({"ok": HEALTHY})
        if wire is not aborted:
            raise FailedError("the next call on the same connection", "another connection")


@GROUP.must("5.6")
def served_object_that_is_left(client: Client) -> None:
    """A client that wants no more of a body closes the connection."""
    body = _counting(8 * _MIB)
    name = f"sha256:{hashlib.sha256(body).hexdigest()}"
    call = Call(op="serve_object", args={"content_address": name}, read=_MIB)
    with client.session(call, HEALTH) as session:
        wire, _ = session.request()
        result = {"size_bytes": len(body), "offset": 0, "length": len(body)}
        wire.send({"ok": result, "body": "stream"})
        for start in range(0, 4 * _MIB, _DATA_SIZE):
            wire.send_data(body[start : start + _DATA_SIZE])
        outcome = session.outcome()
        if outcome.ok is None:
            raise FailedError("a served object that was left", f"outcome {outcome}")
        session.spoil(wire)
        other, _ = session.request()
        other.send({"ok": HEALTHY})
        session.expect_ok(HEALTH.op, HEALTHY)


@GROUP.must("5.7")
def sizes_of_the_end_that_do_not_match(client: Client) -> None:
    """A body whose `end` states another size than came fails, and so does its connection."""
    for size in (0, 11, 13, 2**53 - 1):
        with client.asked_to_serve() as (session, wire):
            wire.send({"ok": SERVED_HELLO, "body": "stream"})
            wire.send_data(HELLO.data)
            wire.send({"end": {"size_bytes": size}})
            session.spoil(wire)
            session.expect_error()


@GROUP.should("5.7")
def sha256_digest_of_the_end_that_does_not_match(client: Client) -> None:
    """A body whose `end` states another SHA-256 digest fails where the client computes it."""
    goodbye = objects()["goodbye"]
    call = Call(op="serve_object", args={"content_address": HELLO.sha256})
    with client.session(call, HEALTH) as session:
        wire, _ = session.request()
        wire.send({"ok": SERVED_HELLO, "body": "stream"})
        wire.send_data(HELLO.data)
        wire.send({"end": {"size_bytes": 12, "digest": goodbye.sha256}})
        session.spoil(wire)
        session.expect_error()
        wire, _ = session.request()
        wire.send({"ok": HEALTHY})


@GROUP.must("10")
def unknown_keys_in_an_answer_with_a_body(client: Client) -> None:
    """Keys that are not known are ignored in the answer and in its end."""
    with client.asked_to_serve() as (session, wire):
        later: Control = {"later": {"a": [None]}}
        wire.send({"ok": {**SERVED_HELLO, **later}, "body": "stream", **later})
        wire.send_data(HELLO.data)
        wire.send({"end": {"size_bytes": 12, **later}, **later})
        session.expect_ok(SERVE_HELLO.op, served_hello())


@GROUP.must("5.7")
def digest_of_an_unknown_algorithm_in_the_end(client: Client) -> None:
    """A digest that the client cannot compute says nothing."""
    with client.asked_to_serve() as (session, wire):
        wire.send({"ok": SERVED_HELLO, "body": "stream"})
        wire.send_data(HELLO.data)
        wire.send({"end": {"size_bytes": 12, "digest": f"later:{'00' * 20}"}})
        session.expect_ok(SERVE_HELLO.op, served_hello())


def require_told(received: int | None) -> int:
    """Give how many bytes were handed out, if the adapter tells."""
    if received is None:
        raise SkippedError("the adapter does not tell how many bytes were handed out")
    return received


@GROUP.must("12.4")
def last_piece_waits_for_the_end(client: Client) -> None:
    """Whoever is handed pieces as they come gets the last one only after the checked `end`."""
    with client.asked_to_serve() as (session, wire):
        wire.send({"ok": SERVED_HELLO, "body": "stream"})
        wire.send_data(HELLO.data)
        wire.close()
        outcome = session.expect_error(retry=True)
        received = require_told(outcome.received)
        if received >= len(HELLO.data):
            raise FailedError("the last piece kept back", f"{received} bytes given out")
