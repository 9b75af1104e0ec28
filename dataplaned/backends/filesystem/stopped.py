"""A store that no daemon has open: held with its lock, and looked at without changing a byte.

Opening a `Root` makes directories, and SQLite makes files beside every catalog in WAL mode that
it opens, read-only or not. Who only looks uses neither.
"""

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator
from typing import Final
from urllib.parse import quote

from ..base import BackendError
from . import schema
from .errors import describe, is_damage
from .root import (
    BACKUP_NAME,
    CATALOG_NAME,
    EXPECTED,
    LOCK_NAME,
    OBJECTS,
    Root,
    take_lock,
)

_READ_ONLY: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC

#: What SQLite puts beside a catalog, and reads when it opens it.
JOURNALS: Final = ("-wal", "-journal")

#: Every column that a catalog has; see `FORMAT.md`.
_COLUMNS: Final = {
    "objects": "blake3, sha256, size, file, content, generation, stored_at_ms, verified_at_ms, "
    "stamp, is_rotten",
    "contents": "id, bytes",
    "blocks": "blake3, first, digests",
    "quarantine": "id, blake3, size, file, content, reason, found_at_ms",
    "store": "only_row, generation, objects, bytes, run, previous_run, is_backup, "
    "is_scrub_paused, scrub_asked_at_ms, catalog_checked_at_ms",
}


class NotAStoreError(BackendError):
    """There is no store in this directory."""


class StoppedStore:
    """A store whose lock is held. Everything here blocks and changes nothing.

    Args:
        path: The directory.
        fd: Its open descriptor.
        root: The store opened for changes; `None` for who only looks.
        last_run: The run that the lock named; empty when it named none.
    """

    def __init__(self, path: str, fd: int, root: Root | None, last_run: str) -> None:
        self.path = path
        self.root = root
        self.last_run = last_run
        self._fd = fd

    @property
    def catalog_path(self) -> str:
        """Where the catalog is."""
        return f"{self.path}/{CATALOG_NAME}"

    @property
    def backup_path(self) -> str:
        """Where its backup is."""
        return f"{self.path}/{BACKUP_NAME}"

    def names(self, directory: str = ".") -> list[str]:
        """Give the names in a directory, in order; none when it is missing."""
        try:
            fd = os.open(directory, _READ_ONLY | os.O_DIRECTORY, dir_fd=self._fd)
        except FileNotFoundError:
            return []
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def status(self, path: str) -> os.stat_result | None:
        """Give the status of a file or a link below the root; `None` when there is none."""
        with contextlib.suppress(FileNotFoundError):
            return os.stat(path, dir_fd=self._fd, follow_symlinks=False)
        return None

    def open(self, path: str) -> int:
        """Open a file below the root for reading, for the caller to close."""
        return os.open(path, _READ_ONLY, dir_fd=self._fd)

    def unlink(self, path: str) -> None:
        """Remove a file below the root; it may be gone already."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path, dir_fd=self._fd)

    def sync(self, directory: str) -> None:
        """Make the names in a directory below the root durable."""
        fd = os.open(directory, _READ_ONLY | os.O_DIRECTORY, dir_fd=self._fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def hold(path: str, *, is_changing: bool) -> Generator[StoppedStore]:
    """Lock a store.

    Args:
        path: Its directory.
        is_changing: Whether the store may be changed: missing directories are made then.

    Raises:
        NotAStoreError: There is none.
        StoreInUseError: A daemon has it.
        OSError: It cannot be read.
    """
    with contextlib.ExitStack() as stack:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        _require_store(path, os.listdir(fd))
        if is_changing:
            root = Root(path, is_catalog_needed=False)
            stack.callback(root.close)
            yield StoppedStore(path, fd, root, root.last_run)
            return
        last_run = ""
        # Without a lock no daemon has it: the lock is the first that each makes.
        with contextlib.suppress(FileNotFoundError):
            lock_fd = os.open(LOCK_NAME, _READ_ONLY, dir_fd=fd)
            stack.callback(os.close, lock_fd)
            last_run = take_lock(lock_fd, path)
        yield StoppedStore(path, fd, None, last_run)


@contextlib.contextmanager
def look_at(path: str) -> Generator[sqlite3.Connection]:
    """Open a catalog that nobody has open, to read it.

    SQLite calls a catalog immutable when it must not touch anything beside it, and then does
    not see a WAL, where the last commits of a killed daemon are. When there is one, a copy of
    both is opened instead, in the directory for temporary files.

    Raises:
        OSError, sqlite3.Error: It cannot be read or copied.
    """
    with contextlib.ExitStack() as stack:
        if any(_size(path + end) for end in JOURNALS):
            directory = tempfile.TemporaryDirectory(prefix="dataplaned-fsck-")
            copy = f"{stack.enter_context(directory)}/{CATALOG_NAME}"
            for end in ("", *JOURNALS):
                if _size(path + end):
                    shutil.copyfile(path + end, copy + end)
            connection = schema.connect(copy)
        else:
            uri = f"file:{quote(os.path.abspath(path))}?mode=ro&immutable=1"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        stack.callback(connection.close)
        connection.execute("PRAGMA trusted_schema = OFF")
        yield connection


def damage_of(path: str) -> str | None:
    """Say why a catalog cannot be used; `None` when it can.

    Raises:
        BackendError: It is one of another format: nothing is wrong with it.
        OSError, sqlite3.Error: It cannot be read, for a reason that is not its own.
    """
    if _size(path) is None:
        return "is missing"
    if not _size(path):
        return "is empty"
    try:
        with look_at(path) as connection:
            return _damage_in(connection, path)
    except (OSError, sqlite3.Error) as exc:
        if not is_damage(exc):
            raise
        return str(exc) if isinstance(exc, sqlite3.Error) else f"cannot be read: {describe(exc)}"


def is_older(connection: sqlite3.Connection, last_run: str) -> bool:
    """Whether a catalog is older than the store whose lock names a run; see `begin_run`."""
    run, previous_run = connection.execute("SELECT run, previous_run FROM store").fetchone()
    return bool(run and last_run and last_run not in (run, previous_run))


def is_backup(connection: sqlite3.Connection) -> bool:
    """Whether a catalog is a copy that was made as a backup, or one that is being rebuilt."""
    (found,) = connection.execute("SELECT is_backup FROM store").fetchone()
    return bool(found)


def _damage_in(connection: sqlite3.Connection, path: str) -> str | None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    tables = 0
    if application_id == schema.APPLICATION_ID:
        tables = schema.check_identity(connection, path)
    if not tables:
        return "is not a catalog"
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        return " ".join(str(found).split())
    for table, columns in _COLUMNS.items():
        connection.execute(f"SELECT {columns} FROM {table} LIMIT 0")
    if connection.execute("SELECT count(*) FROM store").fetchone() != (1,):
        return "says nothing of its store"
    return None


def _require_store(path: str, names: list[str]) -> None:
    found = set(names)
    if found & {CATALOG_NAME, BACKUP_NAME} or found >= {LOCK_NAME, OBJECTS}:
        return
    # Only the objects of one may be left; but Git has a directory of that name as well.
    if OBJECTS not in found or not all(map(EXPECTED.fullmatch, names)):
        raise NotAStoreError(f"{path} is not a store")


def _size(path: str) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path).st_size
    return None
