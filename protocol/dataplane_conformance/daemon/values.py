"""Addresses, integers, limits, unknown things and errors (`SPEC.md` 3, 6, 8, 9 and 10)."""

from typing import Final, cast

from ..cbor import encode
from ..frames import MAX_CONTROL_SIZE, Control, Frame, control_frame, frame
from ..malformed import malformed
from ..verdicts import FailedError, Group, SkippedError, shown
from ..wire import Wire
from .subject import Daemon, check, end_of, expect, expect_closed, expect_error, expect_violation

GROUP: Final = Group[Daemon]()

_ADDRESSED: Final = ("serve_object", "verify_object", "delete_object")

_MALFORMED: Final[tuple[object, ...]] = (
    "",
    "blake3",
    "blake3:",
    f":{'0' * 64}",
    f"blake3:{'0' * 63}",
    f"blake3:{'0' * 62}",
    f"sha256:{'0' * 66}",
    f"blake3:{'A' * 64}",
    f"BLAKE3:{'0' * 64}",
    f"blake3:{'g' * 64}",
    f"blake3:{'0' * 64}\n",
    f" blake3:{'0' * 64}",
    f"blake3:{'0' * 64}:",
    f"{'x' * 33}:00",
    f"1x:{'0' * 64}",
    f"md5:{'0' * 130}",
    "../../etc/passwd",
    b"blake3",
    0,
    True,
    None,
    ["blake3"],
    {},
)


@GROUP.must("6.1")
def malformed_addresses(daemon: Daemon) -> None:
    """An address that is none is `bad_request` in every operation, and costs only the call."""
    wire = daemon.greet()
    for address in _MALFORMED:
        for op in _ADDRESSED:
            daemon.refused(wire, op, "bad_request", content_address=address)
        daemon.refused(wire, "stat_objects", "bad_request", content_addresses=[address])
    for op in _ADDRESSED:
        daemon.refused(wire, op, "bad_request")


@GROUP.must("6.1")
def addresses_of_other_algorithms(daemon: Daemon) -> None:
    """A well-formed address of another algorithm is `unsupported` in every operation."""
    wire = daemon.greet()
    for address in (f"md5:{'0' * 32}", f"sha512:{'0' * 128}", "a:00", f"{'x' * 32}:00"):
        for op in _ADDRESSED:
            daemon.refused(wire, op, "unsupported", content_address=address)
        daemon.refused(wire, "stat_objects", "unsupported", content_addresses=[address])
        daemon.refused(wire, "list_objects", "unsupported", after=address)


@GROUP.must("6.4")
def integers_out_of_bounds(daemon: Daemon) -> None:
    """A negative integer is `bad_request`; the largest one is not."""
    wire = daemon.greet()
    name = f"blake3:{'0' * 64}"
    daemon.refused(wire, "delete_object", "bad_request", content_address=name, if_generation=-1)
    result = daemon.call(wire, "delete_object", content_address=name, if_generation=2**53 - 1)
    check(result["deleted"] is False, "deleted false", result)
    wire.send({"op": "ingest_stream", "args": {"size_hint": -1}, "body": "stream"})
    expect_error(wire, "bad_request")


@GROUP.must("6.4")
def integers_beyond_the_largest(daemon: Daemon) -> None:
    """An integer over 2^53-1 is refused, as an argument or as a violation."""
    for number in (2**53, 2**63, 2**64 - 1, -(2**53)):
        wire = daemon.greet()
        args = {"content_address": f"blake3:{'0' * 64}", "if_generation": number}
        wire.send({"op": "delete_object", "args": args})
        expect_error(wire, "bad_request", "protocol")


@GROUP.must("2.3")
def null_is_not_absent(daemon: Daemon) -> None:
    """Null in place of an absent field is a value of the wrong type."""
    wire = daemon.greet()
    for op, args in (
        ("backend_health", {"backend_id": None}),
        ("list_objects", {"after": None}),
        ("list_objects", {"limit": None}),
        ("delete_object", {"content_address": f"blake3:{'0' * 64}", "if_generation": None}),
    ):
        daemon.refused(wire, op, "bad_request", **args)
    for extra in ({"body": None}, {"trace": None}, {"accept_fd": None}):
        broken = daemon.greet()
        broken.send_raw(control_frame({"op": "list_backends", "args": {}, **extra}))
        expect_violation(broken)


