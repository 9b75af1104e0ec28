"""The order of frames: answers, early refusals, aborts, violations (`SPEC.md` 5)."""

from collections.abc import Callable
from typing import Final, cast

from ..frames import Control, control_frame, data_frame
from ..verdicts import FailedError, Group, shown
from ..wire import Wire
from .subject import (
    DATA_SIZE,
    Daemon,
    check,
    end_of,
    expect,
    expect_error,
    expect_ingested,
    expect_violation,
)

GROUP: Final = Group[Daemon]()

_INGEST: Final[Control] = {"op": "ingest_stream", "args": {}, "body": "stream"}
_REFUSED: Final = {**_INGEST, "args": {"primary_algorithm": "no-such"}}
_CANCELLED: Final[Control] = {"error": {"code": "cancelled", "message": ""}}
_LIST_BACKENDS: Final[Control] = {"op": "list_backends", "args": {}}
_MIB: Final = 1024 * 1024


@GROUP.must("5.2")
def no_answer_before_the_end_of_the_body(daemon: Daemon) -> None:
    """`ok` waits for the end of the body."""
    wire = daemon.greet()
    wire.send(_INGEST)
    data = daemon.fresh()
    wire.send_data(data)
    check(wire.is_quiet(0.3), "silence until the end of the body", "an answer")
    wire.send(end_of(data))
    expect_ingested(wire)


@GROUP.must("5.2")
def many_calls_on_one_connection(daemon: Daemon) -> None:
    """Each request has exactly one answer, in the order of the requests."""
    wire = daemon.greet()
    backend = str(daemon.call(wire, "list_backends")["default"])
    for _ in range(20):
        check(
            daemon.call(wire, "backend_health")["backend_id"] == backend, "the default", "another"
        )
        daemon.refused(wire, "backend_health", "unknown_backend", backend_id="no-such-backend")
        daemon.ingest(wire, daemon.fresh())
    check(wire.is_quiet(0.1), "silence", "one answer more")


@GROUP.must("5.2")
def pipelined_next_request(daemon: Daemon) -> None:
    """A request sent before the last call is over is answered in turn, or is a violation."""
    wire = daemon.greet()
    wire.halves.is_broken = True
    wire.send_bytes(control_frame(_LIST_BACKENDS) * 2)
    wire.op = "list_backends"
    for _ in range(2):
        frame = wire.receive()
        if isinstance(frame, dict) and "ok" in frame:
            continue
        if frame is None or isinstance(frame, bytes) or "error" not in frame:
            raise FailedError("an answer, or error protocol", shown(frame))
        break
    daemon.is_alive()


@GROUP.must("5.3")
def refused_before_the_body(daemon: Daemon) -> None:
    """A refusal does not wait for the body, and the connection stays in use."""
    wire = daemon.greet()
    wire.send(_REFUSED)
    expect_error(wire, "unsupported")
    wire.send(_CANCELLED)
    daemon.call(wire, "list_backends")


@GROUP.must("5.3")
def refused_while_the_body_is_sent_without_reading(daemon: Daemon) -> None:
    """8 MiB of a refused body are taken although nobody reads, and answered once."""
    wire = daemon.greet()
    data = bytes(DATA_SIZE)
    wire.send_bytes(wire.made(_REFUSED) + wire.made_data(data) * 32)
    wire.send_bytes(wire.made(end_of(data * 32)))
    expect_error(wire, "unsupported")
    # A second answer would be taken for that of the next call.
    expect_call(daemon, wire)


def expect_call(daemon: Daemon, wire: Wire) -> None:
    """Check that a call on the connection is answered as itself."""
    result = daemon.call(wire, "list_backends")
    check("default" in result, "the answer of list_backends", result)


@GROUP.must("5.3")
def refused_body_of_64_mib(daemon: Daemon) -> None:
    """As much as a server has to discard is discarded, and the connection stays in use."""
    wire = daemon.greet()
    wire.send({"op": "no_such_operation", "args": {}, "body": "stream"})
    expect_error(wire, "unsupported")
    data = bytes(_MIB)
    for _ in range(64):
        wire.send_data(data)
    wire.send({"end": {"size_bytes": 64 * _MIB}})
    expect_call(daemon, wire)


@GROUP.must("5.3")
def end_of_a_refused_body_is_not_judged(daemon: Daemon) -> None:
    """After the refusal nothing more is answered, whatever the end of the body says."""
    wire = daemon.greet()
    wire.send(_REFUSED)
    expect_error(wire, "unsupported")
    wire.send_data(b"three")
    wire.send({"end": {"size_bytes": 3, "digest": f"sha256:{'0' * 64}"}})
    expect_call(daemon, wire)


@GROUP.must("5.3")
def ingest_after_a_refused_one(daemon: Daemon) -> None:
    """Nothing of a refused body is left over for the next one."""
    wire = daemon.greet()
    wire.send(_REFUSED)
    expect_error(wire, "unsupported")
    wire.send_data(b"left over")
    wire.send(_CANCELLED)
    daemon.ingest(wire, daemon.fresh())


@GROUP.must("5.4")
def aborts_store_nothing(daemon: Daemon) -> None:
    """An abort is answered with `cancelled`, whatever was sent and its code; nothing is stored."""
    wire = daemon.greet()
    for size, code in ((0, "internal"), (20, "cancelled"), (3 * _MIB, "not_found")):
        wire.send(_INGEST)
        data = daemon.fresh(size) if size else b""
        for start in range(0, size, DATA_SIZE):
            wire.send_data(data[start : start + DATA_SIZE])
        name = wire.own_body.sha256
        wire.send({"error": {"code": code, "message": "given up"}})
        expect_error(wire, "cancelled")
        if size:
            check(daemon.stat(wire, [name]) == [], "nothing stored", "the object of an abort")


