"""An object opened for serving: its copy, and the digests to hold its bytes against. Blocks."""

import dataclasses
import os
from collections.abc import Callable
from typing import Final, TypeAlias

from dataplane_protocol import Digest, ObjectCorruptError, resolve_range

from ...digests import BLOCK_SIZE, DIGEST_SIZE, Digester, count_blocks, touched_blocks
from .changes import BLOCKS_PER_ROW
from .hot import HotObjects
from .lookups import Lookups
from .rows import Row
from .store import Store
from .verifying import Copy, open_copy

#: Looks something up, if it can; see `Catalog.look_up`.
LookUp: TypeAlias = Callable[[Callable[[Lookups], bytes | None]], tuple[bytes | None] | None]

#: Blocks that a range of `MAX_QUICK_READ` bytes touches at most.
MOST_QUICK_BLOCKS: Final = 2

#: The BLAKE3 value of no bytes, against which there is nothing to read.
_EMPTY: Final = Digester().finish().blake3


def open_to_serve(store: Store, digest: Digest) -> Copy:
    """Open a copy that is not known to be bad; its `trouble` says what else is wrong with it.

    Raises:
        ObjectNotFoundError: There is none.
        ObjectCorruptError: It is in quarantine.
    """
    copy = open_copy(store, digest)
    try:
        _refuse_rotten(store, copy.row)
        if copy.trouble is None:
            copy = dataclasses.replace(copy, trouble=_contradiction(store, copy.row))
    except BaseException:
        close_copy(copy)
        raise
    return copy


def close_copy(copy: Copy) -> None:
    """Close the file of a copy, if it has one."""
    if copy.fd is not None:
        os.close(copy.fd)


def block_digests(store: Store, row: Row, byte_range: tuple[int, int] | None) -> bytes:
    """Give the digests of the blocks that a range touches.

    Raises:
        ObjectNotFoundError: The object was deleted meanwhile.
        RangeNotSatisfiableError: It has no byte in the range.
    """
    first, count = touched_blocks(*resolve_range(byte_range, row.size))
    if row.size <= BLOCK_SIZE:
        return row.blake3 if row.size else b""
    if count <= MOST_QUICK_BLOCKS:
        catalog = store.catalog
        found = few_block_digests(row, first, count, catalog.hot, lambda look: (look(catalog),))
        if found is not None:
            return found
    digests = store.catalog.block_digests(row.blake3, first, count)
    if len(digests) < count * DIGEST_SIZE:
        store.find(row.digest)  # a delete took them; otherwise reading will tell
    return digests


def few_block_digests(
    row: Row, first: int, count: int, hot: HotObjects, look_up: LookUp
) -> bytes | None:
    """Give the digests of a few blocks out of memory, where whole rows of them are kept.

    Args:
        row: An object of more than one block.
        first: Index of the first block.
        count: How many.
        hot: Where they are kept.
        look_up: Looks for those that are not, if it can.
    """
    place, in_row = divmod(first, BLOCKS_PER_ROW)
    of_row = _block_row(row, place * BLOCKS_PER_ROW, hot, look_up)
    if of_row is None:
        return None
    digests = of_row[in_row * DIGEST_SIZE : (in_row + count) * DIGEST_SIZE]
    missing = count - len(digests) // DIGEST_SIZE
    if missing and len(of_row) == BLOCKS_PER_ROW * DIGEST_SIZE:
        more = few_block_digests(row, first + count - missing, missing, hot, look_up)
        return None if more is None else digests + more
    return digests


def _block_row(row: Row, start: int, hot: HotObjects, look_up: LookUp) -> bytes | None:
    of_row = hot.block_digests(row.blake3, start)
    if of_row is not None:
        return of_row
    version = hot.read_version()
    found = look_up(lambda lookups: lookups.block_row(row.blake3, start))
    if found is None or found[0] is None:
        return None
    hot.keep_block_digests(row.blake3, start, found[0], version)
    return found[0]


def _refuse_rotten(store: Store, row: Row) -> None:
    if store.is_rotten(row):
        raise ObjectCorruptError(f"object {row.digest} is quarantined")


def _contradiction(store: Store, row: Row) -> str | None:
    """Say what contradicts the size in the catalog, which no digest vouches for."""
    if row.size == 0:
        return None if row.blake3 == _EMPTY else "size is 0 bytes, which its name is not of"
    if row.file is None:
        return None
    count = store.catalog.count_block_digests(row.blake3)
    expected = count_blocks(row.size) if row.size > BLOCK_SIZE else 0
    if count == expected:
        return None
    store.find(row.digest)  # a delete took them
    return f"has {count} block digests, must have {expected}"