@GROUP.must("3")
def encodings_that_a_receiver_must_refuse(daemon: Daemon) -> None:
    """What is not well-formed, or outside the profile, is a violation wherever it stands."""
    for name, data in malformed({"op": "list_backends", "args": {}}):
        wire = daemon.greet()
        wire.op = "list_backends"
        wire.send_raw(data)
        try:
            expect_violation(wire)
        except FailedError as exc:
            raise FailedError(f"{exc.expected} for {name}", exc.got) from exc


@GROUP.must("3")
def encodings_that_a_receiver_may_refuse(daemon: Daemon) -> None:
    """A longer head or unsorted keys are read, or refused as a violation."""
    op, args = encode("op") + encode("list_backends"), encode("args") + b"\xa0"
    for item in (
        b"\xa2" + args + op,
        b"\xb8\x02" + op + args,
        b"\xa2\x78\x02op" + encode("list_backends") + args,
        b"\xa2" + op + encode("args") + b"\xb9\0\0",
        b"\xa3" + op + args + encode("later") + b"\xf9\x3c\0",
        b"\xa3" + op + args + encode("later") + b"\xf7",
        b"\xa3" + op + args + encode("later") + encode(2**64 - 1),
    ):
        wire = daemon.greet()
        wire.halves.is_broken = True
        wire.op = "list_backends"
        wire.send_bytes(frame(item))
        answer = wire.receive()
        if not (isinstance(answer, dict) and "ok" in answer):
            _check_told(answer)
            expect_closed(wire)


def _check_told(answer: Frame | None) -> None:
    error = answer.get("error") if isinstance(answer, dict) else None
    is_told = isinstance(error, dict) and cast("Control", error)["code"] == "protocol"
    check(is_told, "an answer, or error protocol and the end", answer)


def _request_of(size: int) -> bytes:
    """Give a request whose item has exactly so many bytes."""
    request: Control = {"op": "list_backends", "args": {}, "later": ""}
    for _ in range(2):
        request["later"] = "x" * (size - len(encode(request)) + len(str(request["later"])))
    assert len(encode(request)) == size
    return control_frame(request)


@GROUP.must("9")
def largest_control_frame(daemon: Daemon) -> None:
    """A control frame may have 65,536 bytes, and not one more."""
    wire = daemon.greet()
    for _ in range(3):
        _ = wire.made({"op": "list_backends", "args": {}})
        wire.send_bytes(_request_of(MAX_CONTROL_SIZE))
        expect(wire, {"ok": {}})
    wire.send_raw(_request_of(MAX_CONTROL_SIZE + 1))
    expect_violation(wire)


@GROUP.must("9")
def deepest_nesting(daemon: Daemon) -> None:
    """8 containers within each other are read, and 9 are a violation."""
    wire = daemon.greet()
    for make in (_listed, _mapped):
        request: Control = {"op": "list_backends", "args": {"later": make(6)}}
        wire.send(request)
        expect(wire, {"ok": {}})
        broken = daemon.greet()
        broken.send_raw(control_frame({**request, "args": {"later": make(7)}}))
        expect_violation(broken)


def _listed(depth: int) -> object:
    return [_listed(depth - 1)] if depth else 1


def _mapped(depth: int) -> object:
    return {"a": _mapped(depth - 1)} if depth else 1


_LATER: Final[Control] = {
    "later": [1, {"a": None}, "text", b"bytes", -1, 2**53 - 1, True],
    "zzz": {"b": False},
    "": b"",
}


@GROUP.must("10")
def unknown_keys_everywhere(daemon: Daemon) -> None:
    """Keys that are not known are ignored in every map that a client sends."""
    wire = daemon.dial()
    wire.send({"hello": {"version": 1, "features": [], **_LATER}, **_LATER})
    expect(wire, {"hello": {}})
    data = daemon.fresh()
    wire.send({"op": "ingest_stream", "args": dict(_LATER), "body": "stream", **_LATER})
    wire.send_data(data)
    wire.send({"end": {"size_bytes": len(data), **_LATER}, **_LATER})
    expect(wire, {"ok": {"size_bytes": len(data)}})
    args = {"content_address": wire.own_body.sha256, "byte_range": {"offset": 1, **_LATER}}
    wire.send({"op": "serve_object", "args": {**args, **_LATER}, **_LATER})
    expect(wire, {"ok": {"offset": 1}, "body": "stream"})
    while isinstance(wire.receive(), bytes):
        pass
    wire.send({"op": "ingest_stream", "args": {}, "body": "stream"})
    wire.send({"error": {"code": "cancelled", "message": "", **_LATER}, **_LATER})
    expect_error(wire, "cancelled")


