"""Bodies on a local disk until their digests, and with them their keys, are known.

Small ones stay in memory. A file has no name, so that a killed daemon leaves none. Nothing is
synced: what is acknowledged is in the bucket by then.
"""

import errno
import os
import tempfile
import threading
from collections.abc import Sequence
from typing import Final

import trio

from dataplane_protocol import NoSpaceError, UnavailableError

from ...threads import run_in_thread
from ..base import BackendError

#: Bytes up to which a body stays in memory.
IN_MEMORY: Final = 1024 * 1024


class Spool:
    """The directory, and how much of it may be used.

    Args:
        path: The directory, made when it is missing.
        size: Bytes of all bodies in it at a time.
    """

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._size = size
        self._used = 0
        self._lock = threading.Lock()

    def open(self) -> None:
        """See that files can be made.

        Raises:
            BackendError: They cannot.
        """
        try:
            os.makedirs(self._path, mode=0o700, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._path):
                pass
        except OSError as exc:
            raise BackendError(f"spool {self._path} cannot be used: {exc.strerror}") from exc

    @property
    def used(self) -> int:
        """Bytes in it."""
        return self._used

    def require_room(self, size: int) -> None:
        """Refuse what cannot fit.

        Raises:
            NoSpaceError: So many bytes are not free.
        """
        if self._used + size > self._size:
            raise NoSpaceError(
                f"spool has {self._size - self._used} bytes free, {size} are needed",
                details={"free_bytes": self._size - self._used},
            )

    def take(self, size: int) -> None:
        """Count bytes that are about to be written.

        Raises:
            NoSpaceError: So many are not free; none is counted.
        """
        with self._lock:
            self.require_room(size)
            self._used += size

    def give_back(self, size: int) -> None:
        """Count bytes that are gone."""
        with self._lock:
            self._used -= size

    def new_file(self) -> int:
        """Give the descriptor of a new file without a name."""
        with tempfile.TemporaryFile(dir=self._path) as file:
            return os.dup(file.fileno())


class SpooledBody:
    """The bytes of one body. One task, or one thread, uses it at a time."""

    def __init__(self, spool: Spool, limiter: trio.CapacityLimiter) -> None:
        self._spool = spool
        self._limiter = limiter
        self._memory: bytearray | None = bytearray()
        self._file: int | None = None
        self._counted = 0
        self.size = 0

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Append.

        Raises:
            NoSpaceError: The spool, or its disk, is full.
            UnavailableError: Its disk fails.
        """
        if self._fits(sum(map(len, pieces))):
            self.append(pieces)
        else:
            await run_in_thread(lambda: self.append(pieces), self._limiter)

    def append(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Do what `write` does; may block."""
        length = sum(map(len, pieces))
        if self._memory is not None and self._fits(length):
            for piece in pieces:
                self._memory += piece
        else:
            self._append_to_file(pieces, length)
        self.size += length

    async def read(self, start: int, length: int) -> bytes:
        """Give bytes that were written.

        Raises:
            UnavailableError: The disk fails.
        """
        if self._file is None:
            return self._from_memory(start, length)
        return await run_in_thread(lambda: self._from_file(start, length), self._limiter)

    def close(self) -> None:
        """Forget the bytes. Idempotent; no call is under way."""
        self._spool.give_back(self._counted)
        self._counted = 0
        self._memory = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _fits(self, length: int) -> bool:
        return self._file is None and self.size + length <= IN_MEMORY

    def _append_to_file(self, pieces: Sequence[bytes | memoryview], length: int) -> None:
        memory = self._memory
        needed = length + (len(memory) if memory else 0)
        self._spool.take(needed)
        self._counted += needed
        try:
            if self._file is None:
                self._file = self._spool.new_file()
            for piece in (memory, *pieces) if memory else pieces:
                _write_all(self._file, memoryview(piece))
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NoSpaceError(f"disk of the spool is full: {exc.strerror}") from exc
            raise UnavailableError(f"spool cannot be written: {exc.strerror}") from exc
        self._memory = None

    def _from_memory(self, start: int, length: int) -> bytes:
        assert self._memory is not None
        with memoryview(self._memory) as view:
            return bytes(view[start : start + length])

    def _from_file(self, start: int, length: int) -> bytes:
        assert self._file is not None
        pieces: list[bytes] = []
        while length:
            try:
                piece = os.pread(self._file, length, start)
            except OSError as exc:
                raise UnavailableError(f"spool cannot be read: {exc.strerror}") from exc
            if not piece:
                raise UnavailableError("spool has lost bytes")
            pieces.append(piece)
            start += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _write_all(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]
