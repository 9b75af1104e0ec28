"""The files of a stopped store, held against the rows: what no row names.

An object's file without a row is garbage where the catalog is the store's own: of an ingest that
was never acknowledged, or of a delete that was, and that must stay final. Where the catalog is
older than the store it may be all there is of an object: it is adopted, once its bytes are seen
to be those that its name says.
"""

import functools
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from typing import Final

from . import changes
from .changes import NewFile
from .examining import path_of
from .findings import Finding, Kind, Repaired
from .reading import digest_blocking
from .root import EXPECTED, OBJECT_FILE, OBJECTS, SHARDS, STAGED_FILE, STAGING, stamp_of
from .stopped import StoppedStore

_NO_ROW: Final = "no row names it"


class Leftovers:
    """The files that no row names.

    Args:
        store: The store.
        connection: Of its catalog, or of what takes its place.
        is_adopting: Whether they become objects again, or go.
        on_read: Called with numbers of bytes that were read.
    """

    def __init__(
        self,
        store: StoppedStore,
        connection: sqlite3.Connection,
        *,
        is_adopting: bool,
        on_read: Callable[[int], object],
    ) -> None:
        self._store = store
        self._connection = connection
        self._is_adopting = is_adopting
        self._on_read = on_read

    def findings(self) -> Iterator[Finding]:
        """Give the files that are left over, and those that are foreign."""
        for name in self._store.names():
            if not EXPECTED.fullmatch(name):
                yield _foreign(name)
        for name in self._store.names(STAGING):
            path = f"{STAGING}/{name}"
            if STAGED_FILE.fullmatch(name) and self._is_file(path):
                yield Finding(
                    kind=Kind.STAGED,
                    subject=path,
                    detail="was never published",
                    repair=functools.partial(_remove, path),
                )
            else:
                yield _foreign(path)
        for name in self._store.names(OBJECTS):
            if name not in SHARDS:
                yield _foreign(f"{OBJECTS}/{name}")
        for shard in SHARDS:
            yield from self._shard(shard)

    def _shard(self, shard: str) -> Iterator[Finding]:
        for name in self._store.names(f"{OBJECTS}/{shard}"):
            path = f"{OBJECTS}/{shard}/{name}"
            is_ours = bool(OBJECT_FILE.fullmatch(name)) and path == path_of(name)
            if is_ours and (self._is_named(name) or self._store.status(path) is None):
                continue  # in the second case a repair has removed it since
            if is_ours and self._is_file(path):
                yield Finding(
                    kind=Kind.ORPHAN,
                    subject=path,
                    detail=_NO_ROW,
                    repair=functools.partial(self._repair, name),
                )
            else:
                yield _foreign(path)

    def _is_named(self, name: str) -> bool:
        return bool(
            self._connection.execute(
                "SELECT 1 FROM objects WHERE blake3 = ?1 AND file = ?2 "
                "UNION ALL SELECT 1 FROM quarantine WHERE file = ?2",
                (_blake3_of(name), name),
            ).fetchone()
        )

    def _is_file(self, path: str) -> bool:
        status = self._store.status(path)
        return status is not None and stat.S_ISREG(status.st_mode)

    def _repair(self, name: str, connection: sqlite3.Connection) -> Repaired:
        # The object is there, so no delete is undone, and it has no other good copy.
        is_needed = connection.execute(
            "SELECT 1 FROM objects WHERE blake3 = ? AND is_rotten = 1", (_blake3_of(name),)
        ).fetchone()
        if self._is_adopting or is_needed:
            return self._adopt(connection, name)
        return Repaired("removed", (path_of(name),))

    def _adopt(self, connection: sqlite3.Connection, name: str) -> Repaired:
        fd = self._store.open(path_of(name))
        try:
            digests, trouble = digest_blocking(fd, self._on_read)
            # Whoever left or copied it need not have synced it; a row must not outlive it.
            os.fchmod(fd, 0o400)
            os.fsync(fd)
            status = os.fstat(fd)
        finally:
            os.close(fd)
        self._store.sync(f"{OBJECTS}/{name[:2]}")
        if trouble is None and digests.blake3 != _blake3_of(name):
            trouble = "content is not what its name says"
        if trouble is not None:
            connection.execute(
                "INSERT INTO quarantine (blake3, size, file, reason, found_at_ms) "
                "VALUES (?, ?, ?, ?, ?)",
                (_blake3_of(name), status.st_size, name, trouble, changes.now_ms()),
            )
            return Repaired(f"quarantined: {trouble}")
        # Whatever copy the row points to: this one was just seen to be right.
        fresh = NewFile(name=name, stamp=stamp_of(status))
        stored = changes.store(connection, digests, fresh, lambda _: False)
        connection.execute(
            "UPDATE objects SET stored_at_ms = ? WHERE blake3 = ?",
            (min(status.st_mtime_ns // 1_000_000, changes.now_ms()), digests.blake3),
        )
        return Repaired("adopted", tuple(map(path_of, stored.garbage)))


def _remove(path: str, _: sqlite3.Connection) -> Repaired:
    return Repaired("removed", (path,))


def _foreign(path: str) -> Finding:
    return Finding(kind=Kind.FOREIGN, subject=path, detail="is nothing of the store's")


def _blake3_of(name: str) -> bytes:
    return bytes.fromhex(name.partition(".")[0])
