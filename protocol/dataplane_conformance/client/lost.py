"""Connections that end where they should not, or were closed while idle (`SPEC.md` 12)."""

from collections.abc import Callable
from typing import Final

from ..frames import control_frame
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
    NoRequestError,
    hear_hello,
)

GROUP: Final = Group[Client]()


@GROUP.must("12.3")
def lost_before_the_hello(client: Client) -> None:
    """A connection that ends before the hello of the server is an error to retry."""
    for waits in (True, False):
        with client.session(HEALTH) as session:
            wire = session.accept()
            if waits:
                hear_hello(wire)
            wire.close()
            session.expect_error(retry=True)


def _after_the_request(_: Wire) -> None:
    pass


def _in_the_answer(wire: Wire) -> None:
    wire.send_raw(control_frame({"ok": SERVED_HELLO, "body": "stream"})[:20])


def _after_the_answer(wire: Wire) -> None:
    wire.send({"ok": SERVED_HELLO, "body": "stream"})


def _in_a_data_frame(wire: Wire) -> None:
    _after_the_answer(wire)
    wire.send_raw(bytes.fromhex("0000000d4c68656c6c6f"))


def _after_the_data(wire: Wire) -> None:
    _after_the_answer(wire)
    wire.send_data(HELLO.data)


def _in_the_end(wire: Wire) -> None:
    _after_the_data(wire)
    wire.send_raw(control_frame({"end": {"size_bytes": 12}})[:-1])


_PLACES: Final[tuple[Callable[[Wire], None], ...]] = (
    _after_the_request,
    _in_the_answer,
    _after_the_answer,
    _in_a_data_frame,
    _after_the_data,
    _in_the_end,
)


@GROUP.must("12.3")
def lost_in_a_call(client: Client) -> None:
    """A new connection that ends anywhere in a call is an error to retry."""
    for place in _PLACES:
        with client.session(SERVE_HELLO) as session:
            wire, _ = session.request()
            place(wire)
            wire.close()
            try:
                session.expect_error(retry=True)
            except FailedError as exc:
                name = place.__name__.strip("_").replace("_", " ")
                raise FailedError(f"{exc.expected} for an end {name}", exc.got) from exc


@GROUP.should("12.3")
def new_connection_is_not_tried_twice(client: Client) -> None:
    """Only a reused connection may turn out stale; the end of a new one is told at once."""
    with client.session(HEALTH) as session:
        wire, _ = session.request()
        wire.close()
        session.expect_error(retry=True)
        if len(session.wires) != 1:
            raise FailedError("one connection", f"{len(session.wires)}")


@GROUP.should("12.3")
def stale_connection_is_tried_once_more(client: Client) -> None:
    """A request on a stale connection goes out once more, once, on a new connection."""
    with client.session(HEALTH, SERVE_HELLO) as session:
        first, _ = session.request()
        first.send({"ok": HEALTHY})
        session.expect_ok(HEALTH.op, HEALTHY)
        wire, request = session.request()
        if wire is not first:
            raise FailedError("the next call on the same connection", "another connection")
        wire.close()
        second, again = session.request()
        if again["op"] != request["op"]:
            raise FailedError("the same request once more", str(again["op"]))
        second.close()
        session.expect_error(retry=True)
        if len(session.wires) != 2:
            raise FailedError("two connections", f"{len(session.wires)}")


@GROUP.must("12.3")
def stale_connection_of_an_ingest(client: Client) -> None:
    """An ingest on a stale connection is sent again whole, or told as an error to retry."""
    ingest = Call(op="ingest_stream", args={}, body=HELLO.data)
    with client.session(HEALTH, ingest) as session:
        first, _ = session.request()
        first.send({"ok": HEALTHY})
        session.expect_ok(HEALTH.op, HEALTHY)
        wire, _ = session.request()
        wire.close()
        try:
            second, _ = session.request()
        except NoRequestError:
            # It was not tried again, which is allowed.
            session.expect_error(retry=True)
            return
        body = b""
        while isinstance(frame := second.receive(), bytes):
            body += frame
        if body != HELLO.data or not frame or "end" not in frame:
            raise FailedError("the whole body once more", f"{len(body)} bytes of it")
        second.send({"error": {"code": "no_space", "message": "as the kit says"}})
        session.expect_error("no_space")


@GROUP.must("12.2")
def unasked_bytes_on_an_idle_connection(client: Client) -> None:
    """A connection on which an unread byte is waiting is not used again."""
    stray = (b"\0", control_frame({"ok": HEALTHY}), control_frame({"end": {"size_bytes": 0}}))
    for data in stray:
        with client.session(HEALTH, HEALTH) as session:
            wire, _ = session.request()
            wire.send_raw(control_frame({"ok": HEALTHY}) + data)
            session.spoil(wire)
            # The answer was whole, so either may be made of it.
            session.outcome()
            other, _ = session.request()
            other.send({"ok": HEALTHY})
            session.expect_ok(HEALTH.op, HEALTHY)


@GROUP.should("12.2")
def idle_connection_is_used_again(client: Client) -> None:
    """Calls one after the other share a connection."""
    with client.session(*[HEALTH] * 5) as session:
        for _ in range(5):
            wire, _ = session.request()
            wire.send({"ok": HEALTHY})
            session.expect_ok(HEALTH.op, HEALTHY)
        if len(session.wires) != 1:
            raise FailedError("one connection for five calls", f"{len(session.wires)}")


@GROUP.must("5.10")
def server_that_closes_between_calls(client: Client) -> None:
    """A connection that is closed while idle is normal: the next call has another one."""
    with client.session(*[HEALTH] * 3) as session:
        for _ in range(3):
            wire, _ = session.request()
            wire.send({"ok": HEALTHY})
            wire.close()
            session.expect_ok(HEALTH.op, HEALTHY)