@GROUP.must("10")
def unknown_operations(daemon: Daemon) -> None:
    """An operation that is not known is `unsupported`, with a body or without, and no more."""
    wire = daemon.greet()
    names = ("no_such_operation", "", "INGEST_STREAM", "ingest_stream ", "x" * 60_000, "\0\n")
    for name in names:
        daemon.refused(wire, name, "unsupported")
        wire.send({"op": name, "args": {"later": 1}, "body": "stream"})
        wire.send_data(b"x" * 1000)
        wire.send(end_of(b"x" * 1000))
        expect_error(wire, "unsupported")
    daemon.call(wire, "list_backends")


@GROUP.must("2.3")
def trace_changes_nothing(daemon: Daemon) -> None:
    """A `trace` is for logs, whatever is in it."""
    wire = daemon.greet()
    for trace in ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "", "\0\r\n\x1b[0m"):
        wire.send({"op": "list_backends", "args": {}, "trace": trace})
        expect(wire, {"ok": {}})


@GROUP.must("8")
def arguments_of_wrong_types(daemon: Daemon) -> None:
    """A fault in `args` is `bad_request` and costs only the call."""
    wire = daemon.greet()
    cases: tuple[tuple[str, Control], ...] = (
        ("backend_health", {"backend_id": 1}),
        ("list_objects", {"limit": b"1"}),
        ("stat_objects", {"content_addresses": f"blake3:{'0' * 64}"}),
        ("stat_objects", {"content_addresses": {}}),
        ("delete_object", {"content_address": f"blake3:{'0' * 64}", "if_generation": "1"}),
    )
    for op, args in cases:
        daemon.refused(wire, op, "bad_request", **args)
    hints: tuple[Control, ...] = (
        {"size_hint": "1"},
        {"primary_algorithm": 1},
        {"backend_id": []},
    )
    for args in hints:
        wire.send({"op": "ingest_stream", "args": args, "body": "stream"})
        expect_error(wire, "bad_request")
        wire.send({"error": {"code": "cancelled", "message": ""}})
    daemon.call(wire, "list_backends")


def _errors(daemon: Daemon) -> list[Control]:
    """Give all errors that were heard, after provoking one of each plain kind."""
    wire: Wire = daemon.greet()
    name = f"blake3:{'0' * 64}"
    daemon.refused(wire, "serve_object", "not_found", content_address=name)
    daemon.refused(wire, "serve_object", "bad_request", content_address="\0\n\x1b[31m" * 20)
    daemon.refused(wire, "backend_health", "unknown_backend", backend_id="\0\n/etc/\x1b[31m")
    daemon.refused(wire, "no\nsuch\0operation", "unsupported")
    broken = daemon.greet()
    broken.send_raw(b"\xff\xff\xff\xff")
    expect_violation(broken)
    return daemon.errors


@GROUP.should("8")
def messages_are_one_line(daemon: Daemon) -> None:
    """A message is one line for people, without control characters, paths or stacks."""
    for error in _errors(daemon):
        message = str(error["message"])
        is_plain = all(char.isprintable() for char in message)
        check(is_plain and "Traceback" not in message, "one plain line", shown(message))


@GROUP.should("8.1")
def retry_is_as_in_the_table(daemon: Daemon) -> None:
    """`unavailable` may be tried again, and what the caller has to mend may not."""
    never = (
        *("bad_request", "unsupported", "not_found", "unknown_backend", "out_of_range"),
        *("conflict", "body_mismatch", "cancelled", "protocol"),
    )
    for error in _errors(daemon):
        code, retry = error["code"], error.get("retry", False)
        wanted = {"unavailable": True}.get(str(code), False if code in never else retry)
        check(retry is wanted, f"retry {wanted} with {code}", shown(error))


@GROUP.must("8.1")
def codes_are_those_of_the_table(daemon: Daemon) -> None:
    """Nothing that a client does wrong is answered with `internal`."""
    bad = [error for error in _errors(daemon) if error["code"] == "internal"]
    if bad:
        raise FailedError("a code that says what is wrong", shown(bad[0]))
    if not daemon.errors:
        raise SkippedError("no error was heard")
