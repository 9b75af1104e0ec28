"""The catalog: an object exists when, and only when, its row is committed here.

SQLite in WAL mode with `synchronous=FULL`: a commit is on disk before it returns and before
any other connection sees it. What a killed process left in the WAL is different: it is seen
on opening without being durable, so opening checkpoints first.

Everything here blocks and is called from worker threads. One connection writes and one reads,
each under a lock; statements take microseconds but for the commit.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

from dataplane_protocol import SHA256, ConflictError, Digest

from ...digests import DIGEST_SIZE, ObjectDigests
from ..base import BackendError

#: `PRAGMA application_id` of a catalog: "dpcl". `file(1)` and a wrong path show it.
_APPLICATION_ID: Final = 0x6470636C

#: `PRAGMA user_version`: the format. A newer one is refused.
_FORMAT: Final = 1

#: Block digests in one row: 128 KiB of them, for 256 MiB of object.
_BLOCKS_PER_ROW: Final = 4096

_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE objects (
    blake3         BLOB PRIMARY KEY CHECK (length(blake3) = {DIGEST_SIZE}),
    sha256         BLOB NOT NULL UNIQUE CHECK (length(sha256) = {DIGEST_SIZE}),
    size           INTEGER NOT NULL CHECK (size >= 0),
    file           TEXT NOT NULL,
    generation     INTEGER NOT NULL,
    stored_at_ms   INTEGER NOT NULL,
    verified_at_ms INTEGER NOT NULL,
    stamp          TEXT NOT NULL,
    is_rotten      INTEGER NOT NULL DEFAULT 0 CHECK (is_rotten IN (0, 1))
) WITHOUT ROWID;
CREATE TABLE blocks (
    blake3  BLOB NOT NULL,
    first   INTEGER NOT NULL,
    digests BLOB NOT NULL,
    PRIMARY KEY (blake3, first)
);
CREATE TABLE totals (
    only_row   INTEGER PRIMARY KEY CHECK (only_row = 1),
    generation INTEGER NOT NULL,
    objects    INTEGER NOT NULL,
    bytes      INTEGER NOT NULL
);
INSERT INTO totals VALUES (1, 0, 0, 0);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_FORMAT};
COMMIT;
"""

