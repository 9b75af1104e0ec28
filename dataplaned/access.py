"""Who may do what: the kernel's word on a peer, and roles by user, group and socket.

What counts are the credentials of connect(2), supplementary groups included (`SPEC.md` 11.1).
"""

import ctypes
import errno
import grp
import os
import pwd
import socket
import struct
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import Final

from dataplane_protocol import Operation

from .config import AccessConfig, RoleName, SocketConfig

#: What the kernel says as a rule of a user or group that has no number here, such as one of
#: another user namespace. Everybody unknown looks the same, so that it stands for nobody.
OVERFLOW_ID: Final = 65_534

#: unix(7): pid, uid and gid.
_CREDENTIALS: Final = struct.Struct("iII")

#: socket(7): the supplementary groups of the peer. Not in Python's module.
_SO_PEERGROUPS: Final = 59

#: Groups that a process can have: NGROUPS_MAX.
_MAX_GROUPS: Final = 65_536

#: Groups of a peer that Python's own getsockopt(2) has room for.
_FEW_GROUPS: Final = 256


class Role(Flag):
    """What a caller may be entitled to."""

    READ = auto()
    INGEST = auto()
    DELETE = auto()
    ADMIN = auto()


#: Everything.
ALL_ROLES: Final = Role.READ | Role.INGEST | Role.DELETE | Role.ADMIN

NO_ROLES: Final = Role(0)

#: What each operation asks for. All of this daemon's own are an administrator's, but for those
#: that only look.
ROLE_OF: Final[Mapping[str, Role]] = {
    Operation.INGEST_STREAM: Role.INGEST,
    Operation.SERVE_OBJECT: Role.READ,
    Operation.VERIFY_OBJECT: Role.READ,
    Operation.DELETE_OBJECT: Role.DELETE,
    Operation.BACKEND_HEALTH: Role.READ,
    Operation.STAT_OBJECTS: Role.READ,
    Operation.LIST_OBJECTS: Role.READ,
    Operation.LIST_BACKENDS: Role.READ,
    "dataplaned.status": Role.READ,
    "dataplaned.metrics": Role.READ,
    "dataplaned.scrub_status": Role.READ,
}

_NAMES: Final[Mapping[RoleName, Role]] = {
    "read": Role.READ,
    "ingest": Role.INGEST,
    "delete": Role.DELETE,
    "admin": Role.ADMIN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the kernel says of a peer at its connect.

    Attributes:
        pid: Its process, if it is in sight; otherwise 0. It may be another's by now.
        uid: Its effective user.
        gids: Its effective group, and its supplementary ones.
    """

    pid: int
    uid: int
    gids: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A peer, and what it may do.

    Attributes:
        pid: As in `Credentials`.
        uid: Likewise.
        gids: Likewise.
        socket: Name of the socket that it came by.
        roles: What it is entitled to there.
    """

    pid: int
    uid: int
    gids: frozenset[int] = frozenset()
    socket: str
    roles: Role


def role_for(op: str) -> Role | None:
    """Give the role that an operation asks for, if this daemon may have it."""
    role = ROLE_OF.get(op)
    return Role.ADMIN if role is None and op.startswith("dataplaned.") else role


def name_of(role: Role) -> RoleName:
    """Give the word for one role."""
    return next(name for name, other in _NAMES.items() if other is role)


def roles_named(names: Sequence[RoleName]) -> Role:
    """Give the roles that a configuration names."""
    roles = NO_ROLES
    for name in names:
        roles |= _NAMES[name]
    return roles


def read_credentials(peer: socket.socket) -> Credentials:
    """Ask the kernel who is at the other end of a connected Unix socket.

    Raises:
        OSError: It does not say.
    """
    data = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return Credentials(pid=pid, uid=uid, gids=frozenset((gid, *_read_groups(peer))))


class Access:
    """Who may do what on one socket.

    Root and the daemon's own user may do all. Everybody else has the roles of its user and of
    all of its groups together, of those named for every socket and of those named for this
    one, and those that members of the socket's group have.

    Args:
        everywhere: What holds on every socket.
        here: What holds on this one.
        socket_groups: The socket's group, if it lets anybody in; several, where several sockets
            have one name.

    Raises:
        UnknownPrincipalError: There is no user or group of a name.
    """

    def __init__(
        self, everywhere: AccessConfig, here: SocketConfig, socket_groups: Collection[int] = ()
    ) -> None:
        self._users = _resolve(find_user, everywhere.users, here.users)
        self._groups = _resolve(find_group, everywhere.groups, here.groups)
        for group in socket_groups:
            _grant(self._groups, group, here.group_roles)
        self._users |= {0: ALL_ROLES, os.geteuid(): ALL_ROLES}
        # Whatever is granted to nobody would be granted to everybody unknown.
        for table, kind in ((self._users, "uid"), (self._groups, "gid")):
            for number in {OVERFLOW_ID, _overflow_id(kind)}:
                table.pop(number, None)

    def roles_of(self, peer: Credentials | Caller) -> Role:
        """Give all that a peer is entitled to."""
        roles = self._users.get(peer.uid, NO_ROLES)
        for gid in peer.gids & self._groups.keys():
            roles |= self._groups[gid]
        return roles


class UnknownPrincipalError(Exception):
    """No user or group has a name that the configuration has."""


def find_user(name: str) -> int:
    """Give the number of a user, by name or number.

    Raises:
        UnknownPrincipalError: There is none.
    """
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise UnknownPrincipalError(f"no user has the name {name!r}") from None


def find_group(name: str) -> int:
    """Give the number of a group, by name or number.

    Raises:
        UnknownPrincipalError: There is none.
    """
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UnknownPrincipalError(f"no group has the name {name!r}") from None


def _overflow_id(kind: str) -> int:
    try:
        with open(f"/proc/sys/kernel/overflow{kind}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return OVERFLOW_ID


def _resolve(
    find: Callable[[str], int], *tables: Mapping[str, Sequence[RoleName]]
) -> dict[int, Role]:
    found: dict[int, Role] = {}
    for table in tables:
        for name, roles in table.items():
            _grant(found, find(name), roles)
    return found


def _grant(table: dict[int, Role], number: int, names: Sequence[RoleName]) -> None:
    table[number] = table.get(number, NO_ROLES) | roles_named(names)


def _read_groups(peer: socket.socket) -> Iterator[int]:
    size = array("I").itemsize
    try:
        data = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _FEW_GROUPS * size)
    except OSError as exc:
        if exc.errno != errno.ERANGE:
            raise
        data = _read_many_groups(peer)
    return iter(array("I", data))


def _read_many_groups(peer: socket.socket) -> bytes:
    # Python's own call takes no more than 1024 bytes.
    buffer = ctypes.create_string_buffer(_MAX_GROUPS * array("I").itemsize)
    length = ctypes.c_uint32(len(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(
        peer.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(length)
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw[: length.value]
