"""What one side of a mirror still has to do, on disk: the mirror's only state of its own.

A row says that a side has to get an object from the other one, or to lose it. A deletion is
written here before it begins, so that an object that is gone on one side is known to be deleted
and not lost.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, TypeVar

from dataplane_protocol import UnavailableError

from ...threads import make_limiter, run_in_thread, to_the_end
from ..base import BackendError

T = TypeVar("T")

_APPLICATION: Final = 0x64706D72  # "dpmr"
_FORMAT: Final = 1

_SCHEMA: Final = """
    CREATE TABLE pending (
        side INTEGER NOT NULL,
        blake3 BLOB NOT NULL,
        task TEXT NOT NULL,
        since_ms INTEGER NOT NULL,
        PRIMARY KEY (side, blake3)
    ) WITHOUT ROWID, STRICT;
    CREATE INDEX pending_by_age ON pending (side, since_ms, blake3);
"""


#: Where a row is among those of its side.
Place = tuple[int, bytes]

START: Final[Place] = (-1, b"")


class Task(StrEnum):
    """What a side has to do with an object."""

    COPY = "copy"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Pending:
    """A row of the journal. There is one for a side and an object."""

    side: int
    blake3: bytes
    task: Task


class Journal:
    """The file, and what has to be known of it at once.

    Args:
        path: Where it is; made when it is missing.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._limiter = make_limiter("mirror_journal", 1)
        self._deletions: set[tuple[int, bytes]] = set()
        self._counts: Counter[int] = Counter()
        self._oldest: dict[int, int] = {}

    async def open(self) -> None:
        """Open it, and read what is pending.

        Raises:
            BackendError: It cannot be used.
        """
        try:
            await run_in_thread(self._open, self._limiter)
        except (sqlite3.Error, OSError) as exc:
            raise BackendError(f"journal {self._path} cannot be opened: {exc}") from exc

    async def aclose(self) -> None:
        """Close it."""
        await run_in_thread(self._connection.close, self._limiter)

    async def change(self, add: Sequence[Pending] = (), drop: Sequence[Pending] = ()) -> None:
        """Drop rows, and then add others, durably; both or nothing.

        A row that is added takes the place of the one that its side had for the object. A row
        that is dropped must have the same task.

        Raises:
            UnavailableError: The disk fails; nothing has changed.
        """
        await to_the_end(lambda: self._run(lambda: self._change(add, drop)))

    async def rows(self, side: int, after: Place, limit: int) -> list[tuple[Place, Pending]]:
        """Give rows of a side, those first that have waited longest, and the place of each.

        Args:
            side: The side.
            after: Begin after this place; `START` is before all.
            limit: How many at most.
        """
        return await self._run(lambda: self._find_rows(side, after, limit))

    def is_deleted(self, side: int, blake3: bytes) -> bool:
        """Whether a side still has to delete an object: it is as if it had none."""
        return (side, blake3) in self._deletions

    def count(self, side: int) -> int:
        """How many objects a side is behind."""
        return self._counts[side]

    def since(self, side: int) -> datetime:
        """Since when it is, in UTC."""
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self._oldest[side])

    async def _run(self, function: Callable[[], T]) -> T:
        try:
            return await run_in_thread(function, self._limiter)
        except sqlite3.Error as exc:
            raise UnavailableError(f"journal of the mirror: {exc}") from exc

    def _open(self) -> None:
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            ((application,),) = connection.execute("PRAGMA application_id")
            ((version,),) = connection.execute("PRAGMA user_version")
            if (application, version) == (0, 0):
                connection.executescript(
                    f"BEGIN; PRAGMA application_id = {_APPLICATION};"
                    f"PRAGMA user_version = {_FORMAT}; {_SCHEMA} COMMIT;"
                )
            elif (application, version) != (_APPLICATION, _FORMAT):
                raise sqlite3.DatabaseError(f"not a journal of format {_FORMAT}")  # noqa: TRY301
            # What a killed daemon left is seen from here on, and so has to be durable.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            rows = connection.execute(
                "SELECT side, blake3 FROM pending WHERE task = ?", (Task.DELETE,)
            )
            self._deletions = {(side, blake3) for side, blake3 in rows}
            self._connection = connection
            self._recount()
        except BaseException:
            connection.close()
            raise

    def _change(self, add: Sequence[Pending], drop: Sequence[Pending]) -> None:
        now = time.time_ns() // 1_000_000
        counts = self._counts.copy()
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            for row in drop:
                counts[row.side] -= execute(
                    "DELETE FROM pending WHERE side = ? AND blake3 = ? AND task = ?",
                    (row.side, row.blake3, row.task),
                ).rowcount
            for row in add:
                counts[row.side] += execute(
                    "INSERT OR IGNORE INTO pending VALUES (?, ?, ?, ?)",
                    (row.side, row.blake3, row.task, now),
                ).rowcount
                execute(
                    "UPDATE pending SET task = ?3, since_ms = ?4 "
                    "WHERE side = ?1 AND blake3 = ?2 AND task <> ?3",
                    (row.side, row.blake3, row.task, now),
                )
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise
        ended = [row for row in drop if row.task == Task.DELETE]
        self._deletions -= {(row.side, row.blake3) for row in (*ended, *add)}
        self._deletions |= {(row.side, row.blake3) for row in add if row.task == Task.DELETE}
        self._counts = counts
        for side in {row.side for row in (*drop, *add)}:
            self._find_age(side)

    def _recount(self) -> None:
        rows = self._connection.execute("SELECT side, count(*) FROM pending GROUP BY side")
        self._counts = Counter(dict(rows))
        for side in self._counts:
            self._find_age(side)

    def _find_age(self, side: int) -> None:
        query = "SELECT min(since_ms) FROM pending WHERE side = ?"
        ((self._oldest[side],),) = self._connection.execute(query, (side,))

    def _find_rows(self, side: int, after: Place, limit: int) -> list[tuple[Place, Pending]]:
        rows = self._connection.execute(
            "SELECT since_ms, blake3, task FROM pending "
            "WHERE side = ? AND (since_ms, blake3) > (?, ?) ORDER BY since_ms, blake3 LIMIT ?",
            (side, *after, limit),
        )
        return [
            ((since, blake3), Pending(side, blake3, Task(task))) for since, blake3, task in rows
        ]
