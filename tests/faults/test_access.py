"""Who may do what, asked by real processes of different users."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataplane_client.blocking import connect
from dataplane_protocol import AccessDeniedError, ContentAddress, DataPlaneError

#: Numbers that no user or group of the machine needs to have.
READER, WRITER, REMOVER, OPERATOR, STRANGER = 61_001, 61_002, 61_003, 61_004, 61_005
CLIENTS, AUDITORS, DELETERS, NOGROUP = 62_001, 62_002, 62_003, 65_534
NOBODY = 65_534

CONFIG = """
[socket.clients]
path = "{path}/clients"
group = "{CLIENTS}"
mode = "0660"
[socket.open]
path = "{path}/open"
mode = "0666"
group_roles = []
[socket.open.users]
{STRANGER} = ["read"]
[socket.admin]
path = "{path}/admin"
group = "{CLIENTS}"
mode = "0660"
group_roles = ["read", "ingest", "delete", "admin"]
[access.users]
{READER} = ["read"]
{WRITER} = ["ingest"]
{REMOVER} = ["delete", "read"]
{OPERATOR} = ["admin"]
[access.groups]
{AUDITORS} = ["read"]
{DELETERS} = ["delete"]
[log]
level = "info"
# Of this kind, usual calls are answered by the quick way too.
[backend.local]
type = "filesystem"
root = "{path}/store"
"""

ABSENT = ContentAddress("blake3:" + "0" * 64)

ASKED: dict[str, Callable[[Any], object]] = {
    "read": lambda client: client.stat_objects([ABSENT]),
    "ingest": lambda client: client.ingest_stream([b"some bytes"]),
    "delete": lambda client: client.delete_object(ABSENT),
    "admin": lambda client: client.call_private("dataplaned.connections"),
}


def roles_of(path: str, uid: int, gid: int, groups: list[int]) -> list[str] | str:
    """Ask for everything as somebody else, in a process of that user's."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            os.write(writing, json.dumps(ask(path)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        found = answer.read()
    os.waitpid(pid, 0)
    return json.loads(found)


def ask(path: str) -> list[str] | str:
    allowed = []
    with connect(path) as client:
        for role, call in ASKED.items():
            try:
                call(client)
            except AccessDeniedError as error:
                if isinstance(error.__cause__, PermissionError):
                    return DENIED_BY_KERNEL
                if "no role on this socket" in error.message:
                    return "turned away"
            except DataPlaneError as error:
                return repr(error)
            else:
                allowed.append(role)
    return allowed


@pytest.fixture
def daemon(require, start_daemon, short_path):
    require(os.geteuid() == 0, "root")
    short_path.chmod(0o755)
    config = short_path / "config.toml"
    config.write_text(CONFIG.format(path=short_path, **globals()))
    daemon = start_daemon(("--config", str(config)))
    daemon.path = short_path
    return daemon


EVERYTHING = ["read", "ingest", "delete", "admin"]
DENIED_BY_KERNEL = "denied by the kernel"

# fmt: off
TABLE = [
    # socket     uid       gid       groups                      what it may do
    ("clients", 0,         0,        [],                         EVERYTHING),
    ("open",    0,         0,        [],                         EVERYTHING),
    ("clients", STRANGER,  STRANGER, [],                         DENIED_BY_KERNEL),
    ("clients", STRANGER,  CLIENTS,  [],                         ["read", "ingest"]),
    ("clients", STRANGER,  STRANGER, [CLIENTS],                  ["read", "ingest"]),
    ("clients", STRANGER,  STRANGER, [1, 2, CLIENTS, 3],         ["read", "ingest"]),
    ("clients", STRANGER,  STRANGER, [*range(70_000, 70_900), CLIENTS], ["read", "ingest"]),
    ("clients", STRANGER,  STRANGER, [CLIENTS, DELETERS],        ["read", "ingest", "delete"]),
    ("clients", OPERATOR,  STRANGER, [CLIENTS],                  ["read", "ingest", "admin"]),
    ("admin",   STRANGER,  STRANGER, [CLIENTS],                  EVERYTHING),
    ("admin",   READER,    STRANGER, [],                         DENIED_BY_KERNEL),
    ("open",    READER,    STRANGER, [],                         ["read"]),
    ("open",    WRITER,    STRANGER, [],                         ["ingest"]),
    ("open",    REMOVER,   STRANGER, [],                         ["read", "delete"]),
    ("open",    OPERATOR,  STRANGER, [],                         ["admin"]),
    ("open",    STRANGER,  STRANGER, [],                         ["read"]),
    ("open",    61_999,    AUDITORS, [],                         ["read"]),
    ("open",    61_999,    61_999,   [AUDITORS, DELETERS],       ["read", "delete"]),
    ("open",    61_999,    61_999,   [],                         "turned away"),
    ("open",    61_999,    CLIENTS,  [],                         "turned away"),
    ("open",    NOBODY,    NOGROUP,  [],                         "turned away"),
    ("open",    NOBODY,    NOGROUP,  [AUDITORS],                 ["read"]),
    ("open",    READER,    NOGROUP,  [NOGROUP],                  ["read"]),
]
# fmt: on


@pytest.mark.slow
def test_everybody_may_do_what_its_user_and_groups_may(daemon):
    found = [
        (name, uid, gid, groups, roles_of(f"{daemon.path}/{name}", uid, gid, groups))
        for name, uid, gid, groups, _ in TABLE
    ]
    assert found == TABLE
    assert daemon.stop() == 0
    denied = [each for each in daemon.events("audit") if each["code"] == "denied"]
    turned_away = [each for each in denied if each["op"] == "connect"]
    # Each attempt of a client's is a connection.
    assert {each["uid"] for each in turned_away} == {61_999, NOBODY}
    refused = {(each["uid"], each["op"]) for each in denied}
    assert (READER, "ingest_stream") in refused
    assert (WRITER, "stat_objects") in refused
    assert (STRANGER, "delete_object") in refused
    assert all(each["reason"] and each["pid"] and each["socket"] for each in denied)
    assert all(each["object"] == str(ABSENT) for each in denied if each["op"] == "delete_object")


@pytest.mark.slow
def test_a_reload_takes_rights_from_whoever_is_connected(daemon):
    config = Path(daemon.path / "config.toml")

    def reload(text: str) -> None:
        count = len(daemon.events("reloaded"))
        config.write_text(text)
        daemon.process.send_signal(1)
        assert daemon.becomes(lambda: len(daemon.events("reloaded")) > count)

    before = config.read_text()
    asking, answering = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(READER, READER, READER)
        with connect(f"{daemon.path}/open", pool_size=1) as client:
            while os.read(asking[0], 1) == b"?":
                try:
                    client.stat_objects([ABSENT])
                    os.write(answering[1], b"y")
                except AccessDeniedError:
                    os.write(answering[1], b"n")
        os._exit(0)

    def may_read() -> bytes:
        os.write(asking[1], b"?")
        return os.read(answering[0], 1)

    try:
        assert may_read() == b"y"
        reload(before.replace(f'{READER} = ["read"]', f'{READER} = ["ingest"]'))
        assert may_read() == b"n"
        reload(before)
        assert may_read() == b"y"
    finally:
        os.write(asking[1], b".")
        os.waitpid(pid, 0)
        for fd in (*asking, *answering):
            os.close(fd)
    with connect(f"{daemon.path}/clients") as client:
        connections = client.call_private("dataplaned.connections")["connections"]
    assert {each["uid"] for each in connections} == {0}
