"""A file under `staging/`: bytes that nobody may see yet, until they get a durable name."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .root import Root

#: What offsets, sizes and addresses of direct writes are multiples of, on any disk.
_ALIGNMENT: Final = 4096


class StagedFile:
    """A file under `staging/` that is being written. Its methods block."""

    def __init__(self, root: "Root", name: str, fd: int) -> None:
        self._root = root
        self._name = name
        self._fd = fd
        self._size = 0
        self._is_direct = True

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

    def write_area(self, area: memoryview) -> None:
        """Append bytes past the kernel's cache, where the filesystem can do that.

        The cache would take them at a third of the speed in the end: it is full of them when
        the file is synced. See `Staging.blocking_writer` for what they have to be.

        Raises:
            OSError: As write(2).
        """
        self._be_direct(self._is_direct and len(area) % _ALIGNMENT == 0)
        view = area
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except OSError as exc:
                if exc.errno != errno.EINVAL or not self._is_direct:
                    raise
                self._be_direct(False)
            else:
                # Short for want of room: the rest, which will say so, need not be aligned.
                self._be_direct(self._is_direct and len(view) % _ALIGNMENT == 0)
        self._size += len(area)

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
        # Before it has a name: no crash may show a torn object.
        self._root.sync_measured("data", self._fd)
        name = f"{blake3.hex()}.{self._name}"
        self._root.adopt(self._name, name)
        self._close()
        return name

    def discard(self) -> None:
        """Remove the file. Does nothing once it was published or discarded."""
        if self._fd >= 0:
            self._close()
            self._root.discard_staged(self._name)

    def _be_direct(self, is_direct: bool) -> None:  # noqa: FBT001 - private, one caller
        """Write past the cache or through it from here on."""
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        wanted = flags | os.O_DIRECT if is_direct else flags & ~os.O_DIRECT
        if wanted != flags:
            try:
                fcntl.fcntl(self._fd, fcntl.F_SETFL, wanted)
            except OSError:
                is_direct = False  # tmpfs, and others that have nothing but the cache
        self._is_direct = is_direct

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        # It was synced, or nobody wants it: there is nothing left that close(2) could lose.
        with contextlib.suppress(OSError):
            os.close(fd)
