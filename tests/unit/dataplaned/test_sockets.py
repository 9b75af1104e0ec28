import os
import socket
import stat

import pytest
import structlog.testing

from dataplaned import sockets as module
from dataplaned.access import Caller, Role, UnknownPrincipalError
from dataplaned.config import Config, DaemonConfig, SocketConfig
from dataplaned.listening import SocketInUseError
from dataplaned.sockets import NoSocketError, access_by_socket, open_sockets


@pytest.fixture
def passed_on(short_path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(short_path / "passed"))
        made.listen()
        yield {"clients": [made]}


def opened(config, passed_on=None):
    """Open them as a process would that systemd has given descriptors of its own."""
    given = {name: [each.dup() for each in several] for name, several in (passed_on or {}).items()}
    return open_sockets(config, given)


def config_of(short_path, *, socket="", **sockets):
    return Config(
        daemon=DaemonConfig(socket=socket and str(short_path / socket)),
        socket={name: SocketConfig(**values) for name, values in sockets.items()},
    )


def test_every_socket_is_listened_on_and_removed(short_path):
    gid = os.getegid()
    config = config_of(
        short_path,
        socket="main",
        clients={"path": str(short_path / "c/clients"), "mode": "0660", "group": str(gid)},
    )
    with opened(config) as listeners:
        assert [(each.name, each.is_passed_on) for each in listeners] == [
            ("main", False),
            ("clients", False),
        ]
        main, clients = (os.stat(short_path / each) for each in ("main", "c/clients"))
        assert (stat.S_IMODE(main.st_mode), stat.S_IMODE(clients.st_mode)) == (0o600, 0o660)
        assert clients.st_gid == gid
        assert stat.S_IMODE(os.stat(short_path / "c").st_mode) == 0o755
        assert [each.group() for each in listeners] == [None, gid]
    assert not os.path.lexists(short_path / "main")
    assert not os.path.lexists(short_path / "c/clients")


def test_what_systemd_passes_on_is_taken_and_left_where_it_is(short_path, passed_on):
    config = config_of(short_path, clients={"path": str(short_path / "passed")})
    with structlog.testing.capture_logs() as logs, opened(config, passed_on) as listeners:
        (listener,) = listeners
        assert (listener.name, listener.is_passed_on) == ("clients", True)
    assert os.path.lexists(short_path / "passed")
    assert logs == []


def test_one_that_is_elsewhere_is_said(short_path, passed_on):
    config = config_of(short_path, clients={"path": str(short_path / "other")})
    with structlog.testing.capture_logs() as logs, opened(config, passed_on):
        pass
    assert logs[0]["event"] == "socket_elsewhere"
    assert not os.path.lexists(short_path / "other")


def test_nobody_asks_for_the_default_socket_where_others_are_passed_on(
    short_path, passed_on, monkeypatch
):
    monkeypatch.setattr(module, "default_socket_path", lambda: str(short_path / "default"))
    config = config_of(short_path, socket="default")
    with opened(config, passed_on) as listeners:
        assert [each.name for each in listeners] == ["clients"]
    with opened(config_of(short_path, socket="own"), passed_on) as listeners:
        assert [each.name for each in listeners] == ["clients", "main"]
    with opened(config_of(short_path, socket="passed"), passed_on) as listeners:
        assert [each.name for each in listeners] == ["clients"]


def test_what_has_no_place_is_refused(short_path, passed_on):
    config = config_of(short_path, admin={})
    with pytest.raises(NoSocketError, match=r"socket\.admin: has no path, and systemd"):
        opened(config, passed_on).__enter__()
    with pytest.raises(NoSocketError, match="no socket is configured"):
        opened(config_of(short_path)).__enter__()


def test_what_cannot_be_opened_leaves_nothing(short_path):
    taken = str(short_path / "taken")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(taken)
        other.listen()
        config = config_of(short_path, socket="main", clients={"path": taken})
        with pytest.raises(SocketInUseError, match="in use by process"):
            opened(config).__enter__()
    assert not os.path.lexists(short_path / "main")
    config = config_of(short_path, a={"path": str(short_path / "a"), "group": "not-there"})
    with pytest.raises(UnknownPrincipalError):
        opened(config).__enter__()
    assert not os.path.lexists(short_path / "a")


def test_each_socket_has_roles_of_its_own(short_path):
    gid = os.getegid()
    shared = {"mode": "0660", "group": str(gid)}
    config = config_of(
        short_path,
        own={"path": str(short_path / "own")},
        clients={"path": str(short_path / "clients"), **shared},
        admin={"path": str(short_path / "admin"), **shared, "group_roles": ("admin",)},
    )
    with opened(config) as listeners:
        access = access_by_socket(config, listeners)
    member = Caller(pid=1, uid=4711, gids=frozenset({gid}), socket="x", roles=Role(0))
    assert {name: each.roles_of(member) for name, each in access.items()} == {
        "own": Role(0),
        "clients": Role.READ | Role.INGEST,
        "admin": Role.ADMIN,
    }


def test_a_socket_without_a_name_has_no_group():
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("\0dataplaned-test-" + str(os.getpid()))
        made.listen()
        with opened(Config(), {"x": [made]}) as listeners:
            assert listeners[0].group() is None
