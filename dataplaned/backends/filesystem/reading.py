"""Object files as they are read: checked blocks for serving, everything for a verify."""

import errno
import functools
import os
from collections.abc import Callable
from typing import Final

import trio

from dataplane_protocol import ObjectCorruptError, ObjectStatus, UnavailableError

from ...digests import (
    BLOCK_SIZE,
    DIGEST_SIZE,
    Digester,
    ObjectDigests,
    find_bad_block,
)
from ...threads import run_in_thread
from ..base import StoredObject

#: Bytes that a verify reads in one go, between two chances to be cancelled.
_VERIFY_STEP: Final = 8 * 1024 * 1024

#: What read(2) fails with when the disk or the filesystem has lost the bytes.
_DAMAGE: Final = (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EILSEQ, errno.ENODATA)

_READ_SIZE: Final = 1024 * 1024


class FilesystemObject(StoredObject):
    """An open file, and the block digests to hold it against.

    Args:
        status: What the catalog says of the object.
        byte_range: The range that may be read; the whole object when `None`.
        fd: The open file; closed with this.
        digests: Those of all blocks that the range touches, 32 bytes for each 64 KiB. They
            are held here, since a delete takes them out of the catalog.
        is_fresh: Whether the file was seen to be right not long ago.
        on_damage: Called in a worker thread when a block is bad.
        limiter: The backend's threads.
    """

    def __init__(
        self,
        status: ObjectStatus,
        byte_range: tuple[int, int] | None,
        fd: int,
        *,
        digests: bytes,
        is_fresh: bool = False,
        on_damage: Callable[[], None],
        limiter: trio.CapacityLimiter,
    ) -> None:
        super().__init__(status, byte_range)
        self._fd = fd
        self._first_block = self.offset // BLOCK_SIZE
        self._digests = digests
        self._is_fresh = is_fresh
        self._on_damage = on_damage
        self._limiter = limiter

    async def read(self, first_block: int, count: int) -> bytes:
        return await run_in_thread(lambda: self._read(first_block, count), self._limiter)

    def take_descriptor(self) -> int | None:
        if not self._is_fresh:
            return None
        fd, self._fd = self._fd, -1
        return None if fd < 0 else fd

    async def aclose(self) -> None:
        # No read is under way: one task reads, and waits for its thread when cancelled.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _read(self, first_block: int, count: int) -> bytes:
        offset = first_block * BLOCK_SIZE
        size = min(count * BLOCK_SIZE, self.status.size_bytes - offset)
        start = (first_block - self._first_block) * DIGEST_SIZE
        digests = self._digests[start : start + count * DIGEST_SIZE]
        try:
            data = read_fully(self._fd, offset, size)
        except OSError as exc:
            if exc.errno not in _DAMAGE:
                raise UnavailableError(
                    f"file cannot be read: {os.strerror(exc.errno or 0)}"
                ) from exc
            self._on_damage()
            reason = os.strerror(exc.errno or 0)
            raise ObjectCorruptError(
                f"object {self.status.content_address} cannot be read: {reason}"
            ) from exc
        bad = find_bad_block(data, digests)
        if bad is not None:
            self._on_damage()
            first = offset + bad * BLOCK_SIZE
            raise ObjectCorruptError(
                f"object {self.status.content_address} is damaged in the {BLOCK_SIZE} bytes "
                f"from {first} on"
            )
        return data


def read_fully(fd: int, offset: int, size: int) -> bytes:
    """Read `size` bytes, or as many as the file has from `offset` on."""
    data = os.pread(fd, size, offset)
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


async def digest_file(fd: int, limiter: trio.CapacityLimiter) -> tuple[ObjectDigests, str | None]:
    """Digest a file as the disk has it.

    Returns:
        The digests of what could be read, and why reading ended early, if it did.
    """
    digester = Digester()
    await run_in_thread(lambda: _forget_cached(fd), limiter)
    offset, trouble, is_done = 0, None, False
    while not is_done:
        step = functools.partial(_digest_step, fd, offset, digester)
        done, trouble = await run_in_thread(step, limiter)
        offset += done
        is_done = done < _VERIFY_STEP or trouble is not None
    await run_in_thread(lambda: _forget_cached(fd), limiter)
    return digester.finish(), trouble


def _digest_step(fd: int, offset: int, digester: Digester) -> tuple[int, str | None]:
    done = 0
    while done < _VERIFY_STEP:
        try:
            data = os.pread(fd, _READ_SIZE, offset + done)
        except OSError as exc:
            return done, f"cannot be read at byte {offset + done}: {os.strerror(exc.errno or 0)}"
        if not data:
            break
        digester.update([data])
        done += len(data)
    return done, None


def _forget_cached(fd: int) -> None:
    # A plain read would verify memory: pages stay right in the cache when the disk is not.
    # Dirty pages cannot be dropped, hence the sync before.
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
