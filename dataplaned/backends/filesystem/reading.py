"""Stored bytes as they are read: checked blocks for serving, everything for a verify."""

import errno
import functools
import os
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from dataplane_protocol import ObjectCorruptError, ObjectStatus, UnavailableError

from ...digests import (
    BLOCK_SIZE,
    DIGEST_SIZE,
    Digester,
    ObjectDigests,
    count_blocks,
    find_bad_block,
)
from ...threads import run_in_thread
from ..base import StoredObject
from .errors import is_damage

#: Bytes that a verify reads in one go, between two chances to be cancelled.
_VERIFY_STEP: Final = 8 * 1024 * 1024

_READ_SIZE: Final = 1024 * 1024


class SmallObject(StoredObject):
    """Bytes that were read from the catalog, and are checked when they are asked for.

    Args:
        status: What the catalog says of the object.
        byte_range: The range that may be read; the whole object when `None`.
        content: The bytes; `None` when they are gone.
        digest: What they must have, 32 bytes.
        on_damage: Awaited with the reason when they are bad.
    """

    def __init__(
        self,
        status: ObjectStatus,
        byte_range: tuple[int, int] | None,
        content: bytes,
        *,
        digest: bytes,
        on_damage: Callable[[str], Awaitable[None]],
    ) -> None:
        super().__init__(status, byte_range)
        self._content = content
        self._digest = digest
        self._on_damage = on_damage

    async def read(self, first_block: int, count: int) -> bytes:  # noqa: ARG002 - there is one
        if find_bad_block(self._content, self._digest) is not None:
            await self._on_damage("bytes in the catalog differ")
            raise ObjectCorruptError(f"object {self.status.content_address} is damaged")
        return self._content

    async def aclose(self) -> None:
        self._content = b""


class FilesystemObject(StoredObject):
    """An open file, and the block digests to hold it against.

    Args:
        status: What the catalog says of the object.
        byte_range: The range that may be read; the whole object when `None`.
        fd: The open file; closed with this.
        digests: Those of all blocks that the range touches, 32 bytes for each 64 KiB. They
            are held here, since a delete takes them out of the catalog.
        is_fresh: Whether the file was seen to be right not long ago.
        on_read: Called before each read.
        on_damage: Awaited with the reason when a block is bad.
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
        on_read: Callable[[], None],
        on_damage: Callable[[str], Awaitable[None]],
        limiter: trio.CapacityLimiter,
    ) -> None:
        super().__init__(status, byte_range)
        self._fd = fd
        self._first_block = self.offset // BLOCK_SIZE
        self._digests = digests
        self._is_fresh = is_fresh
        self._on_read = on_read
        self._on_damage = on_damage
        self._limiter = limiter
        self._is_sequential = False

    async def read(self, first_block: int, count: int) -> bytes:
        self._on_read()
        data, damage = await run_in_thread(lambda: self._read(first_block, count), self._limiter)
        if damage is not None:
            await self._on_damage(damage)
            raise ObjectCorruptError(f"object {self.status.content_address} {damage}")
        return data

    def read_into(self, first_block: int, buffer: memoryview) -> int:
        self._on_read()
        offset = first_block * BLOCK_SIZE
        if not self._is_sequential:
            # Read ahead: the disk is three times as fast then.
            os.posix_fadvise(self._fd, offset, 0, os.POSIX_FADV_SEQUENTIAL)
            self._is_sequential = True
        count = 0
        while count < len(buffer):
            try:
                more = os.preadv(self._fd, (buffer[count:],), offset + count)
            except OSError:
                more = 0
            if not more:
                break
            count += more
        bad = find_bad_block(buffer[:count], self._digests_of(first_block, len(buffer)))
        return count if bad is None else bad * BLOCK_SIZE

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

    def _read(self, first_block: int, count: int) -> tuple[bytes, str | None]:
        """Read blocks; say what is wrong with them, if anything is."""
        offset = first_block * BLOCK_SIZE
        size = min(count * BLOCK_SIZE, self.status.size_bytes - offset)
        digests = self._digests_of(first_block, size)
        try:
            data = read_fully(self._fd, offset, size)
        except OSError as exc:
            reason = os.strerror(exc.errno or 0)
            if not is_damage(exc):
                raise UnavailableError(f"file cannot be read: {reason}") from exc
            return b"", f"cannot be read: {reason}"
        bad = find_bad_block(data, digests)
        if bad is not None:
            first = offset + bad * BLOCK_SIZE
            return b"", f"is damaged in the {BLOCK_SIZE} bytes from {first} on"
        return data, None

    def _digests_of(self, first_block: int, size: int) -> bytes:
        """Give the digests of the blocks that have so many bytes."""
        start = (first_block - self._first_block) * DIGEST_SIZE
        return self._digests[start : start + count_blocks(size) * DIGEST_SIZE]


def read_fully(fd: int, offset: int, size: int) -> bytes:
    """Read `size` bytes, or as many as the file has from `offset` on."""
    data = os.pread(fd, size, offset)
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


async def no_pace(_: int) -> None:
    """Read as fast as it goes."""


async def digest_file(
    fd: int, limiter: trio.CapacityLimiter, pace: Callable[[int], Awaitable[None]] = no_pace
) -> tuple[ObjectDigests, str | None]:
    """Digest a file as the disk has it.

    Args:
        fd: The open file.
        limiter: For the threads.
        pace: Awaited before each step with the bytes that it may read.

    Returns:
        The digests of what could be read, and why reading ended early, if it did.
    """
    digester = Digester()
    await run_in_thread(lambda: _forget_cached(fd), limiter)
    size = os.fstat(fd).st_size
    offset, trouble, is_done = 0, None, False
    while not is_done:
        await pace(max(0, min(_VERIFY_STEP, size - offset)))
        step = functools.partial(_digest_step, fd, offset, digester)
        done, trouble = await run_in_thread(step, limiter)
        offset += done
        is_done = done < _VERIFY_STEP or trouble is not None
    await run_in_thread(lambda: _forget_cached(fd), limiter)
    return digester.finish(), trouble


def digest_blocking(fd: int, on_read: Callable[[int], object]) -> tuple[ObjectDigests, str | None]:
    """Do what `digest_file` does, for those who have no event loop.

    Args:
        fd: The open file.
        on_read: Called with the number of bytes of each step.
    """
    digester = Digester()
    _forget_cached(fd)
    offset, trouble, is_done = 0, None, False
    while not is_done:
        done, trouble = _digest_step(fd, offset, digester)
        on_read(done)
        offset += done
        is_done = done < _VERIFY_STEP or trouble is not None
    _forget_cached(fd)
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
    # Dirty pages cannot be dropped, hence the sync before; on a filesystem that went read-only
    # there are none that could still be written.
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno != errno.EROFS:
            raise
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
