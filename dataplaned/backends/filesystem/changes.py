"""What may change in a catalog. Each function is one change of a transaction; see writer.py.

    store    an object's row, pointing to the fresh bytes or, if it is trusted, to the old copy
    remove   the row, the bytes in the catalog, the block digests, the copies in quarantine
    mark_*   what reading an object has shown
    purge    one copy out of quarantine

They take the connection first, and say which files no row names any more: the caller unlinks
those once the transaction is on disk.
"""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from dataplane_protocol import ConflictError, Digest, IngestOutcome

from ...digests import DIGEST_SIZE, ObjectDigests
from .rows import COLUMNS, Quarantined, Row, key_of, value_of

#: Block digests in one row: 128 KiB of them, for 256 MiB of object.
BLOCKS_PER_ROW: Final = 4096

#: Why a copy is in quarantine of which there is nothing to keep.
MISSING: Final = "its bytes are gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """Fresh bytes of an object, in a file that is on disk under this name, with its stamp."""

    name: str
    stamp: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How `store` ended.

    Attributes:
        row: The object's row now.
        outcome: What the ingest found.
        garbage: Files that no row names any more, or never did.
    """

    row: Row
    outcome: IngestOutcome
    garbage: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What `remove` or `purge` took: files that no row names any more."""

    garbage: tuple[str, ...] = ()


def store(
    connection: sqlite3.Connection,
    digests: ObjectDigests,
    fresh: NewFile | bytes,
    is_trusted: Callable[[Row], bool],
    require_room: Callable[[int], None] = lambda _: None,
) -> Stored:
    """Put the row of an object whose bytes are at hand, as a file or as they are.

    A copy that is there and trusted is kept, and the fresh bytes are garbage. A rotten one
    that is replaced stays in quarantine. `require_room` is asked before anything that takes
    room.
    """
    old = _find(connection, digests.blake3)
    if old is not None and _is_good(old, digests, is_trusted):
        return kept(_renewed(connection, old), (fresh.name,) if isinstance(fresh, NewFile) else ())
    require_room(digests.size)
    generation = next_generation(connection, int(old is None), digests.size if old is None else 0)
    row = fresh_row(digests, fresh, generation)
    if not isinstance(fresh, NewFile):
        connection.execute("INSERT INTO contents VALUES (?, ?)", (generation, fresh))
    _put_row(connection, row)
    put_blocks(connection, digests)
    if old is None:
        return Stored(row=row, outcome=IngestOutcome.CREATED)
    garbage = () if old.is_rotten else _drop_copy(connection, old)
    connection.execute(
        "DELETE FROM quarantine WHERE blake3 = ? AND file IS NULL AND content IS NULL",
        (row.blake3,),  # of what was missing there is nothing to keep
    )
    return Stored(row=row, outcome=IngestOutcome.HEALED, garbage=garbage)


def kept(row: Row, garbage: tuple[str, ...] = ()) -> Stored:
    """Say that an ingest found a trusted copy."""
    return Stored(row=row, outcome=IngestOutcome.EXISTED, garbage=garbage)


def renew(
    connection: sqlite3.Connection, digests: ObjectDigests, is_trusted: Callable[[Row], bool]
) -> Row | None:
    """Give an object that an ingest found present a new generation.

    Returns:
        The row as it is now; `None` when there is none, or none that is right and whose copy
        is trusted.
    """
    present = _find(connection, digests.blake3)
    if present is None or not _is_good(present, digests, is_trusted):
        return None
    return _renewed(connection, present)


def remove(
    connection: sqlite3.Connection, digest: Digest, if_generation: int | None
) -> Removed | None:
    """Remove an object, with the bad copies of it that were kept; `None` if there is none.

    Raises:
        ConflictError: Its generation is another.
    """
    present = connection.execute(
        f"SELECT {COLUMNS} FROM objects WHERE {key_of(digest)}", (value_of(digest),)
    ).fetchone()
    if present is None:
        return None
    row = Row(*present)
    if if_generation not in (None, row.generation):
        raise ConflictError(
            f"object has generation {row.generation}, not {if_generation}",
            details={"generation": row.generation},
        )
    garbage = set(_drop_copy(connection, row))
    for entry in _entries_of(connection, row.blake3):
        garbage.update(_drop_copy(connection, entry))
    connection.execute("DELETE FROM objects WHERE blake3 = ?", (row.blake3,))
    connection.execute("DELETE FROM blocks WHERE blake3 = ?", (row.blake3,))
    connection.execute("DELETE FROM quarantine WHERE blake3 = ?", (row.blake3,))
    count(connection, objects=-1, size=-row.size)
    return Removed(garbage=tuple(garbage))


def mark_good(connection: sqlite3.Connection, row: Row, stamp: str) -> None:
    """Note that an object's copy was read and is right, if it is still its copy."""
    marked = connection.execute(
        "UPDATE objects SET is_rotten = 0, verified_at_ms = ?, stamp = ? "
        "WHERE blake3 = ? AND file IS ? AND content IS ?",
        (now_ms(), stamp, row.blake3, row.file, row.content),
    ).rowcount
    # It may have got into quarantine since `row` was read: left there, a purge would take the
    # object's only copy. And one that was replaced since is quarantine's alone to name.
    if marked:
        connection.execute(
            "DELETE FROM quarantine WHERE blake3 = ? AND (file = ? OR content = ? "
            "OR file IS NULL AND content IS NULL)",
            (row.blake3, row.file, row.content),
        )


