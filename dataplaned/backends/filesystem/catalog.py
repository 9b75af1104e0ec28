"""The catalog: an object exists when, and only when, its row is committed here.

One thread writes (writer.py), in groups. Reading goes over a connection of its own, under a
lock, from whatever worker thread asks; statements take microseconds. Another one is the event
loop's alone, for when no disk can be in the way (residency.py, glance.py), and one reads past
every cache, for verifying.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, TypeVar, cast

import trio

from ...digests import DIGEST_SIZE
from ...metrics import StoreMeasures
from . import changes, schema
from .glance import Glance
from .hot import HotObject, HotObjects
from .lookups import CONTENT, Lookups
from .residency import Residency
from .rows import COLUMNS, Quarantined, Row
from .version import CatalogVersion
from .writer import Change, Done, Writer

T = TypeVar("T")

#: Bytes of pages that the writing connection may hold: the upper levels of both digest trees
#: of some ten million objects, and the leaves that a group touches.
_WRITER_CACHE: Final = 80 * 1024 * 1024
_READER_CACHE: Final = 8 * 1024 * 1024

#: Instructions of SQLite between two looks whether a check of the catalog was cancelled.
_CHECK_STEP: Final = 100_000


@dataclass(frozen=True, slots=True)
class ScrubRecord:
    """What the catalog keeps of the scrub beside the time of each verification.

    Attributes:
        is_paused: Whether an operator has paused it.
        asked_at_ms: When one last asked for everything to be verified.
        catalog_checked_at_ms: When the catalog itself was last checked.
    """

    is_paused: int
    asked_at_ms: int
    catalog_checked_at_ms: int


class Catalog(Lookups):
    """The open catalog of one store. Everything here blocks but `commit` and `submit`.

    Args:
        path: The file, made when it is missing.
        run: Names this opening of the store.
        last_run: The last opening that the store knows of; empty if it knows none.

    Raises:
        BackendError: The file is no catalog, of another format, or not this store's latest.
        sqlite3.Error: It cannot be read or written. After a failed commit the outcome is
            unknown until the catalog is opened again.

    Attributes:
        hot: What is kept in memory of it.
    """

    def __init__(self, path: str, *, run: str, last_run: str) -> None:
        self.path = path
        self._connections: list[sqlite3.Connection] = []
        self._fds: list[int] = []
        self._version: CatalogVersion | None = None
        self._disk_lock = threading.Lock()
        writing = self._connect(_WRITER_CACHE)
        try:
            schema.prepare(writing, path, last_run)
            schema.begin_run(writing, path, run, last_run)
            super().__init__(self._connect(_READER_CACHE))
            self._at_once = Lookups(self._connect(_READER_CACHE, timeout_s=0))
            self._disk = self._connect(0)
            self._disk.execute("PRAGMA query_only = ON")
            # Closed after every connection: close(2) of any descriptor of the file would take
            # SQLite's locks away (fcntl(2)).
            for end in ("", "-wal"):
                self._fds.append(os.open(path + end, os.O_RDONLY | os.O_CLOEXEC))
            self._version = CatalogVersion(path)
        except BaseException:
            self._close()
            raise
        self.hot = HotObjects(self._version.read)
        self._residency = Residency(self._fds)
        self._glance = Glance()
        self._writer = Writer(writing, self.hot)

    def count_in(self, measures: StoreMeasures) -> None:
        """Have transactions counted there."""
        self._writer.measures = measures

    def close(self) -> None:
        """Commit what was submitted and close. SQLite folds the WAL into the file."""
        self._writer.close()
        self._residency.close()
        self._glance.close()
        self.hot.clear()
        self._close()

    def look_up(self, function: Callable[[Lookups], T]) -> tuple[T] | None:
        """Look something up for the event loop, if that takes no disk.

        Returns:
            What `function` gives, in a tuple; `None` when it failed, or would have taken long.
        """
        if not self._residency.is_certain:
            return self._glance.take(lambda: function(self))
        try:
            return (function(self._at_once),)
        except sqlite3.Error:
            return None

    def commit(self, change: Change[T]) -> "Future[T]":
        """Have a change committed with whatever else is waiting; see `Writer.submit`."""
        future: Future[T] = Future()

        def finish(result: T | None, error: Exception | None) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(cast("T", result))

        self._writer.submit(change, finish)
        return future

    def submit(
        self, change: Change[T], done: Done[T], keep: Callable[[T], HotObject] | None = None
    ) -> None:
        """Have a change committed; `done` is called in the writer's thread."""
        self._writer.submit(change, done, keep)

    def page(self, after: bytes, limit: int) -> list[Row]:
        """Give at most `limit` rows in order of BLAKE3, after a value; `b""` starts."""
        rows = self._read(
            f"SELECT {COLUMNS} FROM objects WHERE blake3 > ? ORDER BY blake3 LIMIT ?",
            after,
            limit,
        )
        return [Row(*row) for row in rows]

    def content(self, row: Row, *, from_disk: bool = False) -> bytes | None:
        """Give the bytes of an object that has no file; `None` if this copy is gone.

        Args:
            row: The object.
            from_disk: Whether to read past every cache, once `forget_cached` was called.
        """
        if not from_disk:
            return super().content(row)
        with self._disk_lock:
            found = self._disk.execute(CONTENT, (row.content,)).fetchall()
        return found[0][0] if found else None

    def forget_cached(self) -> None:
        """Have `content` find the disk and no cache below it, from here on.

        The catalog leaves the kernel's page cache as a whole: where in it an object's bytes
        are, SQLite does not tell.
        """
        self._residency.note_dropping()
        with self._disk_lock:
            self._disk.execute("PRAGMA shrink_memory")
        for fd in self._fds:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def names_file(self, file: str) -> bool:
        """Whether a row names this file."""
        blake3 = bytes.fromhex(file.partition(".")[0])
        return bool(
            self._read("SELECT 1 FROM objects WHERE blake3 = ? AND file = ?", blake3, file)
            or self._read("SELECT 1 FROM quarantine WHERE file = ?", file)
        )

    def block_digests(self, blake3: bytes, first: int, count: int) -> bytes:
        """Give the digests of at most `count` blocks from the index `first` on."""
        start = first // changes.BLOCKS_PER_ROW * changes.BLOCKS_PER_ROW
        rows = self._read(
            "SELECT CAST(digests AS BLOB) FROM blocks "
            "WHERE blake3 = ? AND first BETWEEN ? AND ? ORDER BY first",
            blake3,
            start,
            first + count - 1,
        )
        digests = b"".join(row[0] for row in rows)
        return digests[(first - start) * DIGEST_SIZE :][: count * DIGEST_SIZE]

    def count_block_digests(self, blake3: bytes) -> int:
        """Give the number of an object's block digests."""
        ((size,),) = self._read(
            # The length of a blob is known without reading it; that of text is in characters.
            "SELECT coalesce(sum(CASE typeof(digests) WHEN 'blob' THEN length(digests) "
            "ELSE length(CAST(digests AS BLOB)) END), 0) FROM blocks WHERE blake3 = ?",
            blake3,
        )
        return int(size) // DIGEST_SIZE

    def totals(self) -> tuple[int, int]:
        """Give the number of objects and of their bytes, without counting them."""
        ((objects, size),) = self._read("SELECT objects, bytes FROM store")
        return int(objects), int(size)

    def due(self, before_ms: int, limit: int, skip: int = 0) -> list[Row]:
        """Give objects that were last seen to be right before a time, the longest ago first."""
        rows = self._read(
            f"SELECT {COLUMNS} FROM objects WHERE verified_at_ms < ? AND is_rotten = 0 "
            "ORDER BY verified_at_ms LIMIT ? OFFSET ?",
            before_ms,
            limit,
            skip,
        )
        return [Row(*row) for row in rows]

    def due_totals(self, before_ms: int) -> tuple[int, int, int | None]:
        """Give the number and bytes of what `due` would give, and the oldest verification."""
        ((objects, size, oldest),) = self._read(
            "SELECT count(*), coalesce(sum(size), 0), min(verified_at_ms) FROM objects "
            "WHERE verified_at_ms < ? AND is_rotten = 0",
            before_ms,
        )
        return int(objects), int(size), oldest

    def scrub_record(self) -> ScrubRecord:
        """Give what is kept of the scrub."""
        (record,) = self._read(
            "SELECT is_scrub_paused, scrub_asked_at_ms, catalog_checked_at_ms FROM store"
        )
        return ScrubRecord(*record)

    def quarantined(self, after: int, limit: int) -> list[Quarantined]:
        """Give at most `limit` copies in quarantine, in the order in which they came there."""
        rows = self._read(
            f"SELECT {Quarantined.COLUMNS} FROM quarantine WHERE id > ? ORDER BY id LIMIT ?",
            after,
            limit,
        )
        return [Quarantined(*row) for row in rows]

    def quarantined_count(self) -> int:
        """Give the number of copies in quarantine."""
        return int(self._read("SELECT count(*) FROM quarantine")[0][0])

    def fold(self) -> None:
        """Fold the WAL into the file, as far as there is room, so that it starts anew."""
        connection = schema.connect(self.path)
        try:
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()

    def check(self) -> str | None:
        """Have SQLite check the whole file.

        Called in a thread of trio's, whose cancellation ends it.

        Returns:
            What is wrong first, or `None`.
        """
        connection = schema.connect(self.path)
        try:
            connection.set_progress_handler(trio.from_thread.check_cancelled, _CHECK_STEP)
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as exc:
            trio.from_thread.check_cancelled()
            return str(exc)
        finally:
            connection.close()
        return None if found == "ok" else str(found)

    def backup(self, path: str) -> None:
        """Write the catalog as it is now to a new file. It is not synced.

        Raises:
            sqlite3.Error: The file is there already, or cannot be written.
        """
        connection = schema.connect(self.path)
        try:
            connection.execute("VACUUM INTO ?", (path,))
        finally:
            connection.close()
        copy = schema.connect(path)
        try:
            # So that no daemon takes it for the catalog: the sweep would remove what came since.
            copy.execute("UPDATE store SET is_backup = 1")
        finally:
            copy.close()

    def _connect(self, cache_size: int, timeout_s: float = 10) -> sqlite3.Connection:
        connection = schema.connect(self.path, cache_size=cache_size, timeout_s=timeout_s)
        self._connections.append(connection)
        return connection

    def _close(self) -> None:
        for connection in reversed(self._connections):
            connection.close()
        if self._version is not None:
            self._version.close()
        for fd in self._fds:
            os.close(fd)
