"""The rows of a stopped store's catalog, held against each other and against the files.

Rows come in pages, in the order of a key, so that memory does not grow with their number and a
repair of one page does not disturb the next. What each repair does is what the running daemon
does when it finds the same (changes.py).
"""

import functools
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from typing import Any, Final

from ...digests import BLOCK_SIZE, DIGEST_SIZE, Digester, ObjectDigests, count_blocks
from ..base import describe_mismatch
from . import changes
from .changes import MISSING
from .errors import describe, is_damage
from .findings import Finding, Kind, Repaired, address
from .reading import digest_blocking
from .root import CATALOG_NAME, OBJECT_FILE, OBJECTS, stamp_of
from .rows import COLUMNS, Quarantined, Row
from .stopped import StoppedStore

_PAGE: Final = 256

_OBJECTS: Final = (
    f"SELECT {COLUMNS}, "
    # One flipped bit makes text of a blob, and length(X) counts characters then.
    "(SELECT CASE typeof(bytes) WHEN 'blob' THEN length(bytes) "
    "ELSE length(CAST(bytes AS BLOB)) END FROM contents WHERE id = objects.content), "
    "(SELECT count(*) FROM quarantine AS entry WHERE entry.blake3 = objects.blake3 AND "
    "(entry.file IS NULL AND entry.content IS NULL "
    "OR entry.file IS objects.file AND entry.content IS objects.content)) "
    "FROM objects WHERE blake3 > ? ORDER BY blake3 LIMIT ?"
)


