"""Whether files are in the kernel's cache as a whole, so that reading them takes no disk.

The event loop may read the catalog itself then, which is several times as fast as to have a
thread do it. Nobody can promise that the kernel does not drop a page in the next moment, so
that what is known is believed for a short time only; what drops pages itself says so before.
Of files that are not large, for this machine, the kernel is asked to have the missing pages again.
"""

import ctypes
import errno
import mmap
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

#: Seconds for which a look is good, and after which there is another one, if anybody asks.
_GOOD_FOR_S: Final = 2.0
_LOOK_AGAIN_S: Final = 0.5

#: Times that a look has taken, between two of them: large files take long.
_MOST_SHARE: Final = 50

#: Of the memory that is to be had, the share up to which missing pages of a file are fetched: a
#: kernel reclaims some that nobody touches for a while, and one is enough to be without
#: certainty.
_FETCHED_SHARE: Final = 0.25

#: The same number everywhere (cachestat(2), Linux 6.5).
_SYS_CACHESTAT: Final = 451

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def cached_pages(fd: int, size: int) -> int:
    """Give the number of pages in the kernel's cache of the first `size` bytes of a file.

    Raises:
        OSError: The kernel does not tell.
    """
    counts = _Counts()
    where = _Range(0, size)
    if _libc.syscall(_SYS_CACHESTAT, fd, ctypes.byref(where), ctypes.byref(counts), 0) == 0:
        return int(counts.cached)
    return _cached_pages_by_mincore(fd, size)


def count_hole_pages(fd: int, size: int) -> int:
    """Give the number of pages of a file that the disk has nothing of.

    Raises:
        OSError: As lseek(2).
    """
    pages, place = 0, 0
    while place < size:
        hole = os.lseek(fd, place, os.SEEK_HOLE)
        if hole >= size:
            break
        try:
            place = os.lseek(fd, hole, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            place = size  # there is nothing behind it
        pages += place // mmap.PAGESIZE - -(-hole // mmap.PAGESIZE)
    return pages


def available_memory() -> int:
    """Give the bytes of memory that could be had without swapping; 0 where nobody says."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = (line.split() for line in lines if line.startswith("MemAvailable:"))
            return next((int(words[1]) * 1024 for words in found), 0)
    except OSError:
        return 0


def _cached_pages_by_mincore(fd: int, size: int) -> int:
    # A private mapping, since ctypes gives no address of one that cannot be written. No page
    # of it is ever touched.
    with mmap.mmap(fd, size, access=mmap.ACCESS_COPY) as mapping:
        start = ctypes.c_char.from_buffer(mapping)
        found = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        try:
            failed = _libc.mincore(
                ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), found
            )
        finally:
            del start  # the mapping cannot be closed before
        if failed:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return sum(page & 1 for page in bytes(found))


class Residency:
    """Watches some files, while anybody asks.

    Args:
        fds: The files; closed by whoever opened them, after `close`.
        count: Counts the pages of one in the kernel's cache.
    """

    def __init__(self, fds: Sequence[int], count: Callable[[int, int], int] = cached_pages) -> None:
        self._fds = fds
        self._count = count
        self._good_until = 0.0
        self._look_at = 0.0
        self._drops = 0
        self._is_open = True
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="residency", daemon=True)
        self._thread.start()

    @property
    def is_certain(self) -> bool:
        """Whether all of them were there a moment ago. Asks for another look now and then."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_AGAIN_S
            self._wanted.set()
        return now < self._good_until

    def note_dropping(self) -> None:
        """Know nothing, since pages are about to be dropped."""
        self._drops += 1
        self._good_until = 0.0

    def look(self) -> None:
        """Look now. Blocks."""
        drops, began = self._drops, time.monotonic()
        try:
            # Every file is looked at, also when the first one lacks something.
            are_there = all([self._is_there(fd) for fd in self._fds])  # noqa: C419
        except OSError:
            are_there = False
        ended = time.monotonic()
        pause = max(_LOOK_AGAIN_S, _MOST_SHARE * (ended - began))
        self._look_at = ended + pause
        self._good_until = began + _GOOD_FOR_S + pause if are_there else 0.0
        if drops != self._drops:
            self._good_until = 0.0

    def close(self) -> None:
        """End the watch."""
        self._is_open = False
        self._wanted.set()
        self._thread.join()

    def _is_there(self, fd: int) -> bool:
        size = os.fstat(fd).st_size
        if not size:
            return True
        missing = -(-size // mmap.PAGESIZE) - self._count(fd, size)
        # A page that so far is in the WAL alone is a hole here: there is nothing to be read.
        if missing <= 0 or missing <= count_hole_pages(fd, size):
            return True
        if size <= _FETCHED_SHARE * available_memory():
            os.posix_fadvise(fd, 0, size, os.POSIX_FADV_WILLNEED)
        return False

    def _run(self) -> None:
        while self._wanted.wait() and self._is_open:
            self._wanted.clear()
            self.look()
