"""What is kept in memory of objects that were asked for or stored lately: never their bytes.

It is never ahead of the catalog nor behind it: the writer's thread forgets what a transaction
changed once that is on disk and before anybody is told. And it holds for one version of the
catalog only, so that it is passed over while a transaction ends or when somebody else has
written. Whoever read a row says of what version it was, so that one which was overtaken by a
transaction is not kept.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from dataplane_protocol import BLAKE3, SHA256, usual_object_entry

from .rows import Row

#: Objects that are kept: 20 MB of them.
_MOST_OBJECTS: Final = 16_384

#: Open files that are kept.
_MOST_FILES: Final = 64

#: Rows of block digests that are kept, each for 256 MiB of object and 128 KiB itself.
_MOST_BLOCK_ROWS: Final = 48


class HotFile:
    """An open file of an object. It is closed with the last reference to it.

    Args:
        fd: The file.
        status: What fstat(2) said of it when its row was read.
    """

    __slots__ = ("_status", "fd")

    def __init__(self, fd: int, status: os.stat_result) -> None:
        self.fd = fd
        self._status = (status.st_ctime_ns, status.st_mtime_ns, status.st_size)

    @property
    def is_unchanged(self) -> bool:
        """Whether nobody has touched it since: written, unlinked, anything."""
        status = os.fstat(self.fd)
        return self._status == (status.st_ctime_ns, status.st_mtime_ns, status.st_size)

    def __del__(self) -> None:
        with suppress(OSError):
            os.close(self.fd)


class HotObject:
    """What is known of an object.

    Attributes:
        row: Its row.
        file: Its file, if it has one and that is open.
    """

    __slots__ = ("_entry", "file", "row")

    def __init__(self, row: Row, file: HotFile | None = None) -> None:
        self.row = row
        self.file = file
        self._entry: bytes | None = None

    @property
    def entry(self) -> bytes:
        """The item that describes it on the wire."""
        if self._entry is None:
            row = self.row
            self._entry = usual_object_entry(
                blake3=row.blake3.hex(),
                sha256=row.sha256.hex(),
                size=row.size,
                generation=row.generation,
                stored_at_ms=row.stored_at_ms,
                verified_at_ms=row.verified_at_ms,
                is_quarantined=bool(row.is_rotten),
            )
        return self._entry


class HotObjects:
    """The objects that are kept, the least lately asked for dropped first. Any thread may call.

    Args:
        read_version: Gives what tells the catalog's present version from every other.
    """

    def __init__(self, read_version: Callable[[], bytes]) -> None:
        self.read_version = read_version
        self._version = read_version()
        self._lock = threading.Lock()
        self._objects: OrderedDict[str, HotObject] = OrderedDict()
        self._by_sha256: dict[str, str] = {}
        self._files: OrderedDict[str, None] = OrderedDict()
        self._blocks: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()

    def get(self, address: str) -> HotObject | None:
        """Give what is kept under either of an object's names."""
        if self._version != self.read_version():
            return None
        with self._lock:
            name = self._by_sha256.get(address, address)
            hot = self._objects.get(name)
            if hot is not None:
                self._objects.move_to_end(name)
            return hot

    def keep(self, hot: HotObject, version: bytes) -> None:
        """Keep an object whose row was read at a version, if that is still the catalog's."""
        with self._lock:
            if version == self._version:
                self._keep(hot)

    def commit(self, changes: Iterable[tuple[Iterable[bytes], HotObject | None]]) -> None:
        """Note a transaction that is on disk.

        Args:
            changes: In order, the BLAKE3 values of rows that were changed, and what is known
                of an object after that.
        """
        with self._lock:
            self._version = self.read_version()
            for touched, hot in changes:
                for blake3 in touched:
                    self._drop(f"{BLAKE3}:{blake3.hex()}")
                    self._drop_blocks(blake3)
                if hot is not None:
                    self._keep(hot)

    def clear(self) -> None:
        """Keep nothing; files are closed."""
        with self._lock:
            for kept in (self._objects, self._by_sha256, self._files, self._blocks):
                kept.clear()

    def block_digests(self, blake3: bytes, first: int) -> bytes | None:
        """Give one row of block digests."""
        if self._version != self.read_version():
            return None
        with self._lock:
            digests = self._blocks.get((blake3, first))
            if digests is not None:
                self._blocks.move_to_end((blake3, first))
            return digests

    def keep_block_digests(self, blake3: bytes, first: int, digests: bytes, version: bytes) -> None:
        """Keep one row of block digests that was read at a version."""
        with self._lock:
            if version != self._version:
                return
            self._blocks[blake3, first] = digests
            while len(self._blocks) > _MOST_BLOCK_ROWS:
                self._blocks.popitem(last=False)

    def _keep(self, hot: HotObject) -> None:
        name = f"{BLAKE3}:{hot.row.blake3.hex()}"
        self._drop(name)
        self._objects[name] = hot
        self._by_sha256[f"{SHA256}:{hot.row.sha256.hex()}"] = name
        if hot.file is not None:
            self._files[name] = None
        while len(self._objects) > _MOST_OBJECTS:
            self._drop(next(iter(self._objects)))
        while len(self._files) > _MOST_FILES:
            oldest, _ = self._files.popitem(last=False)
            self._objects[oldest].file = None

    def _drop(self, name: str) -> None:
        hot = self._objects.pop(name, None)
        if hot is None:
            return
        self._by_sha256.pop(f"{SHA256}:{hot.row.sha256.hex()}", None)
        self._files.pop(name, None)

    def _drop_blocks(self, blake3: bytes) -> None:
        for key in [key for key in self._blocks if key[0] == blake3]:
            del self._blocks[key]
