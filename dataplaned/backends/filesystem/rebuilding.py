"""A new catalog in the place of one that is lost or damaged.

It starts from the backup, when that is sound, takes small objects out of what can still be read
of the damaged one, and is marked as a backup: whoever opens it knows that object files without
a row may be all there is of an object, and no daemon opens it, until `fsck` has been through
with it. The steps, each durable before the next:

    build     the new catalog, under `staging/`
    ready     rename it to `catalog.sqlite3-new`
    aside     rename the damaged one to `catalog.sqlite3-damaged-N`, then its journals likewise
    place     rename the new one to `catalog.sqlite3`

A crash before `aside` leaves the damaged one, and all starts over; one after it leaves no
catalog and a ready one, which is only placed. So nothing is ever salvaged from what an earlier
repair has set aside, and no old WAL comes to lie beside the new catalog, which SQLite would
replay into it. The main file goes aside first: a catalog without its WAL passes for whole.
"""

import contextlib
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from typing import Any, Final

from ...digests import Digester
from . import changes, schema
from .errors import is_damage
from .root import BACKUP_NAME, CATALOG_NAME, DAMAGED_CATALOG_NAME, NEXT_CATALOG_NAME, Root
from .rows import COLUMNS, Row
from .stopped import JOURNALS, StoppedStore, damage_of, look_at

#: The highest number that is believed to be a generation or a time in microseconds: that of
#: the year 2112. A damaged number must not use up those that the contract has, up to 2**53.
_MAX_BELIEVED: Final = 2**52

_NUMBERED: Final = re.compile(rf"{re.escape(DAMAGED_CATALOG_NAME)}-(\d+)(-\w+)?")


def rebuild(store: StoppedStore) -> str:
    """Put a new catalog in the place of one that is lost or damaged.

    Args:
        store: Opened for changes.

    Returns:
        What was done, in a few words.
    """
    root = store.root
    assert root is not None
    names = store.names()
    outcome = "made anew"
    if CATALOG_NAME in names or NEXT_CATALOG_NAME not in names:
        outcome = _build(store, root)
    kept = _set_aside(store)
    os.rename(f"{store.path}/{NEXT_CATALOG_NAME}", store.catalog_path)
    root.sync()
    return f"{outcome}; the damaged one is {kept}" if kept else outcome


def is_backup_sound(store: StoppedStore) -> bool:
    """Whether there is a backup to start from.

    Raises:
        BackendError: It is of another format.
    """
    return damage_of(store.backup_path) is None


