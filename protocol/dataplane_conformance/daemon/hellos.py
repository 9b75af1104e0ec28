"""Hello and features (`SPEC.md` 4 and 4.1)."""

import time
from typing import Final, cast

from ..frames import Control
from ..verdicts import FailedError, Group, SkippedError, shown
from ..wire import Wire
from .subject import (
    Daemon,
    check,
    expect,
    expect_closed,
    expect_error,
    expect_violation,
)

GROUP: Final = Group[Daemon]()

_HELLO: Final[Control] = {"hello": {"version": 1, "features": []}}

#: Connections after which a daemon is taken not to bound them.
_MANY: Final = 64


@GROUP.must("4.1")
def features_are_those_that_were_offered(daemon: Daemon) -> None:
    """What is enabled is a subset of what was offered, each once."""
    for offered in ([], ["no-such-feature"], ["serve_fd"], ["serve_fd", "ingest_fd", "later"]):
        wire = daemon.greet(offered)
        features = wire.features
        check(set(features) <= set(offered), f"a subset of {offered}", features)
        check(len(set(features)) == len(features), "each feature once", features)
        daemon.call(wire, "list_backends")


@GROUP.must("4.1")
def feature_offered_twice(daemon: Daemon) -> None:
    """A feature that is listed twice is no reason to refuse."""
    daemon.call(daemon.greet(["serve_fd", "serve_fd", ""]), "list_backends")


@GROUP.must("4")
def versions_that_are_not_1(daemon: Daemon) -> None:
    """Another version is answered with `unsupported` and the versions there are, and a close."""
    for version in (0, 2, 2**53 - 1):
        wire = daemon.dial()
        wire.send({"hello": {"version": version, "features": ["serve_fd"]}})
        details = expect_error(wire, "unsupported").get("details")
        check(details == {"versions": [1]}, "details {'versions': [1]}", details)
        expect_closed(wire)


@GROUP.must("4")
def answers_the_hello_with_version_1(daemon: Daemon) -> None:
    """The hello of the server has version 1 and a list of features."""
    wire = daemon.dial()
    wire.send(_HELLO)
    expect(wire, {"hello": {"version": 1, "features": []}})


@GROUP.must("4")
def says_nothing_more_after_its_hello(daemon: Daemon) -> None:
    """After both hellos nobody has anything to say but the client."""
    wire = daemon.greet()
    check(wire.is_quiet(0.2), "silence", "bytes that nobody asked for")


@GROUP.must("5.2")
def connection_ends_before_the_hello(daemon: Daemon) -> None:
    """Whoever connects and says nothing harms nobody."""
    for data in (b"", b"\0", b"\0\0\0\x1b\xa1"):
        wire = daemon.dial()
        wire.send_raw(data)
        wire.close()
    daemon.is_alive()


@GROUP.must("5.2")
def request_behind_the_hello(daemon: Daemon) -> None:
    """A request that does not wait for the hello is answered, or is a violation."""
    wire = daemon.dial()
    hello = wire.made(_HELLO)
    wire.halves.is_broken = True
    wire.send_bytes(hello + wire.made({"op": "list_backends", "args": {}}))
    frame = wire.receive()
    if isinstance(frame, dict) and "hello" in frame:
        frame = wire.receive()
    if not (isinstance(frame, dict) and "ok" in frame):
        code = cast("Control", frame["error"])["code"] if isinstance(frame, dict) else None
        check(code == "protocol", "an answer or error protocol", shown(frame))
        expect_closed(wire)


@GROUP.must("5.1")
def frames_other_than_a_hello(daemon: Daemon) -> None:
    """Every proper frame but a hello is a violation as the first one."""
    frames: tuple[Control | bytes, ...] = (
        {"op": "ingest_stream", "args": {}, "body": "stream"},
        {"ok": {}},
        {"end": {"size_bytes": 0}},
        {"error": {"code": "cancelled", "message": ""}},
        b"data",
    )
    for frame in frames:
        wire = daemon.dial()
        data = wire.made_data(frame) if isinstance(frame, bytes) else wire.made(frame)
        wire.send_raw(data)
        expect_violation(wire)


@GROUP.should("4")
def too_many_connections(daemon: Daemon) -> None:
    """A connection too many is told `unavailable` in place of the hello, with `retry`."""
    wires = [daemon.greet()]
    while len(wires) < _MANY:
        wire = daemon.dial()
        wires.append(wire)
        wire.send(_HELLO)
        frame = wire.receive()
        if isinstance(frame, dict) and "hello" in frame:
            continue
        error = cast("Control", frame["error"]) if isinstance(frame, dict) else {}
        if (error.get("code"), error.get("retry")) != ("unavailable", True):
            raise FailedError("error unavailable with retry", shown(frame))
        expect_closed(wire)
        daemon.call(wires[0], "list_backends")
        _leave(daemon, wires)
        return
    _leave(daemon, wires)
    raise SkippedError(f"the daemon takes {_MANY} connections and perhaps more")


def _leave(daemon: Daemon, wires: list[Wire]) -> None:
    """Close connections and wait until there is room for others again."""
    for wire in wires:
        wire.close()
    deadline = time.monotonic() + daemon.timeout
    while time.monotonic() < deadline:
        wire = daemon.dial()
        wire.send(_HELLO)
        frame = wire.receive()
        wire.close()
        if isinstance(frame, dict) and "hello" in frame:
            return
    raise FailedError("room for others once connections are closed", "none")
