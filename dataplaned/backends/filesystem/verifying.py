"""One stored copy read from the disk, both digests compared, and the outcome noted."""

import os
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dataplane_protocol import Digest

from ...digests import Digester
from ..base import Verification, describe_mismatch
from .changes import MISSING
from .errors import describe, is_damage, translated
from .reading import digest_file, no_pace
from .root import NotAFileError, stamp_of
from .rows import Row
from .store import Store


@dataclass(frozen=True, slots=True)
class Copy:
    """A stored copy, opened.

    Attributes:
        row: The object.
        fd: Its open file, for the holder to close; `None` without one.
        content: Its bytes, when it has no file.
        trouble: What is wrong with it that needs no reading; `None` otherwise.
    """

    row: Row
    fd: int | None = None
    content: bytes = b""
    trouble: str | None = None


async def verify(store: Store, digest: Digest) -> Verification:
    """Verify an object that a caller named.

    Raises:
        ObjectNotFoundError: There is none.
    """
    row = await store.run(lambda: store.find(digest))
    if row.file is None:
        await store.run(store.catalog.forget_cached)
    return await verify_copy(
        store, await store.run(lambda: open_copy(store, digest, from_disk=True))
    )


def open_copy(store: Store, digest: Digest, *, from_disk: bool = False) -> Copy:
    """Find an object and open its copy. Blocks.

    Args:
        store: Where it is.
        digest: One of its names.
        from_disk: As for `Catalog.content`, if it has no file.

    Raises:
        ObjectNotFoundError: There is none.
    """
    row = store.find(digest)
    while True:
        copy = _open_copy_of(store, row, from_disk=from_disk)
        if copy.trouble != MISSING:
            return copy
        # Deleted or healed between the row and its bytes, or really gone.
        previous, row = row, store.find(digest)
        if row.copy == previous.copy:
            return copy


def _open_copy_of(store: Store, row: Row, *, from_disk: bool) -> Copy:
    try:
        if row.file is not None:
            return Copy(row, fd=store.root.open_file(row.file))
        content = store.catalog.content(row, from_disk=from_disk)
    except FileNotFoundError:
        return Copy(row, trouble=MISSING)
    except NotAFileError:
        return Copy(row, trouble="is no regular file")
    except sqlite3.DatabaseError as exc:
        if not is_damage(exc):
            raise
        return Copy(row, trouble=f"cannot be read: {describe(exc)}")
    if content is None:
        return Copy(row, trouble=MISSING)
    trouble = None
    if len(content) != row.size:
        trouble = f"size is {len(content)} bytes, must be {row.size}"
    return Copy(row, content=content, trouble=trouble)


async def verify_copy(
    store: Store, copy: Copy, pace: Callable[[int], Awaitable[None]] = no_pace
) -> Verification:
    """Read all of a copy, and note what comes out.

    Args:
        store: Where it is.
        copy: Closed here.
        pace: As for `digest_file`.
    """
    row, stamp, trouble = copy.row, "", copy.trouble
    if copy.fd is None:
        digester = Digester()
        digester.update([copy.content])
        actual = digester.finish()
    else:
        try:
            # Before the first byte is read: a change meanwhile must not pass for verified.
            stamp = stamp_of(os.fstat(copy.fd))
            with translated(store.backend_id):
                actual, trouble = await digest_file(copy.fd, store.limiter, pace)
        finally:
            os.close(copy.fd)
    expected = await store.run(lambda: store.expected(row))
    mismatch = trouble or describe_mismatch(expected, actual)
    if mismatch is None:
        await store.mark_good(row, stamp)
    else:
        await store.mark_rotten(row, mismatch)
    return Verification(actual=actual, mismatch=mismatch)
