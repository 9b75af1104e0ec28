"""The calls of a filesystem backend that can be done at once; see `QuickBackend`.

Rows come from memory or from the catalog, as far as no disk has to be waited for, a file's
bytes from the kernel's cache or not at all. Changes are handed to the catalog's writer, as
those of ordinary calls are.
"""

import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from dataplane_protocol import ContentAddress, RangeNotSatisfiableError, resolve_range

from ...digests import BLOCK_SIZE, ObjectDigests, find_bad_block, touched_blocks
from ..quick import MAX_QUICK_READ, QuickBackend, QuickRead, QuickReceipt
from .changes import Stored
from .hot import HotFile, HotObject
from .opening import MOST_QUICK_BLOCKS, few_block_digests
from .rows import Row
from .small import RemoveSmall, StoreSmall
from .store import Store

#: Bytes of the blocks that a range of the largest size can touch.
_BUFFER_SIZE: Final = MOST_QUICK_BLOCKS * BLOCK_SIZE


class _Found(NamedTuple):
    """The end of a lookup: the object, or that there is none."""

    hot: HotObject | None


class FilesystemQuick(QuickBackend):
    """What a store can do without waiting.

    Args:
        store: The store, which may be opened later.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._view = memoryview(bytearray(_BUFFER_SIZE))

    def stat(self, addresses: Sequence[str], done: Callable[[list[bytes] | None], None]) -> bool:
        entries: list[bytes] = []
        for address in addresses:
            hot = self._store.catalog.hot.get(address)
            if hot is None:
                found = self._look_up(address)
                if found is None:
                    return False
                hot = found.hot
            if hot is not None:
                entries.append(hot.entry)
        done(entries)
        return True

    def read(
        self,
        address: str,
        byte_range: tuple[int, int] | None,
        done: Callable[[QuickRead | None], None],
    ) -> bool:
        self._store.note_call()
        hot = self._store.catalog.hot.get(address)
        if hot is None:
            found = self._look_up(address)
            hot = None if found is None else found.hot
        read = None if hot is None else self._range(hot, byte_range)
        if read is not None:
            done(read)
        return read is not None

    def ingest(
        self, content: bytes, digests: ObjectDigests, done: Callable[[QuickReceipt | None], None]
    ) -> bool:
        store = self._store
        if store.read_only_reason or len(content) > store.config.small_object_size:
            return False
        store.note_call()

        def finish(stored: Stored | None) -> None:
            if stored is None:
                done(None)
                return
            row = stored.row
            done(QuickReceipt(str(stored.outcome), row.generation, row.stored_at_ms))

        change = StoreSmall(
            digests, content, store.is_trusted, store.root.require_room, leaves_no_garbage=True
        )
        store.submit(change, finish, keep=lambda stored: HotObject(stored.row))
        return True

    def delete(
        self, address: str, if_generation: int | None, done: Callable[[bool | None], None]
    ) -> bool:
        if self._store.read_only_reason:
            return False
        self._store.note_call()
        digest = ContentAddress(address).to_digest()
        self._store.submit(RemoveSmall(digest, if_generation), done)
        return True

    def _look_up(self, address: str) -> _Found | None:
        """Look an object up, and keep it; `None` if that might take a disk, or fails."""
        catalog = self._store.catalog
        version = catalog.hot.read_version()
        digest = ContentAddress(address).to_digest()
        found = catalog.look_up(lambda lookups: lookups.find(digest))
        if found is None:
            return None
        if found[0] is None:
            return _Found(None)
        hot = HotObject(found[0])
        catalog.hot.keep(hot, version)
        return _Found(hot)

    def _range(self, hot: HotObject, byte_range: tuple[int, int] | None) -> QuickRead | None:
        if self._store.is_rotten(hot.row):
            return None
        try:
            offset, length = resolve_range(byte_range, hot.row.size)
        except RangeNotSatisfiableError:
            return None
        if not 1 <= length <= MAX_QUICK_READ:
            return None
        content: bytes | memoryview | None = None
        file = hot.file  # which the writer's thread may take out of it
        if hot.row.file is None:
            content = self._read_row(hot.row, offset, length)
        elif file is not None:
            content = self._read_file(file, hot.row, offset, length)
        return None if content is None else QuickRead(hot.row.size, offset, content)

    def _read_row(self, row: Row, offset: int, length: int) -> bytes | None:
        found = self._store.catalog.look_up(lambda lookups: lookups.content(row))
        content = None if found is None else found[0]
        if content is None or len(content) != row.size:
            return None
        if find_bad_block(content, row.blake3) is not None:
            return None
        return content[offset : offset + length]

    def _read_file(self, file: HotFile, row: Row, offset: int, length: int) -> memoryview | None:
        first, count = touched_blocks(offset, length)
        start = first * BLOCK_SIZE
        data = self._view[: min(count * BLOCK_SIZE, row.size - start)]
        digests = self._block_digests(row, first, count)
        if digests is None or not _read_cached(file, data, start):
            return None
        if find_bad_block(data, digests) is not None:
            return None
        return data[offset - start : offset - start + length]

    def _block_digests(self, row: Row, first: int, count: int) -> bytes | None:
        if row.size <= BLOCK_SIZE:
            return row.blake3
        catalog = self._store.catalog
        return few_block_digests(row, first, count, catalog.hot, catalog.look_up)


def _read_cached(file: HotFile, data: memoryview, offset: int) -> bool:
    """Read from the kernel's cache; false when the bytes are not there, or not to be trusted."""
    try:
        if not file.is_unchanged:
            return False
        return os.preadv(file.fd, (data,), offset, os.RWF_NOWAIT) == len(data)
    except OSError:
        return False  # not cached, a filesystem that cannot tell, or trouble
