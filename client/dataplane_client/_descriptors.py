"""Descriptors that come with an answer: kept in order until their frame has been read.

The kernel may hand one over with bytes that come before its frame, so that it is matched to
the next frame that announces one, and not to the bytes it came with (`SPEC.md` 5.11).
"""

import array
import fcntl
import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from dataplane_protocol import RemoteProtocolError

_INT_SIZE: Final = array.array("i").itemsize

#: Room for one descriptor; its alignment leaves room for a second one.
ANCILLARY_SIZE: Final = socket.CMSG_SPACE(_INT_SIZE)

#: open(2): a descriptor that stands for a path and cannot be read.
_O_PATH: Final = 0o10000000


class DescriptorCutError(RemoteProtocolError):
    """The kernel had no room for a descriptor, mostly because this process has too many."""


class Descriptors:
    """What one connection has received and not yet given out."""

    def __init__(self) -> None:
        self._waiting: list[int] = []

    @property
    def are_waiting(self) -> bool:
        """Whether one has come that no frame has announced so far."""
        return bool(self._waiting)

    def receive(self, ancillary: Iterable[tuple[int, int, bytes]], *, is_cut: bool) -> None:
        """Take what came with some bytes.

        Args:
            ancillary: As recvmsg gives it.
            is_cut: Whether the kernel had more than there was room for.

        Raises:
            RemoteProtocolError: More than one waits for its frame. All are closed.
            DescriptorCutError: One was lost on the way. All are closed.
        """
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(data) - len(data) % _INT_SIZE
                self._waiting += array.array("i", data[:whole])
        if len(self._waiting) > 1:
            self.close()
            raise RemoteProtocolError("the daemon sent more than one descriptor for a frame")

        if is_cut:
            self.close()
            raise DescriptorCutError("a descriptor was lost, there may be too many open")

    def take(self) -> int:
        """Give the one that waits.

        Raises:
            RemoteProtocolError: None does.
        """
        if not self._waiting:
            raise RemoteProtocolError("the answer announced a descriptor that did not come")
        return self._waiting.pop()

    def close(self) -> None:
        """Close all that wait. Idempotent."""
        while self._waiting:
            close(self._waiting.pop())


def check_file(fd: int, size: int) -> None:
    """Check that a descriptor can stand for an object of `size` bytes.

    Anything else could block a reader for ever, or be written to.

    Raises:
        RemoteProtocolError: It is no regular file of this size that is open for reading only.
    """
    status = os.fstat(fd)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    is_readable = flags & (os.O_ACCMODE | _O_PATH) == os.O_RDONLY
    if not (stat.S_ISREG(status.st_mode) and is_readable and status.st_size == size):
        raise RemoteProtocolError(f"the descriptor is no read-only regular file of {size} bytes")


def close(fd: int) -> None:
    """Close a descriptor for good."""
    with suppress(OSError):
        os.close(fd)
