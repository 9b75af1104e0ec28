"""A Unix socket that the daemon listens on: made private, found stale, taken away."""

import contextlib
import os
import socket
import stat
from collections.abc import Generator
from dataclasses import dataclass

import trio

from .access import read_credentials

_BACKLOG = 1024

#: socket(7), Linux 6.16: whether SCM_RIGHTS may arrive. Not in Python's module yet.
_SO_PASSRIGHTS = 83


class SocketInUseError(Exception):
    """Another process listens on the path, or something that is no socket is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One socket that the daemon listens on.

    Attributes:
        name: As in the configuration, or as systemd calls it.
        socket: The socket.
        is_passed_on: Whether systemd keeps it: who connects while no daemon runs waits for the
            next one then.
    """

    name: str
    socket: trio.socket.SocketType
    is_passed_on: bool = False

    def group(self) -> int | None:
        """Give the group whose members can connect, if one's can.

        Raises:
            OSError: Its name in the file system cannot be looked at.
        """
        path = self.socket.getsockname()
        # A socket without a name in the file system has no permissions either.
        if not isinstance(path, str) or not path:
            return None
        made = os.stat(path)
        return made.st_gid if made.st_mode & stat.S_IWGRP else None


@contextlib.contextmanager
def listen(
    path: str, *, mode: int = 0o600, user: int = -1, group: int = -1
) -> Generator[trio.socket.SocketType]:
    """Listen on `path`, and remove the socket at the end.

    A socket that a killed daemon has left behind is replaced. Missing directories are made: for
    this user only, or for everybody to pass where others may connect.

    Args:
        path: Where to.
        mode: Who may connect: those who may write.
        user: Who owns it; this user when -1.
        group: Whose group it is; this user's when -1.

    Raises:
        SocketInUseError: A daemon answers there, or the path is something else.
        OSError: It cannot be made.
    """
    is_shared = bool(mode & 0o077)
    os.makedirs(os.path.dirname(path) or ".", mode=0o755 if is_shared else 0o700, exist_ok=True)
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        refuse_descriptors(listener)
        # The mode of the descriptor becomes the mode of the name: nobody else can connect
        # before it is the right user's and group's.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(path)
        made = os.lstat(path)
        try:
            os.chown(path, user, group)
            os.chmod(path, mode)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            yield trio.socket.from_stdlib_socket(listener)
        finally:
            # Somebody may have put another socket there meanwhile.
            with contextlib.suppress(OSError):
                if os.path.samestat(made, os.lstat(path)):
                    os.unlink(path)


def refuse_descriptors(listener: socket.socket) -> None:
    """Have whoever sends descriptors be told so, where the kernel can: nobody should."""
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketInUseError(f"{path} is there and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            raise SocketInUseError(f"{path} is in use by another process") from None
        # Of whoever has called listen(2).
        raise SocketInUseError(f"{path} is in use by process {read_credentials(probe).pid}")