def mark_rotten(connection: sqlite3.Connection, row: Row, reason: str) -> bool:
    """Put an object's copy into quarantine, if it is still its copy.

    Returns:
        Whether it was not there yet.
    """
    marked = connection.execute(
        "UPDATE objects SET is_rotten = 1 "
        "WHERE blake3 = ? AND file IS ? AND content IS ? AND is_rotten = 0",
        (row.blake3, row.file, row.content),
    ).rowcount
    if not marked:
        return False
    is_kept = reason != MISSING
    connection.execute(
        "INSERT INTO quarantine (blake3, size, file, content, reason, found_at_ms) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            row.blake3,
            row.size,
            row.file if is_kept else None,
            row.content if is_kept else None,
            reason,
            now_ms(),
        ),
    )
    return True


def purge(connection: sqlite3.Connection, number: int) -> Removed | None:
    """Remove one copy from quarantine; the object with it if that has no other.

    Returns:
        `None` when no entry has this number.
    """
    found = connection.execute(
        f"SELECT {Quarantined.COLUMNS} FROM quarantine WHERE id = ?", (number,)
    ).fetchone()
    if found is None:
        return None
    entry = Quarantined(*found)
    row = _find(connection, entry.blake3)
    if row is not None and row.is_rotten and entry.is_copy_of(row):
        return remove(connection, row.digest, None)
    connection.execute("DELETE FROM quarantine WHERE id = ?", (number,))
    return Removed(garbage=_drop_copy(connection, entry))


def now_ms() -> int:
    """Give the time as the catalog has it: milliseconds since 1970 in UTC."""
    return time.time_ns() // 1_000_000


def _find(connection: sqlite3.Connection, blake3: bytes) -> Row | None:
    found = connection.execute(
        f"SELECT {COLUMNS} FROM objects WHERE blake3 = ?", (blake3,)
    ).fetchone()
    return None if found is None else Row(*found)


def _entries_of(connection: sqlite3.Connection, blake3: bytes) -> list[Quarantined]:
    found = connection.execute(
        f"SELECT {Quarantined.COLUMNS} FROM quarantine WHERE blake3 = ?", (blake3,)
    )
    return [Quarantined(*entry) for entry in found]


def _drop_copy(connection: sqlite3.Connection, copy: Row | Quarantined) -> tuple[str, ...]:
    """Drop the bytes in the catalog, or give the file to unlink."""
    if copy.content is not None:
        connection.execute("DELETE FROM contents WHERE id = ?", (copy.content,))
    return () if copy.file is None else (copy.file,)


def _is_good(row: Row, digests: ObjectDigests, is_trusted: Callable[[Row], bool]) -> bool:
    is_same = (row.sha256, row.size) == (digests.sha256, digests.size)
    return is_same and is_trusted(row)


def _renewed(connection: sqlite3.Connection, row: Row) -> Row:
    renewed = replace(row, generation=next_generation(connection), stored_at_ms=now_ms())
    connection.execute(
        "UPDATE objects SET generation = ?, stored_at_ms = ? WHERE blake3 = ?",
        (renewed.generation, renewed.stored_at_ms, row.blake3),
    )
    return renewed


def fresh_row(digests: ObjectDigests, fresh: NewFile | bytes, generation: int) -> Row:
    """Give the row of an object that is stored now."""
    now = now_ms()
    return Row(
        blake3=digests.blake3,
        sha256=digests.sha256,
        size=digests.size,
        file=fresh.name if isinstance(fresh, NewFile) else None,
        # A number that was never used before, so that no reader takes one copy for another.
        content=None if isinstance(fresh, NewFile) else generation,
        generation=generation,
        stored_at_ms=now,
        verified_at_ms=now,
        stamp=fresh.stamp if isinstance(fresh, NewFile) else "",
        is_rotten=0,
    )


def next_generation(connection: sqlite3.Connection, objects: int = 0, size: int = 0) -> int:
    """Give a new generation, or the last of as many as objects are new; count those."""
    (generation,) = connection.execute(
        "UPDATE store SET generation = generation + ?, objects = objects + ?, bytes = bytes + ? "
        "RETURNING generation",
        (max(1, objects), objects, size),
    ).fetchone()
    return int(generation)


def count(connection: sqlite3.Connection, *, objects: int, size: int) -> None:
    """Add to the number of objects and of their bytes."""
    connection.execute("UPDATE store SET objects = objects + ?, bytes = bytes + ?", (objects, size))


def _put_row(connection: sqlite3.Connection, row: Row) -> None:
    connection.execute(
        f"INSERT OR REPLACE INTO objects ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row.values,
    )


def put_blocks(connection: sqlite3.Connection, digests: ObjectDigests) -> None:
    """Put the block digests of an object."""
    step = BLOCKS_PER_ROW * DIGEST_SIZE
    for offset in range(0, len(digests.blocks), step):
        connection.execute(
            "INSERT OR REPLACE INTO blocks (blake3, first, digests) VALUES (?, ?, ?)",
            (digests.blake3, offset // DIGEST_SIZE, digests.blocks[offset : offset + step]),
        )
