"""The two changes that come by the thousand, made for many small objects at once.

SQLite and the interpreter ask more for a statement than for the row in it. So what a group
commit has of these in a row is made by a few statements, as long as nothing is special about
any of it; else one by one, as every other change.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from dataplane_protocol import BLAKE3, Digest, IngestOutcome

from ...digests import BLOCK_SIZE, ObjectDigests
from . import changes
from .changes import Stored
from .rows import COLUMNS, Row

T = TypeVar("T")

#: Objects in one statement: powers of two, so that few statements have to be prepared.
_STEPS: Final = (32, 16, 8, 4, 2, 1)


class LeavesFilesError(Exception):
    """The change would leave files to unlink, which whoever asked for it does not do."""


@dataclass(frozen=True, slots=True)
class StoreSmall:
    """The change that stores an object in the catalog.

    Attributes:
        digests: Of the bytes.
        content: The bytes.
        is_trusted, require_room: As for `changes.store`.
        leaves_no_garbage: Whether to raise `LeavesFilesError` rather than leave files.
    """

    digests: ObjectDigests
    content: bytes
    is_trusted: Callable[[Row], bool]
    require_room: Callable[[int], None]
    leaves_no_garbage: bool = False

    def __call__(self, connection: sqlite3.Connection) -> Stored:
        stored = changes.store(
            connection, self.digests, self.content, self.is_trusted, self.require_room
        )
        if stored.garbage and self.leaves_no_garbage:
            raise LeavesFilesError
        return stored

    @staticmethod
    def together(
        connection: sqlite3.Connection, several: Sequence["StoreSmall"]
    ) -> list[Stored] | None:
        """Store several objects that are all new; `None`, with nothing changed, if some are not."""
        keys = [each.digests.blake3 for each in several]
        if len(set(keys)) < len(keys) or _find_all(connection, keys):
            return None
        size = sum(each.digests.size for each in several)
        several[0].require_room(size)
        last = changes.next_generation(connection, len(several), size)
        rows = [
            changes.fresh_row(each.digests, each.content, last - len(several) + place)
            for place, each in enumerate(several, 1)
        ]
        for part in _parts(list(zip(rows, several, strict=True))):
            contents = [value for row, each in part for value in (row.content, each.content)]
            connection.execute(f"INSERT INTO contents VALUES {_tuples(2, len(part))}", contents)
            values = [value for row, _ in part for value in row.values]
            connection.execute(
                f"INSERT OR REPLACE INTO objects ({COLUMNS}) VALUES {_tuples(10, len(part))}",
                values,
            )
        for each in several:
            changes.put_blocks(connection, each.digests)
        return [Stored(row=row, outcome=IngestOutcome.CREATED) for row in rows]


@dataclass(frozen=True, slots=True)
class RemoveSmall:
    """The change that removes an object; gives whether there was one.

    Raises `LeavesFilesError` if that would leave files.
    """

    digest: Digest
    if_generation: int | None

    def __call__(self, connection: sqlite3.Connection) -> bool:
        removed = changes.remove(connection, self.digest, self.if_generation)
        if removed is not None and removed.garbage:
            raise LeavesFilesError
        return removed is not None

    @staticmethod
    def together(
        connection: sqlite3.Connection, several: Sequence["RemoveSmall"]
    ) -> list[bool] | None:
        """Remove several objects; `None`, with nothing changed, if that is not plain."""
        keys = [bytes.fromhex(each.digest.hex) for each in several]
        is_plain = all(
            each.if_generation is None and each.digest.algorithm == BLAKE3 for each in several
        )
        if not is_plain or len(set(keys)) < len(keys):
            return None
        rows = _find_all(connection, keys)
        if any(row.file is not None for row in rows) or _has_any(connection, "quarantine"):
            return None
        present = [row.blake3 for row in rows]
        _delete_all(connection, "contents WHERE id", [row.content for row in rows])
        _delete_all(connection, "objects WHERE blake3", present)
        in_blocks = [row.blake3 for row in rows if row.size > BLOCK_SIZE]
        _delete_all(connection, "blocks WHERE blake3", in_blocks)
        changes.count(connection, objects=-len(rows), size=-sum(row.size for row in rows))
        return [key in set(present) for key in keys]


def _find_all(connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[Row]:
    return [
        Row(*row) for row in _select_all(connection, f"{COLUMNS} FROM objects WHERE blake3", keys)
    ]


def _has_any(connection: sqlite3.Connection, table: str) -> bool:
    return connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None


def _select_all(
    connection: sqlite3.Connection, what: str, values: Sequence[object]
) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for part in _parts(values):
        found += connection.execute(f"SELECT {what} IN {_tuples(len(part), 1)}", part)
    return found


def _delete_all(connection: sqlite3.Connection, what: str, values: Sequence[object]) -> None:
    for part in _parts(values):
        connection.execute(f"DELETE FROM {what} IN {_tuples(len(part), 1)}", part)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    start = 0
    for step in _STEPS:
        while len(items) - start >= step:
            yield items[start : start + step]
            start += step


def _tuples(width: int, count: int) -> str:
    return ",".join([f"({','.join('?' * width)})"] * count)
