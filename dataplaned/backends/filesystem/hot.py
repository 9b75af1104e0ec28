"""What is kept in memory of objects that were asked for or stored lately.

It is never ahead of the catalog nor behind it: the writer's thread forgets what a transaction
changed once that is on disk and before anybody is told. Whoever read a row says at what
version that began, so that one which was overtaken by a transaction is not kept.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from dataplane_protocol import BLAKE3, SHA256, object_entry

from .rows import Row
from .status import status_of

#: Objects that are kept: 20 MB of them.
_MOST_OBJECTS: Final = 16_384

#: Bytes of small objects that are kept.
_MOST_BYTES: Final = 8 * 1024 * 1024

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
        content: Its bytes, if it is a small one and they are at hand.
        file: Its file, if it has one and that is open.
    """

    __slots__ = ("_entry", "content", "file", "row")

    def __init__(self, row: Row, content: bytes | None = None, file: HotFile | None = None) -> None:
        self.row = row
        self.content = content
        self.file = file
        self._entry: bytes | None = None

    @property
    def entry(self) -> bytes:
        """The item that describes it on the wire."""
        if self._entry is None:
            self._entry = object_entry(status_of(self.row))
        return self._entry


class HotObjects:
    """The objects that are kept, the least lately asked for dropped first. Any thread may call.

    Attributes:
        version: Grows with every transaction.
    """

    def __init__(self) -> None:
        self.version = 0
        self._lock = threading.Lock()
        self._objects: OrderedDict[str, HotObject] = OrderedDict()
        self._by_sha256: dict[str, str] = {}
        self._contents: OrderedDict[str, int] = OrderedDict()
        self._content_bytes = 0
        self._files: OrderedDict[str, None] = OrderedDict()
        self._blocks: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()

    def get(self, address: str) -> HotObject | None:
        """Give what is kept under either of an object's names."""
        with self._lock:
            name = self._by_sha256.get(address, address)
            hot = self._objects.get(name)
            if hot is not None:
                self._objects.move_to_end(name)
            return hot

    def keep(self, hot: HotObject, version: int) -> None:
        """Keep an object, unless a transaction has ended since its row was read."""
        with self._lock:
            if version == self.version:
                self._keep(hot)

    def commit(self, changes: Iterable[tuple[Iterable[bytes], HotObject | None]]) -> None:
        """Note a transaction that is on disk.

        Args:
            changes: In order, the BLAKE3 values of rows that were changed, and what is known
                of an object after that.
        """
        with self._lock:
            self.version += 1
            for touched, hot in changes:
                for blake3 in touched:
                    self._drop(f"{BLAKE3}:{blake3.hex()}")
                if hot is not None:
                    self._keep(hot)

    def clear(self) -> None:
        """Keep nothing; files are closed."""
        with self._lock:
            for kept in (self._objects, self._by_sha256, self._contents, self._files, self._blocks):
                kept.clear()
            self._content_bytes = 0

    def block_digests(self, blake3: bytes, first: int) -> bytes | None:
        """Give one row of block digests: they follow from the name, as the bytes do."""
        digests = self._blocks.get((blake3, first))
        if digests is not None:
            with suppress(KeyError):
                self._blocks.move_to_end((blake3, first))
        return digests

    def keep_block_digests(self, blake3: bytes, first: int, digests: bytes) -> None:
        """Keep one row of block digests."""
        with self._lock:
            self._blocks[blake3, first] = digests
            while len(self._blocks) > _MOST_BLOCK_ROWS:
                self._blocks.popitem(last=False)

    def _keep(self, hot: HotObject) -> None:
        name = f"{BLAKE3}:{hot.row.blake3.hex()}"
        self._drop(name)
        self._objects[name] = hot
        self._by_sha256[f"{SHA256}:{hot.row.sha256.hex()}"] = name
        if hot.content is not None:
            self._contents[name] = len(hot.content)
            self._content_bytes += len(hot.content)
        if hot.file is not None:
            self._files[name] = None
        while len(self._objects) > _MOST_OBJECTS:
            self._drop(next(iter(self._objects)))
        while self._content_bytes > _MOST_BYTES:
            oldest = next(iter(self._contents))
            self._drop_content(oldest)
        while len(self._files) > _MOST_FILES:
            oldest, _ = self._files.popitem(last=False)
            self._objects[oldest].file = None

    def _drop(self, name: str) -> None:
        hot = self._objects.pop(name, None)
        if hot is None:
            return
        self._by_sha256.pop(f"{SHA256}:{hot.row.sha256.hex()}", None)
        self._files.pop(name, None)
        if name in self._contents:
            self._content_bytes -= self._contents.pop(name)

    def _drop_content(self, name: str) -> None:
        self._content_bytes -= self._contents.pop(name)
        self._objects[name].content = None