def _cut_off(daemon: Daemon, data: bytes, tail: bytes) -> None:
    wire = daemon.greet()
    wire.send(_INGEST)
    for start in range(0, len(data), DATA_SIZE):
        wire.send_data(data[start : start + DATA_SIZE])
    name = wire.own_body.sha256
    wire.send_bytes(tail)
    wire.shut_down_writing()
    # Its answer or its end: by then it has dealt with what came.
    while wire.receive() is not None:
        pass
    wire.close()
    left = daemon.stat(daemon.greet(), [name])
    check(left == [], "nothing stored of a body that was cut off", left)


@GROUP.must("5.6")
def end_of_the_connection_in_a_body(daemon: Daemon) -> None:
    """A body cut off between two frames stores nothing."""
    _cut_off(daemon, daemon.fresh(), b"")
    _cut_off(daemon, daemon.fresh(2 * _MIB), b"")


@GROUP.must("5.6")
def end_of_the_connection_in_a_data_frame(daemon: Daemon) -> None:
    """A body cut off inside a data frame stores nothing."""
    _cut_off(daemon, daemon.fresh(), data_frame(bytes(1000))[:500])


@GROUP.must("5.6")
def end_of_the_connection_in_the_end(daemon: Daemon) -> None:
    """A body cut off inside its `end` stores nothing."""
    data = daemon.fresh()
    _cut_off(daemon, data, control_frame(end_of(data))[:-1])


@GROUP.must("5.6")
def abandoned_calls(daemon: Daemon) -> None:
    """Whoever closes while a serve or a verify is under way harms nobody."""
    large = daemon.large()
    wire = daemon.greet()
    daemon.ingest(wire, large.data)
    for op in ("serve_object", "verify_object"):
        for takes in (0, 1):
            leaver = daemon.greet()
            leaver.send({"op": op, "args": {"content_address": large.blake3}})
            for _ in range(takes):
                leaver.receive()
            leaver.close()
    check(daemon.serve(wire, large.blake3) == large.data, "the object", "something else")
    daemon.call(wire, "delete_object", content_address=large.blake3)


@GROUP.should("5.2")
def idle_connection_is_closed_without_a_word(daemon: Daemon) -> None:
    """The end of an idle connection is answered with the end."""
    for wire in (daemon.greet(), daemon.dial()):
        wire.shut_down_writing()
        frame = wire.receive()
        check(frame is None, "the end of the connection", frame)


def _after_a_call(wire: Wire) -> None:
    wire.send(_LIST_BACKENDS)
    expect(wire, {"ok": {}})


def _after_an_end(wire: Wire) -> None:
    """Leave the wire behind a whole ingest whose answer is on its way."""
    wire.send(_INGEST)
    wire.send(end_of(b""))


def _after_a_request_with_body(wire: Wire) -> None:
    wire.send(_INGEST)


_STRAY: Final = {
    "data": data_frame(b"stray"),
    "end": control_frame(end_of(b"")),
    "error": control_frame(_CANCELLED),
    "ok": control_frame({"ok": {}}),
    "hello": control_frame({"hello": {"version": 1, "features": []}}),
}


def _expect_stray_refused(
    daemon: Daemon, prepare: Callable[[Wire], None], names: tuple[str, ...]
) -> None:
    for name in names:
        wire = daemon.greet()
        prepare(wire)
        wire.send_raw(_STRAY[name])
        frame = wire.receive()
        if isinstance(frame, dict) and "ok" in frame:
            frame = wire.receive()
        error = frame.get("error") if isinstance(frame, dict) else None
        is_told = isinstance(error, dict) and cast("Control", error)["code"] == "protocol"
        check(is_told, f"error protocol after a stray {name}", frame)
        closed = wire.receive()
        check(closed is None, f"the end of the connection after a stray {name}", closed)


@GROUP.must("5.9")
def stray_frames_while_no_call_is_open(daemon: Daemon) -> None:
    """Only a request may come between calls, also before the first one."""
    _expect_stray_refused(daemon, lambda _: None, tuple(_STRAY))
    _expect_stray_refused(daemon, _after_a_call, tuple(_STRAY))


@GROUP.must("5.9")
def stray_frames_in_a_body(daemon: Daemon) -> None:
    """Only data, `end` and `error` may come in a body."""
    _expect_stray_refused(daemon, _after_a_request_with_body, ("ok", "hello"))


@GROUP.must("5.9")
def stray_frames_after_the_end(daemon: Daemon) -> None:
    """After its `end` the body is over, answered or not."""
    daemon.known("empty")
    _expect_stray_refused(daemon, _after_an_end, ("data", "end", "error", "ok"))


@GROUP.must("5.9")
def violation_costs_its_own_connection_only(daemon: Daemon) -> None:
    """A body that is open elsewhere goes on."""
    wire = daemon.greet()
    wire.send(_INGEST)
    data = daemon.fresh()
    wire.send_data(data)
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", b"\0\0\0\x01\x40"):
        other = daemon.greet()
        other.send_raw(garbage)
        expect_violation(other)
    wire.send(end_of(data))
    expect_ingested(wire)


@GROUP.must("5.9")
def violation_in_a_body_stores_nothing(daemon: Daemon) -> None:
    """What was open when the violation came is gone."""
    wire = daemon.greet()
    wire.send(_INGEST)
    wire.send_data(daemon.fresh())
    name = wire.own_body.sha256
    wire.send_raw(_STRAY["hello"])
    expect_violation(wire)
    left = daemon.stat(daemon.greet(), [name])
    check(left == [], "nothing stored", left)