def generation_floor(store: StoppedStore) -> int:
    """Give a generation that is not lower than any that the store has ever given.

    The number of microseconds since 1970 is not. Generations start at 0 and every ingest takes
    the next one, in a statement of its own that takes SQLite several microseconds; so a store
    that gives less than a million in every second is behind the clock if it ever was, and is so
    again after it was set to the clock here. Milliseconds would not do: thousands of ingests a
    second are possible, so that a second rebuild could fall behind the first.

    This trusts the clock. One that has been set back since is noticed by the times of the files
    in the root: the catalog, its WAL, its backup and the lock are written while generations are.
    """
    micros = [time.time_ns() // 1000]
    for name in store.names():
        status = store.status(name)
        if status is not None:
            micros.append(status.st_mtime_ns // 1000)
    return max(filter(_is_believed, micros), default=0)


def _build(store: StoppedStore, root: Root) -> str:
    """Build the new catalog and have it ready."""
    staged = root.new_name()
    path = root.staged_path(staged)
    has_backup = is_backup_sound(store)
    if has_backup:
        shutil.copyfile(store.backup_path, path)
        os.chmod(path, 0o600)
    connection = schema.connect(path)
    try:
        schema.prepare(connection, path)
        # Of no account before it is whole: a crash leaves a file that is removed.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        connection.execute(
            "UPDATE store SET is_backup = 1, generation = max(generation, ?)",
            (generation_floor(store),),
        )
        salvaged = _salvage(store.catalog_path, connection)
        connection.execute("COMMIT")
        # Closing would do the same, and keep it to itself if it failed.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(path, f"{store.path}/{NEXT_CATALOG_NAME}")
    root.sync()
    start = f"made anew from {BACKUP_NAME}" if has_backup else "made anew, without a backup"
    return f"{start}, with {salvaged} small objects of the damaged one" if salvaged else start


def _set_aside(store: StoppedStore) -> str | None:
    """Set the damaged catalog aside, or the journals that a crash left; give its new name."""
    names = store.names()
    numbers = [int(match[1]) for match in map(_NUMBERED.fullmatch, names) if match]
    number = max(numbers, default=0)
    kept = None
    if CATALOG_NAME in names:
        number += 1
        kept = f"{DAMAGED_CATALOG_NAME}-{number}"
        os.rename(store.catalog_path, f"{store.path}/{kept}")
        store.sync(".")
    elif any(f"{DAMAGED_CATALOG_NAME}-{number}{end}" in names for end in JOURNALS):
        number += 1  # those of somebody else: nothing is overwritten
    for end in JOURNALS:
        with contextlib.suppress(FileNotFoundError):
            os.rename(
                store.catalog_path + end, f"{store.path}/{DAMAGED_CATALOG_NAME}-{number}{end}"
            )
    store.unlink(f"{CATALOG_NAME}-shm")
    store.sync(".")
    return kept


def _salvage(path: str, connection: sqlite3.Connection) -> int:
    """Take small objects, which are nowhere else, out of what can be read of a catalog.

    Only bytes that have both digests are taken. Returns the number of objects.
    """
    salvaged = 0
    if not os.path.exists(path):
        return 0
    with contextlib.ExitStack() as stack:
        try:
            damaged = stack.enter_context(look_at(path))
            damaged.execute("SELECT 1 FROM sqlite_schema").fetchone()
        except (OSError, sqlite3.Error) as exc:
            if not is_damage(exc):
                raise
            return 0
        _raise_generation(damaged, connection)
        for row in _small_rows(damaged):
            salvaged += _salvage_one(row, damaged, connection)
    return salvaged


def _raise_generation(damaged: sqlite3.Connection, connection: sqlite3.Connection) -> None:
    for (generation,) in _read(damaged, "SELECT generation FROM store"):
        if _is_believed(generation):
            connection.execute("UPDATE store SET generation = max(generation, ?)", (generation,))


def _salvage_one(row: Row, damaged: sqlite3.Connection, connection: sqlite3.Connection) -> bool:
    if _is_there(row, connection):
        return False
    for (content,) in _read(
        damaged, "SELECT CAST(bytes AS BLOB) FROM contents WHERE id = ?", row.content
    ):
        if not isinstance(content, bytes):
            continue
        digester = Digester()
        digester.update([content])
        digests = digester.finish()
        if (digests.blake3, digests.sha256) == (row.blake3, row.sha256):
            changes.store(connection, digests, content, lambda _: False)
            if _is_believed(row.stored_at_ms):
                connection.execute(
                    "UPDATE objects SET stored_at_ms = ? WHERE blake3 = ?",
                    (min(row.stored_at_ms, changes.now_ms()), row.blake3),
                )
            return True
    return False


def _is_there(row: Row, connection: sqlite3.Connection) -> bool:
    """Whether the backup has the bytes, or the other end of the rows has brought them."""
    found = connection.execute(
        "SELECT 1 FROM objects JOIN contents ON contents.id = content "
        "WHERE blake3 = ? AND is_rotten = 0 AND length(bytes) = size",
        (row.blake3,),
    ).fetchone()
    return found is not None


def _small_rows(damaged: sqlite3.Connection) -> Iterator[Row]:
    """Give the rows that can be read, from the first up to the damage, and from the last."""
    for order in ("ASC", "DESC"):
        try:
            for values in damaged.execute(
                f"SELECT {COLUMNS} FROM objects WHERE content IS NOT NULL ORDER BY blake3 {order}"
            ):
                yield Row(*values)
        except sqlite3.DatabaseError:
            continue
        return


def _read(damaged: sqlite3.Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    try:
        return damaged.execute(statement, values).fetchall()
    except sqlite3.DatabaseError:
        return []


def _is_believed(number: object) -> bool:
    return isinstance(number, int) and 0 <= number < _MAX_BELIEVED
