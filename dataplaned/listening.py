"""The Unix socket that the daemon listens on: made private, found stale, taken away."""

import contextlib
import os
import socket
import stat
from collections.abc import Generator

import trio

_BACKLOG = 1024

#: socket(7), Linux 6.16: whether SCM_RIGHTS may arrive. Not in Python's module yet.
_SO_PASSRIGHTS = 83


class SocketInUseError(Exception):
    """Another process listens on the path, or something that is no socket is there."""


@contextlib.contextmanager
def listen(path: str) -> Generator[trio.socket.SocketType]:
    """Listen on `path`, for this user only, and remove the socket at the end.

    A socket that a killed daemon has left behind is replaced. Missing directories are made,
    for this user only.

    Raises:
        SocketInUseError: A daemon answers there, or the path is something else.
        OSError: It cannot be made.
    """
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # Nobody sends descriptors to this daemon; where the kernel can, the sender is told.
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        # The mode of the descriptor becomes the mode of the name: nobody else can connect
        # between bind and a later chmod.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(path)
        made = os.lstat(path)
        try:
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            yield trio.socket.from_stdlib_socket(listener)
        finally:
            # Somebody may have put another socket there meanwhile.
            with contextlib.suppress(OSError):
                if os.path.samestat(made, os.lstat(path)):
                    os.unlink(path)


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
        except BlockingIOError:
            raise SocketInUseError(f"{path} is in use by another process") from None
        else:
            raise SocketInUseError(f"{path} is in use by another process")
