"""Errors, odd results, and what must not be taken for an answer (`SPEC.md` 4, 8 and 10)."""

import time
from typing import Final, cast

from ..frames import Control, control_frame
from ..malformed import malformed
from ..verdicts import FailedError, Group
from ..wire import Wire
from .adapter import Call
from .subject import (
    HEALTH,
    HEALTHY,
    HELLO,
    SERVE_HELLO,
    SERVED_HELLO,
    Client,
    hear_hello,
    served_hello,
)

GROUP: Final = Group[Client]()

_CODES: Final = (
    *("bad_request", "unsupported", "denied", "not_found", "unknown_backend", "out_of_range"),
    *("too_large", "no_space", "conflict", "body_mismatch", "corrupt", "unavailable"),
    *("cancelled", "internal", "no_such_code"),
)

_LATER: Final[Control] = {"later": [1, {"a": None}, b"\0"], "zzz": {"b": True}}


@GROUP.must("4")
def waits_for_the_hello_of_the_server(client: Client) -> None:
    """The client says nothing more before it has read the server's hello."""
    with client.session(HEALTH) as session:
        wire = session.accept()
        hear_hello(wire)
        if not wire.is_quiet(0.3):
            raise FailedError("silence until the hello of the server", "more bytes")
        wire.send({"hello": {"version": 1, "features": []}})
        session.request()
        wire.send({"ok": HEALTHY})
        session.expect_ok(HEALTH.op, HEALTHY)


@GROUP.must("4")
def hello_with_unknown_keys(client: Client) -> None:
    """Keys of the hello that are not known are ignored."""
    with client.session(HEALTH) as session:
        wire = session.accept()
        hear_hello(wire)
        wire.send({"hello": {"version": 1, "features": [], "agent": "kit", **_LATER}, **_LATER})
        session.request()
        wire.send({"ok": HEALTHY})
        session.expect_ok(HEALTH.op, HEALTHY)


@GROUP.must("4")
def other_errors_in_place_of_the_hello(client: Client) -> None:
    """A refusal of the connection is the outcome of the call, with its code and `retry`."""
    for code, retry in (("unsupported", False), ("internal", False), ("no_such_code", True)):
        with client.session(HEALTH) as session:
            wire = session.accept()
            hear_hello(wire)
            wire.send(_error(code, retry=retry))
            wire.close()
            session.expect_error(code, retry=retry)


@GROUP.must("8.1")
def codes_and_retry_in_every_combination(client: Client) -> None:
    """The code and `retry` of an answer are what the caller is told."""
    for code in _CODES:
        for retry in (True, False):
            with client.asked_to_serve() as (session, wire):
                wire.send(_error(code, retry=retry))
                session.expect_error(code, retry=retry)


@GROUP.must("8.2")
def retry_that_is_said_to_be_false(client: Client) -> None:
    """`retry` false is the same as none."""
    with client.asked_to_serve() as (session, wire):
        wire.send({"error": {"code": "unavailable", "message": "", "retry": False}})
        session.expect_error("unavailable", retry=False)


@GROUP.must("10")
def unknown_keys_in_an_error(client: Client) -> None:
    """Keys of an error that are not known are ignored, in its details too."""
    with client.asked_to_serve() as (session, wire):
        details = {"size_bytes": 5, **_LATER}
        wire.send({"error": {"code": "out_of_range", "message": "", "details": details, **_LATER}})
        session.expect_error("out_of_range", retry=False)


@GROUP.must("5.5")
def errors_in_place_of_the_end(client: Client) -> None:
    """A body that ends in an error fails the call with this error."""
    for code, retry in (("corrupt", False), ("unavailable", True), ("no_such_code", True)):
        for sent in (0, 5, 12):
            with client.asked_to_serve() as (session, wire):
                wire.send({"ok": SERVED_HELLO, "body": "stream"})
                if sent:
                    wire.send_data(HELLO.data[:sent])
                wire.send(_error(code, retry=retry))
                outcome = session.expect_error(code, retry=retry)
                received = outcome.received
                if received is not None and received >= len(HELLO.data):
                    raise FailedError("the last piece kept back", f"{received} bytes given out")


@GROUP.must("10")
def unknown_keys_in_every_result(client: Client) -> None:
    """Keys of a result that are not known are ignored, in every map."""
    asked = {"content_address": HELLO.blake3}
    deleted: Control = {**asked, "backend_id": "default", "deleted": True}
    stat = Call(op="stat_objects", args={"content_addresses": [HELLO.blake3]})
    answers: tuple[tuple[Call, Control], ...] = (
        (HEALTH, HEALTHY),
        (Call(op="list_backends"), {"backends": [HEALTHY], "default": "default"}),
        (stat, {"objects": [_entry()]}),
        (Call(op="list_objects"), {"objects": [_entry()], "more": False}),
        (Call(op="delete_object", args=asked), deleted),
        (Call(op="verify_object", args=asked), _verified()),
    )
    with client.session(*(call for call, _ in answers)) as session:
        for call, result in answers:
            wire, _ = session.request()
            wire.send({"ok": cast("Control", _with_later(result)), **_LATER})
            session.expect_ok(call.op, result)


