from dataclasses import replace

import pytest

from dataplaned.config import (
    AccessConfig,
    Config,
    DaemonConfig,
    FilesystemConfig,
    LogConfig,
    MemoryConfig,
    MetricsConfig,
    MirrorConfig,
    SocketConfig,
    changed_while_running,
    changes,
)

STORE = FilesystemConfig(root="/a")
OLD = Config(
    daemon=DaemonConfig(socket="/s"),
    socket={"clients": SocketConfig(path="/c")},
    backend={"local": STORE, "m": MirrorConfig(first=STORE, second=MemoryConfig())},
)


@pytest.mark.parametrize(
    ("new", "applied", "needs_restart"),
    [
        (OLD, (), ()),
        (replace(OLD, daemon=DaemonConfig(socket="/t", max_calls=5)),
         ("daemon.max_calls",), ("daemon.socket",)),
        (replace(OLD, access=AccessConfig(users={"a": ("read",)})), ("access.users.a",), ()),
        (replace(OLD, log=LogConfig(level="debug", audit="off")), ("log.level",), ("log.audit",)),
        (replace(OLD, metrics=MetricsConfig(listen="/m")), (), ("metrics.listen",)),
        (replace(OLD, socket={"clients": SocketConfig(path="/c", group="g", group_roles=())}),
         ("socket.clients.group_roles",), ("socket.clients.group",)),
        (replace(OLD, socket={}), (), ("socket.clients",)),
        (replace(OLD, backend=OLD.backend | {"local": replace(STORE, root="/b", scrub_rate=0)}),
         ("backend.local.scrub_rate",), ("backend.local.root",)),
        (replace(OLD, backend=OLD.backend | {"new": MemoryConfig()}), (), ("backend.new",)),
        (replace(OLD, backend=OLD.backend | {"local": MemoryConfig()}), (), ("backend.local",)),
        (replace(OLD, backend=OLD.backend | {
            "m": MirrorConfig(first=replace(STORE, min_free_bytes=1), second=MemoryConfig(),
                              acknowledge="first")}),
         ("backend.m.first.min_free_bytes",), ("backend.m.acknowledge",)),
    ],
)  # fmt: skip
def test_what_a_running_daemon_takes_over_and_what_not(new, applied, needs_restart):
    found = changes(OLD, new)
    assert (found.applied, found.needs_restart) == (applied, needs_restart)
    taken = changed_while_running(OLD, new)
    assert changes(OLD, taken).applied == applied
    assert changes(taken, new).needs_restart == needs_restart