_COLUMNS: Final = (
    "blake3, sha256, size, file, generation, stored_at_ms, verified_at_ms, stamp, is_rotten"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One object, as the catalog has it.

    Attributes:
        file: The name of its file in its shard.
        verified_at_ms: When the bytes of this file were last seen to be right.
        stamp: What `Root.stamp` said of the file then.
        is_rotten: Whether they were seen to be wrong since.
    """

    blake3: bytes
    sha256: bytes
    size: int
    file: str
    generation: int
    stored_at_ms: int
    verified_at_ms: int
    stamp: str
    is_rotten: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How `Catalog.store` ended.

    Attributes:
        row: The object's row now.
        is_new: Whether there was no row before.
        garbage: A file that no row names any more, or never did: the caller removes it.
    """

    row: Row
    is_new: bool
    garbage: str | None


class Catalog:
    """The open catalog of one store.

    Raises:
        BackendError: The file is no catalog, or of a newer format.
        sqlite3.Error: It cannot be read or written. After a failed commit the outcome is
            unknown until the catalog is opened again.
    """

    def __init__(self, path: str) -> None:
        self._writer = _connect(path)
        self._reader: sqlite3.Connection | None = None
        try:
            _prepare(self._writer, path)
            self._reader = _connect(path)
            self._reader.execute("PRAGMA query_only = ON")
        except BaseException:
            self.close()
            raise
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()

    def close(self) -> None:
        """Close both connections. SQLite folds the WAL into the file as the last one goes."""
        if self._reader is not None:
            self._reader.close()
        self._writer.close()

    def find(self, digest: Digest) -> Row | None:
        """Look an object up by either digest."""
        rows = self._read(f"SELECT {_COLUMNS} FROM objects WHERE {_key(digest)}", _value(digest))
        return Row(*rows[0]) if rows else None

    def page(self, after: bytes, limit: int) -> list[Row]:
        """Give at most `limit` rows in order of BLAKE3, after a value; `b""` starts."""
        rows = self._read(
            f"SELECT {_COLUMNS} FROM objects WHERE blake3 > ? ORDER BY blake3 LIMIT ?",
            after,
            limit,
        )
        return [Row(*row) for row in rows]

    def names_file(self, file: str) -> bool:
        """Whether a row names this file."""
        blake3 = bytes.fromhex(file.partition(".")[0])
        return bool(self._read("SELECT 1 FROM objects WHERE blake3 = ? AND file = ?", blake3, file))

    def block_digests(self, blake3: bytes, first: int, count: int) -> bytes:
        """Give the digests of at most `count` blocks from the index `first` on."""
        start = first // _BLOCKS_PER_ROW * _BLOCKS_PER_ROW
        rows = self._read(
            "SELECT digests FROM blocks WHERE blake3 = ? AND first BETWEEN ? AND ? ORDER BY first",
            blake3,
            start,
            first + count - 1,
        )
        digests = b"".join(row[0] for row in rows)
        return digests[(first - start) * DIGEST_SIZE :][: count * DIGEST_SIZE]

    def object_count(self) -> int:
        """Give the number of objects, without counting them."""
        return int(self._read("SELECT objects FROM totals")[0][0])

    def renew(self, row: Row) -> Row | None:
        """Give an object that an ingest found present a new generation.

        Returns:
            The row as it is now, or `None` when it is not there any more as `row` has it.
        """
        with self._transaction() as connection:
            generation = _next_generation(connection)
            renewed = connection.execute(
                "UPDATE objects SET generation = ?, stored_at_ms = ? "
                "WHERE blake3 = ? AND file = ? AND is_rotten = 0 "
                f"RETURNING {_COLUMNS}",
                (generation, _now_ms(), row.blake3, row.file),
            ).fetchall()
        return Row(*renewed[0]) if renewed else None

    def store(
        self, digests: ObjectDigests, file: str, replaces: Row | None, *, stamp: str
    ) -> Stored:
        """Commit the row of an object whose file is on disk, durably.

        Args:
            digests: What the object is.
            file: The name of its file in its shard.
            stamp: What `Root.stamp` says of the file.
            replaces: The row whose file is not to be trusted, if there was one. A row that
                came or changed meanwhile stands for fresh bytes and keeps its file, unless
                it was found to be rotten since.
        """
        with self._transaction() as connection:
            present = connection.execute(
                f"SELECT {_COLUMNS} FROM objects WHERE blake3 = ?",
                (digests.blake3,),
            ).fetchone()
            old = None if present is None else Row(*present)
            keeps = (
                old is not None
                and not old.is_rotten
                and (replaces is None or old.file != replaces.file)
            )
            now = _now_ms()
            row = Row(
                blake3=digests.blake3,
                sha256=digests.sha256,
                size=digests.size,
                file=old.file if old is not None and keeps else file,
                generation=_next_generation(connection),
                stored_at_ms=now,
                verified_at_ms=old.verified_at_ms if old is not None and keeps else now,
                stamp=old.stamp if old is not None and keeps else stamp,
                is_rotten=0,
            )
            _put_row(connection, row)
            if not keeps:
                _put_blocks(connection, digests)
            if old is None:
                _count(connection, objects=1, size=digests.size)
        garbage = None if old is None else file if keeps else old.file
        return Stored(row=row, is_new=old is None, garbage=garbage)

    def remove(self, digest: Digest, if_generation: int | None) -> Row | None:
        """Remove an object, durably. Returns its last row, or `None` when there was none.

        Raises:
            ConflictError: Its generation is another.
        """
        with self._transaction() as connection:
            present = connection.execute(
                f"SELECT {_COLUMNS} FROM objects WHERE {_key(digest)}",
                (_value(digest),),
            ).fetchone()
            if present is None:
                return None
            row = Row(*present)
            if if_generation not in (None, row.generation):
                raise ConflictError(
                    f"object has generation {row.generation}, not {if_generation}",
                    details={"generation": row.generation},
                )
            connection.execute("DELETE FROM objects WHERE blake3 = ?", (row.blake3,))
            connection.execute("DELETE FROM blocks WHERE blake3 = ?", (row.blake3,))
            _count(connection, objects=-1, size=-row.size)
        return row

    def mark_good(self, row: Row, stamp: str) -> None:
        """Note that an object's file was read and is right, if it is still its file."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE objects SET is_rotten = 0, verified_at_ms = ?, stamp = ? "
                "WHERE blake3 = ? AND file = ?",
                (_now_ms(), stamp, row.blake3, row.file),
            )

    def mark_rotten(self, row: Row) -> None:
        """Note that an object's file was read and is wrong, if it is still its file."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE objects SET is_rotten = 1 WHERE blake3 = ? AND file = ?",
                (row.blake3, row.file),
            )

    def _read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._read_lock:
            assert self._reader is not None
            return self._reader.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._write_lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=10, cached_statements=64
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    # A page that the disk cannot read must be an error, not a SIGBUS.
    connection.execute("PRAGMA mmap_size = 0")
    # FULL syncs the WAL at every commit; NORMAL loses acknowledged rows on power loss.
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    # Before the first change: what is not ours stays as it is.
    if tables and application_id != _APPLICATION_ID:
        raise BackendError(f"{path} is not a catalog")
    if tables and version != _FORMAT:
        raise BackendError(f"{path} has format {version}, this version reads {_FORMAT}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    if not tables:
        connection.executescript(_SCHEMA)
    # Rows that a killed run left in the WAL can be read now but may not be on disk; answering
    # from them would acknowledge what a power cut takes back.
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise BackendError(f"{path} is in use by another process")


def _key(digest: Digest) -> str:
    return "sha256 = ?" if digest.algorithm == SHA256 else "blake3 = ?"


def _value(digest: Digest) -> bytes:
    return bytes.fromhex(digest.hex)


def _next_generation(connection: sqlite3.Connection) -> int:
    (generation,) = connection.execute(
        "UPDATE totals SET generation = generation + 1 RETURNING generation"
    ).fetchone()
    return int(generation)


def _count(connection: sqlite3.Connection, *, objects: int, size: int) -> None:
    connection.execute(
        "UPDATE totals SET objects = objects + ?, bytes = bytes + ?", (objects, size)
    )


def _put_row(connection: sqlite3.Connection, row: Row) -> None:
    connection.execute(
        f"INSERT OR REPLACE INTO objects ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.blake3,
            row.sha256,
            row.size,
            row.file,
            row.generation,
            row.stored_at_ms,
            row.verified_at_ms,
            row.stamp,
            row.is_rotten,
        ),
    )


def _put_blocks(connection: sqlite3.Connection, digests: ObjectDigests) -> None:
    step = _BLOCKS_PER_ROW * DIGEST_SIZE
    connection.executemany(
        "INSERT OR REPLACE INTO blocks (blake3, first, digests) VALUES (?, ?, ?)",
        (
            (digests.blake3, offset // DIGEST_SIZE, digests.blocks[offset : offset + step])
            for offset in range(0, len(digests.blocks), step)
        ),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