def _with_later(value: object) -> object:
    """Add unknown keys to every map within a result."""
    if isinstance(value, list):
        return [_with_later(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    entries = cast("Control", value)
    return {**{key: _with_later(item) for key, item in entries.items()}, **_LATER}


@GROUP.must("10")
def unknown_words_are_passed_on(client: Client) -> None:
    """Words of later versions in `state` and `outcome` are no reason to fail."""
    stat = Call(op="stat_objects", args={"content_addresses": [HELLO.blake3]})
    with client.session(HEALTH, stat) as session:
        wire, _ = session.request()
        status = {**HEALTHY, "state": "resting", "message": "it is late"}
        wire.send({"ok": status})
        session.expect_ok(HEALTH.op, status)
        wire, _ = session.request()
        result = {"objects": [{**_entry(), "state": "frozen"}]}
        wire.send({"ok": result})
        session.expect_ok(stat.op, result)


@GROUP.must("3")
def encodings_that_a_receiver_must_refuse(client: Client) -> None:
    """What is not well-formed, or outside the profile, is a violation wherever it stands."""
    for name, data in malformed({"end": {"size_bytes": len(HELLO.data)}}):
        with client.asked_to_serve() as (session, wire):
            wire.send({"ok": SERVED_HELLO, "body": "stream"})
            wire.send_data(HELLO.data)
            wire.send_raw(data)
            session.spoil(wire)
            try:
                session.expect_error("protocol", retry=False)
            except FailedError as exc:
                raise FailedError(f"{exc.expected} for {name}", exc.got) from exc


_BROKEN_STATUS: Final[tuple[Control, ...]] = (
    {},
    {"backend_id": "default", "state": "ok"},
    {**HEALTHY, "writable": 1},
    {**HEALTHY, "state": None},
    {**HEALTHY, "free_bytes": -1},
    {**HEALTHY, "free_bytes": "1"},
    {**HEALTHY, "object_count": None},
    {**HEALTHY, "backend_id": b"default"},
)


@GROUP.must("5.9")
def results_that_break_the_schema(client: Client) -> None:
    """A result that lacks a field or has one of a wrong type fails the call."""
    with client.session(*[HEALTH] * len(_BROKEN_STATUS), HEALTH) as session:
        for status in _BROKEN_STATUS:
            wire, _ = session.request()
            wire.send({"ok": status})
            session.spoil(wire)
            session.expect_error("protocol", retry=False)
        _end_well(session.request()[0])
        session.expect_ok(HEALTH.op, HEALTHY)


@GROUP.must("5.9")
def served_sizes_that_contradict_each_other(client: Client) -> None:
    """A range of an answer that does not fit its object fails the call."""
    for result in (
        {**SERVED_HELLO, "length": 13},
        {**SERVED_HELLO, "offset": 1},
        {**SERVED_HELLO, "size_bytes": 11},
    ):
        with client.asked_to_serve() as (session, wire):
            wire.send_raw(control_frame({"ok": result, "body": "stream"}))
            session.spoil(wire)
            session.expect_error("protocol", retry=False)


@GROUP.must("5.9")
def protocol_error_in_place_of_an_answer(client: Client) -> None:
    """A server that breaks off is left: its connection is not used again."""
    with client.session(HEALTH, HEALTH) as session:
        wire, _ = session.request()
        wire.send(_error("protocol", retry=False))
        session.spoil(wire)
        session.expect_error("protocol", retry=False)
        _end_well(session.request()[0])
        session.expect_ok(HEALTH.op, HEALTHY)


@GROUP.must("5.2")
def answers_in_single_bytes(client: Client) -> None:
    """It means nothing where the writes of a server begin and end."""
    with client.session(SERVE_HELLO) as session:
        wire = session.accept()
        hear_hello(wire)
        wire.send_apart(wire.made({"hello": {"version": 1, "features": []}}))
        session.request()
        frames = wire.made({"ok": SERVED_HELLO, "body": "stream"})
        frames += b"".join(wire.made_data(HELLO.data[at : at + 1]) for at in range(12))
        wire.send_apart(frames + wire.made({"end": {"size_bytes": 12}}))
        session.expect_ok(SERVE_HELLO.op, served_hello())


@GROUP.must("5.2")
def answers_that_take_their_time(client: Client) -> None:
    """An answer that comes late, or in two parts, is an answer."""
    with client.session(HEALTH) as session:
        wire, _ = session.request()
        frame = wire.made({"ok": HEALTHY})
        time.sleep(0.3)
        wire.send_bytes(frame[:7])
        time.sleep(0.3)
        wire.send_bytes(frame[7:])
        session.expect_ok(HEALTH.op, HEALTHY)


def _end_well(wire: Wire) -> None:
    wire.send({"ok": HEALTHY})


def _error(code: str, *, retry: bool) -> Control:
    error: Control = {"code": code, "message": "as the kit says"}
    return {"error": {**error, "retry": True} if retry else error}


def _entry() -> Control:
    return {
        "content_address": HELLO.blake3,
        "sha256_digest": HELLO.sha256,
        "size_bytes": len(HELLO.data),
        "generation": 7,
        "stored_at_ms": 1_790_000_000_000,
    }


def _verified() -> Control:
    return {
        "content_address": HELLO.blake3,
        "verified": False,
        "actual_primary_digest": HELLO.blake3,
        "actual_sha256_digest": HELLO.sha256,
        "actual_size_bytes": 12,
        "mismatch": "as the kit says",
    }
