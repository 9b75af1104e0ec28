"""The version of a catalog, read without asking SQLite."""

import mmap
import os
from typing import Final

#: Bytes of the WAL-index that no two commits have the same of: a counter, the length of the
#: WAL, checksums (sqlite.org/walformat.html 2.1).
_HEADER_SIZE: Final = 48


class CatalogVersion:
    """A look at the memory in which the connections of a catalog tell each other of commits.

    Args:
        path: The catalog. At least one connection is open, and this is closed after the last:
            close(2) would take SQLite's locks away (fcntl(2)).

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: str) -> None:
        fd = os.open(f"{path}-shm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._shared = mmap.mmap(fd, mmap.PAGESIZE, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def read(self) -> bytes:
        """Give what changes with every commit, whoever commits."""
        return self._shared[:_HEADER_SIZE]

    def close(self) -> None:
        """Let go."""
        self._shared.close()
        os.close(self._fd)