class Examination:
    """What is wrong with the rows of a catalog.

    Args:
        store: The store.
        connection: Of its catalog, or of what takes its place.
        is_verifying: Whether everything is read, too.
        on_read: Called with numbers of bytes that were read.
    """

    def __init__(
        self,
        store: StoppedStore,
        connection: sqlite3.Connection,
        *,
        is_verifying: bool,
        on_read: Callable[[int], object],
    ) -> None:
        self._store = store
        self._connection = connection
        self._is_verifying = is_verifying
        self._on_read = on_read

    def findings(self) -> Iterator[Finding]:
        """Give what is wrong. Entries come before the objects: marking those makes entries."""
        yield from self._generation()
        yield from self._quarantine()
        yield from self._objects()
        yield from self._strays()

    def totals(self) -> Iterator[Finding]:
        """Compare the totals with what is there: to be called when all else is repaired."""
        kept = self._one("SELECT objects, bytes FROM store")
        counted = self._one("SELECT count(*), coalesce(sum(size), 0) FROM objects")
        if kept != counted:
            yield Finding(
                kind=Kind.TOTALS,
                subject=CATALOG_NAME,
                detail=f"says {kept[0]} objects and {kept[1]} bytes, "
                f"has {counted[0]} and {counted[1]}",
                repair=functools.partial(
                    _execute, "UPDATE store SET objects = ?, bytes = ?", counted, "counted again"
                ),
            )

    def _generation(self) -> Iterator[Finding]:
        (last,) = self._one("SELECT generation FROM store")
        (highest,) = self._one(
            "SELECT max((SELECT coalesce(max(generation), 0) FROM objects), "
            "(SELECT coalesce(max(id), 0) FROM contents))"
        )
        if last < highest:
            yield Finding(
                kind=Kind.GENERATION,
                subject=CATALOG_NAME,
                detail=f"last generation is {last}, one of {highest} is in use",
                repair=functools.partial(
                    _execute, "UPDATE store SET generation = ?", (highest,), "raised"
                ),
            )

    def _quarantine(self) -> Iterator[Finding]:
        statement = f"SELECT {Quarantined.COLUMNS} FROM quarantine WHERE id > ? ORDER BY id LIMIT ?"
        after = 0
        while page := self._all(statement, after, _PAGE):
            for values in page:
                entry = Quarantined(*values)
                after = entry.number
                yield from self._entry(entry)

    def _entry(self, entry: Quarantined) -> Iterator[Finding]:
        found = self._all(f"SELECT {COLUMNS} FROM objects WHERE blake3 = ?", entry.blake3)
        row = Row(*found[0]) if found else None
        is_current = row is not None and entry.is_copy_of(row)
        is_rotten = row is not None and bool(row.is_rotten)
        is_gone = entry.file is None and entry.content is None
        detail, statement, outcome = None, "DELETE FROM quarantine WHERE id = ?", "removed"
        values: tuple[object, ...] = (entry.number,)
        if is_gone:
            if not is_rotten:
                detail = "is of a copy that is gone, and its object is not bad"
        elif self._is_copy_missing(entry):
            detail = MISSING
            if is_current:
                statement = (
                    "UPDATE quarantine SET file = NULL, content = NULL, reason = ? WHERE id = ?"
                )
                outcome, values = "noted", (MISSING, entry.number)
        elif is_current and not is_rotten:
            detail = "is of a copy that its object counts as good"
            statement = "UPDATE objects SET is_rotten = 1 WHERE blake3 = ?"
            outcome, values = "object marked", (entry.blake3,)
        if detail is not None:
            yield Finding(
                kind=Kind.QUARANTINE,
                subject=address(entry.blake3),
                detail=f"copy {entry.number} {detail}",
                repair=functools.partial(_execute, statement, values, outcome),
            )

    def _is_copy_missing(self, entry: Quarantined) -> bool:
        if entry.content is not None:
            return not self._all("SELECT 1 FROM contents WHERE id = ?", entry.content)
        try:
            return self._store.status(path_of(entry.file or "")) is None
        except OSError as exc:
            if not is_damage(exc):
                raise
            return False  # as bad as it is said to be

    def _objects(self) -> Iterator[Finding]:
        after = b""
        while page := self._all(_OBJECTS, after, _PAGE):
            for *values, length, entries in page:
                row = Row(*values)
                after = row.blake3
                yield from self._object(row, length, entries)

    def _object(self, row: Row, length: int | None, entries: int) -> Iterator[Finding]:
        if row.is_rotten:
            if not entries:
                yield _rotten(row, "is marked as bad, and not in quarantine")
            return
        if not _is_file_its_own(row):
            # That file is not to be kept, nor ever removed, in the name of this object.
            yield _rotten(row, "names a file that cannot be its own", MISSING)
            return
        trouble = self._trouble(row, length)
        if trouble is not None:
            yield _rotten(row, trouble)
        elif self._is_verifying:
            yield from self._verify(row)
        elif not self._are_blocks_whole(row):
            yield self._wrong_blocks(row)

    def _trouble(self, row: Row, length: int | None) -> str | None:
        """Say what is wrong with a copy, as far as that shows without reading it."""
        if row.file is None:
            size = length
        else:
            try:
                status = self._store.status(path_of(row.file))
            except OSError as exc:
                if not is_damage(exc):
                    raise
                return f"cannot be read: {describe(exc)}"
            if status is not None and not stat.S_ISREG(status.st_mode):
                return "is no regular file"
            size = None if status is None else status.st_size
        if size is None:
            return MISSING
        return None if size == row.size else f"size is {size} bytes, must be {row.size}"

    def _verify(self, row: Row) -> Iterator[Finding]:
        actual, stamp, mismatch = self._read(row)
        if mismatch is not None:
            yield _rotten(row, mismatch)
        elif actual.blocks != self._blocks_of(row) or not self._are_blocks_whole(row):
            yield self._wrong_blocks(row)
        else:
            yield Finding(
                kind=Kind.GOOD,
                subject=address(row.blake3),
                detail="",
                repair=functools.partial(_mark_good, row, stamp),
            )

    def _wrong_blocks(self, row: Row) -> Finding:
        def repair(connection: sqlite3.Connection) -> Repaired:
            actual, _, mismatch = self._read(row)
            if mismatch is not None:
                changes.mark_rotten(connection, row, mismatch)
                return Repaired(f"quarantined: {mismatch}")
            connection.execute("DELETE FROM blocks WHERE blake3 = ?", (row.blake3,))
            changes.put_blocks(connection, actual)
            return Repaired("computed again")

        return Finding(
            kind=Kind.BLOCKS,
            subject=address(row.blake3),
            detail="block digests are not those of its bytes",
            repair=repair,
        )

    def _read(self, row: Row) -> tuple[ObjectDigests, str, str | None]:
        """Read a copy; give its digests, its stamp before, and how it differs from its row."""
        actual, stamp, trouble = self._digest(row)
        if trouble is None and (actual.blake3, actual.sha256, actual.size) != (
            row.blake3,
            row.sha256,
            row.size,
        ):
            expected = ObjectDigests(
                blake3=row.blake3, sha256=row.sha256, size=row.size, blocks=self._blocks_of(row)
            )
            trouble = describe_mismatch(expected, actual)
        return actual, stamp, trouble

    def _digest(self, row: Row) -> tuple[ObjectDigests, str, str | None]:
        if row.file is None:
            ((content,),) = self._all(
                "SELECT CAST(bytes AS BLOB) FROM contents WHERE id = ?", row.content
            )
            self._on_read(len(content))
            digester = Digester()
            digester.update([content])
            return digester.finish(), "", None
        try:
            fd = self._store.open(path_of(row.file))
            try:
                stamp = stamp_of(os.fstat(fd))
                actual, trouble = digest_blocking(fd, self._on_read)
            finally:
                os.close(fd)
        except OSError as exc:
            if not is_damage(exc):
                raise
            return Digester().finish(), "", f"cannot be read: {describe(exc)}"
        return actual, stamp, trouble

    def _are_blocks_whole(self, row: Row) -> bool:
        """Whether there is a block digest for each block, where it is looked for."""
        count = count_blocks(row.size) if row.size > BLOCK_SIZE else 0
        step = changes.BLOCKS_PER_ROW
        whole = [(first, min(step, count - first) * DIGEST_SIZE) for first in range(0, count, step)]
        return whole == self._all(
            "SELECT first, length(CAST(digests AS BLOB)) FROM blocks "
            "WHERE blake3 = ? ORDER BY first",
            row.blake3,
        )

    def _blocks_of(self, row: Row) -> bytes:
        rows = self._all(
            "SELECT CAST(digests AS BLOB) FROM blocks WHERE blake3 = ? ORDER BY first", row.blake3
        )
        return b"".join(digests for (digests,) in rows)

    def _strays(self) -> Iterator[Finding]:
        # EXCEPT is worked out as a whole, in a temporary file when it is long, before the first
        # row comes: a repair may delete meanwhile.
        for (number,) in self._connection.execute(
            "SELECT id FROM contents EXCEPT SELECT content FROM objects "
            "EXCEPT SELECT content FROM quarantine"
        ):
            yield Finding(
                kind=Kind.STRAY,
                subject=CATALOG_NAME,
                detail=f"bytes {number} belong to nothing",
                repair=functools.partial(
                    _execute, "DELETE FROM contents WHERE id = ?", (number,), "removed"
                ),
            )
        for (blake3,) in self._connection.execute(
            "SELECT blake3 FROM blocks EXCEPT SELECT blake3 FROM objects"
        ):
            yield Finding(
                kind=Kind.STRAY,
                subject=address(blake3),
                detail="block digests of no object",
                repair=functools.partial(
                    _execute, "DELETE FROM blocks WHERE blake3 = ?", (blake3,), "removed"
                ),
            )

    def _all(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()

    def _one(self, statement: str) -> tuple[Any, ...]:
        (found,) = self._all(statement)
        return found


def path_of(name: str) -> str:
    """Give the path of an object's file below the root."""
    return f"{OBJECTS}/{name[:2]}/{name}"


def _is_file_its_own(row: Row) -> bool:
    return row.file is None or bool(
        OBJECT_FILE.fullmatch(row.file) and row.file.startswith(row.blake3.hex())
    )


def _rotten(row: Row, detail: str, reason: str | None = None) -> Finding:
    def repair(connection: sqlite3.Connection) -> Repaired:
        connection.execute("UPDATE objects SET is_rotten = 0 WHERE blake3 = ?", (row.blake3,))
        changes.mark_rotten(connection, row, reason or detail)
        return Repaired("quarantined")

    return Finding(kind=Kind.OBJECT, subject=address(row.blake3), detail=detail, repair=repair)


def _mark_good(row: Row, stamp: str, connection: sqlite3.Connection) -> Repaired:
    changes.mark_good(connection, row, stamp)
    return Repaired("noted")


def _execute(
    statement: str, values: tuple[object, ...], outcome: str, connection: sqlite3.Connection
) -> Repaired:
    connection.execute(statement, values)
    return Repaired(outcome)
