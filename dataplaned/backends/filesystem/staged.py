"""A file under `staging/`: bytes that nobody may see yet, until they get a durable name."""

import contextlib
import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .root import Root


class StagedFile:
    """A file under `staging/` that is being written. Its methods block."""

    def __init__(self, root: "Root", name: str, fd: int) -> None:
        self._root = root
        self._name = name
        self._fd = fd
        self._size = 0

    def allocate(self, size: int) -> None:
        """Have the filesystem set room aside, so that a full disk is noticed before the bytes.

        What is not written of it is given back with `publish`.

        Raises:
            OSError: As posix_fallocate(3).
        """
        os.posix_fallocate(self._fd, 0, size)

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append all of the bytes.

        Raises:
            OSError: As write(2).
        """
        for piece in pieces:
            view = memoryview(piece)
            while view:
                # A write is short before it fails on a full disk or at a size limit; taking
                # a short one for a whole one would publish a torn object.
                view = view[os.write(self._fd, view) :]
            self._size += len(piece)

    def read_back(self, expected: bytes) -> None:
        """Check that the file holds these bytes, on disk as far as the kernel can tell.

        Raises:
            OSError: It does not, or the disk fails.
        """
        os.fsync(self._fd)
        if os.pread(self._fd, len(expected) + 1, 0) != expected:
            raise OSError(errno.EIO, "read back other bytes than were written")

    def publish(self, blake3: bytes) -> str:
        """Give the file its place among the objects, durably, and return its new name.

        Raises:
            OSError: The bytes or the name may not be on disk. An fsync that failed must not
                be tried again on this file: the kernel has forgotten which pages were lost.
        """
        if os.fstat(self._fd).st_size != self._size:
            os.ftruncate(self._fd, self._size)  # more was allocated than came
        os.fchmod(self._fd, 0o400)
        os.fsync(self._fd)  # before it has a name: no crash may show a torn object
        name = f"{blake3.hex()}.{self._name}"
        self._root.adopt(self._name, name)
        self._close()
        return name

    def discard(self) -> None:
        """Remove the file. Does nothing once it was published or discarded."""
        if self._fd >= 0:
            self._close()
            self._root.discard_staged(self._name)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        # It was synced, or nobody wants it: there is nothing left that close(2) could lose.
        with contextlib.suppress(OSError):
            os.close(fd)
