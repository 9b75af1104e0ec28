import os
import socket

import pytest

from dataplane_protocol import Operation
from dataplaned.access import (
    ALL_ROLES,
    NO_ROLES,
    ROLE_OF,
    Access,
    Credentials,
    Role,
    UnknownPrincipalError,
    find_group,
    find_user,
    name_of,
    read_credentials,
    role_for,
    roles_named,
)
from dataplaned.config import AccessConfig, SocketConfig


def peer(uid, *gids):
    return Credentials(pid=1, uid=uid, gids=frozenset(gids))


def test_every_operation_of_the_contract_asks_for_a_role():
    assert {each.value for each in Operation} <= set(ROLE_OF)
    assert role_for("dataplaned.quarantine_purge") is Role.ADMIN
    assert role_for("dataplaned.whatever") is Role.ADMIN
    assert role_for("dataplaned.status") is Role.READ
    assert role_for("unknown") is None


def test_roles_have_names():
    assert roles_named(["read", "admin"]) == Role.READ | Role.ADMIN
    assert [name_of(role) for role in Role] == ["read", "ingest", "delete", "admin"]


def test_roles_of_user_and_groups_add_up():
    access = Access(
        AccessConfig(users={"1001": ["read"]}, groups={"2001": ["ingest"]}),
        SocketConfig(users={"1001": ["delete"]}, groups={"2002": ["admin"]}),
    )
    assert access.roles_of(peer(1001)) == Role.READ | Role.DELETE
    assert access.roles_of(peer(1001, 5, 2001, 2002)) == ALL_ROLES
    assert access.roles_of(peer(1002, 2001)) == Role.INGEST
    assert access.roles_of(peer(1002)) == NO_ROLES


def test_root_and_the_daemons_own_user_may_do_all(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    access = Access(AccessConfig(users={"4711": ["read"]}), SocketConfig())
    assert access.roles_of(peer(0)) == access.roles_of(peer(4711)) == ALL_ROLES


def test_members_of_the_sockets_group_may_read_and_ingest_by_default():
    access = Access(AccessConfig(), SocketConfig(), {2001})
    assert access.roles_of(peer(1001, 2001)) == Role.READ | Role.INGEST
    assert access.roles_of(peer(1001, 2002)) == NO_ROLES
    access = Access(AccessConfig(), SocketConfig(group_roles=("admin",)), {2001, 2003})
    assert access.roles_of(peer(1001, 2001)) == access.roles_of(peer(1, 2003)) == Role.ADMIN


def test_nobody_stands_for_everybody_unknown_and_may_do_nothing(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 65_534)
    everywhere = AccessConfig(users={"65534": ["read"]}, groups={"65534": ["read"]})
    access = Access(everywhere, SocketConfig(), {65_534})
    assert access.roles_of(peer(65_534, 65_534)) == NO_ROLES


def test_names_are_looked_up():
    assert (find_user("root"), find_group("root")) == (0, 0)
    assert (find_user("4711"), find_group("4711")) == (4711, 4711)
    with pytest.raises(UnknownPrincipalError, match="no user has the name 'not-there'"):
        find_user("not-there")
    with pytest.raises(UnknownPrincipalError, match="no group has the name 'not-there'"):
        Access(AccessConfig(groups={"not-there": ["read"]}), SocketConfig())


def test_the_kernel_says_who_a_peer_is():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = read_credentials(ours)
    assert (found.pid, found.uid) == (os.getpid(), os.geteuid())
    assert found.gids == {os.getegid(), *os.getgroups()}
