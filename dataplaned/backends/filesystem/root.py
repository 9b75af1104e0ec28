"""The directory of a store: layout, lock, durable names, and the sweep of what is left over.

    ROOT/
        lock                     held with flock while the store is open; names the last run
        catalog.sqlite3          the truth; see catalog.py
        catalog.sqlite3-damaged-N  what fsck set aside; see rebuilding.py
        backup.sqlite3           the catalog as it was when an operator last asked for a copy
        reserve                  room that a delete on a full disk needs
        staging/RUN-N            bytes of an ingest that is not published
        objects/ab/BLAKE3.RUN-N  immutable bytes of one object, 0400

A file's name is never used twice: RUN is random for every opening, N counts. So a late
clean-up cannot hit a newer file, and the sweep can tell by the name alone what earlier runs
have left. Every directory is made and synced once, before the first object: a shard made
later would need its parent synced before each acknowledgement.

All names are relative to a descriptor of the root, so that renaming or replacing the root
under a running daemon never writes elsewhere.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

from dataplane_protocol import NoSpaceError

from ...metrics import StoreMeasures
from ..base import BackendError
from .errors import is_full
from .staged import StagedFile

CATALOG_NAME: Final = "catalog.sqlite3"
BACKUP_NAME: Final = "backup.sqlite3"

#: A catalog that took the place of a damaged one, until it does; and the damaged one, numbered.
NEXT_CATALOG_NAME: Final = f"{CATALOG_NAME}-new"
DAMAGED_CATALOG_NAME: Final = f"{CATALOG_NAME}-damaged"

LOCK_NAME: Final = "lock"
_RESERVE: Final = "reserve"
STAGING: Final = "staging"
OBJECTS: Final = "objects"
SHARDS: Final = tuple(f"{shard:02x}" for shard in range(256))

#: What may be in the root of a store; a mounted volume brings the last one.
EXPECTED: Final = re.compile(
    rf"{LOCK_NAME}|{_RESERVE}|{STAGING}|{OBJECTS}|lost\+found"
    rf"|({CATALOG_NAME}|{BACKUP_NAME})(-\w+)*"
)

OBJECT_FILE: Final = re.compile(r"[0-9a-f]{64}\.([0-9a-f]{16}-[0-9a-f]+)")

#: A backup that is being written is staged too, with SQLite's own files beside it.
STAGED_FILE: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]+(-journal|-wal|-shm)?")

#: What the lock says: the process that holds it and the run, padded, so that one write in
#: place replaces it and a crash finds the old or the new.
_LOCK_NOTE: Final = re.compile(rb" *(\d+) ([0-9a-f]{16})\n")

#: Bytes that ingests leave free, for the catalog's own work.
_MIN_FREE_BYTES: Final = 64 * 1024 * 1024

#: Bytes that are set aside: deletes take some pages of the WAL each, and a WAL that was full
#: of new objects must first be folded into the catalog.
_RESERVE_SIZE: Final = 32 * 1024 * 1024
_MIN_RESERVE_SIZE: Final = 1024 * 1024

#: Of a small disk, the most that either of these takes is one part in so many.
_SHARE: Final = 64

#: Bytes that a disk has room for that is not full.
_LITTLE: Final = 1024 * 1024

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NotAFileError(Exception):
    """What has an object's name is no regular file."""


class StoreInUseError(BackendError):
    """Another process has the store open."""


class Root:
    """The open directory of a store, locked against every other process.

    Args:
        path: The directory, made when it is missing.
        min_free_bytes: Bytes of the disk that ingests leave free; `None` for what suits it.
        is_catalog_needed: Whether a directory without a catalog is refused when it is, or was,
            something else than a new store.

    Attributes:
        run: Names this opening; no other has it.
        min_free_bytes: Bytes of the disk that ingests leave free.
        measures: What syncs are counted in; may be set.
        last_run: The opening before, as far as the lock tells; empty when it does not.

    Raises:
        StoreInUseError: It is in use.
        BackendError: It holds something that is not a store, or lost its catalog.
        OSError: It cannot be made or read.
    """

    def __init__(
        self, path: str, *, min_free_bytes: int | None = None, is_catalog_needed: bool = True
    ) -> None:
        self.path = path
        self.measures = StoreMeasures()
        _make_root(path)
        self.run = new_run()
        self.last_run = ""
        self._numbers = count()
        with contextlib.ExitStack() as undo:
            # The root itself may be a link, as operators make them; nothing below it may.
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, self._fd)
            if is_catalog_needed:
                self._refuse_foreign()
            self._lock_fd = self._lock()
            undo.callback(os.close, self._lock_fd)
            if is_catalog_needed:
                self._refuse_lost_catalog()
            self.leave_free(min_free_bytes)
            self._lay_out()
            self._staging_fd = os.open(STAGING, _DIRECTORY, dir_fd=self._fd)
            undo.pop_all()

    def close(self) -> None:
        """Unlock."""
        for fd in (self._staging_fd, self._lock_fd, self._fd):
            os.close(fd)

    def leave_free(self, min_free_bytes: int | None) -> None:
        """Set how many bytes of the disk ingests leave free; `None` for what suits it."""
        if min_free_bytes is None:
            min_free_bytes = self._share(_MIN_FREE_BYTES)
        self.min_free_bytes = min_free_bytes

    def stage(self) -> StagedFile:
        """Open a new file for bytes that nobody may see yet."""
        name = self.new_name()
        return StagedFile(self, name, os.open(name, _NEW_FILE, 0o600, dir_fd=self._staging_fd))

    def require_room(self, size: int) -> None:
        """See that the disk has room for so many bytes beside those that stay free.

        Raises:
            NoSpaceError: It has not.
        """
        free, _ = self.space()
        if size + self.min_free_bytes > free:
            raise NoSpaceError(
                f"{size} bytes do not fit: {free} are free, {self.min_free_bytes} stay free"
            )

    def space(self) -> tuple[int, int]:
        """Give the free and the total bytes of the disk."""
        space = os.fstatvfs(self._fd)
        return space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize

    def adopt(self, staged_name: str, name: str) -> None:
        """Move a synced file from the staging to its shard and make its name durable.

        Raises:
            OSError: It has not moved, or is gone: nothing is left that a sweep must find.
        """
        # Opened first, so that a process out of descriptors fails before anything has moved.
        with self._open_directory(f"{OBJECTS}/{name[:2]}") as shard_fd:
            os.rename(staged_name, name, src_dir_fd=self._staging_fd, dst_dir_fd=shard_fd)
            try:
                # Without this the catalog's row may survive a crash that the name does not.
                self.sync_measured("directory", shard_fd)
            except OSError:
                self.remove_files([name])
                raise

    def sync_measured(self, kind: str, fd: int) -> None:
        """Sync a descriptor of an ingest, and count how long that took.

        Raises:
            OSError: As fsync(2).
        """
        began = time.perf_counter()
        os.fsync(fd)
        self.measures.add_sync(kind, time.perf_counter() - began)

    def open_file(self, name: str) -> int:
        """Open an object's file for reading.

        Raises:
            NotAFileError: It is something else by now.
            OSError: It cannot be opened.
        """
        # Without O_NONBLOCK a FIFO in its place would hold the thread until somebody writes.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(_object_path(name), flags, dir_fd=self._fd)
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENXIO):
                raise NotAFileError from exc
            raise
        try:
            is_file = stat.S_ISREG(os.fstat(fd).st_mode)
            os.set_blocking(fd, True)
        except BaseException:
            os.close(fd)
            raise
        if not is_file:
            os.close(fd)
            raise NotAFileError
        return fd

    def stamp(self, name: str) -> str | None:
        """Say which file this is and when it last changed; `None` when there is none.

        Two equal stamps are the same file, unchanged by anything that goes through the kernel:
        no call can set the time of the last change back. What the disk does is another matter.
        """
        try:
            status = os.stat(_object_path(name), dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return stamp_of(status)

    def remove_files(self, names: Iterable[str]) -> None:
        """Remove files that no row names any more. Best effort: the sweep finds the rest."""
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(_object_path(name), dir_fd=self._fd)

    def discard_staged(self, name: str) -> None:
        """Remove a staged file. Best effort: the sweep finds the rest."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._staging_fd)

    def sweep_staging(self) -> int:
        """Remove what earlier runs staged and never published. Returns how many files."""
        leftovers = [
            name
            for name in os.listdir(self._staging_fd)
            if STAGED_FILE.fullmatch(name) and not self._is_ours(name)
        ]
        for name in leftovers:
            self.discard_staged(name)
        return len(leftovers)

    def shards(self) -> Iterator[str]:
        """Give the name of every shard."""
        return iter(SHARDS)

    def sweep_shard(self, shard: str, is_known: Callable[[str], bool]) -> int:
        """Remove the files of earlier runs that no row names. Returns how many files."""
        with self._open_directory(f"{OBJECTS}/{shard}") as shard_fd:
            names = os.listdir(shard_fd)
        swept = 0
        for name in names:
            match = OBJECT_FILE.fullmatch(name)
            if match and not self._is_ours(match[1]) and not is_known(name):
                self.remove_files([name])
                swept += 1
        return swept

    def probe(self) -> tuple[int, int]:
        """Write, sync, read back and remove a file; give the free and the total bytes.

        Raises:
            OSError: One of these failed, or the directory at the path is not this one.
        """
        if not os.path.samestat(os.stat(self.path), os.fstat(self._fd)):
            raise FileNotFoundError(2, "directory was replaced", self.path)
        staged = self.stage()
        try:
            staged.write([b"probe"])
            staged.read_back(b"probe")
        finally:
            staged.discard()
        return self.space()

    def take_reserve(self) -> bool:
        """Set room aside, if there is any; whether there was."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(_RESERVE, flags, 0o600, dir_fd=self._fd)
            try:
                os.posix_fallocate(fd, 0, max(_MIN_RESERVE_SIZE, self._share(_RESERVE_SIZE)))
            finally:
                os.close(fd)
        except OSError:
            return False
        return True

    def give_reserve(self) -> None:
        """Free the room that was set aside: the way out of a full disk must not need any."""
        with contextlib.suppress(OSError):
            os.unlink(_RESERVE, dir_fd=self._fd)

    def is_out_of_room(self) -> bool:
        """Whether a little more does not fit the disk, or the quota, now."""
        try:
            staged = self.stage()
            try:
                staged.allocate(_LITTLE)
            finally:
                staged.discard()
        except OSError as exc:
            return is_full(exc)
        return False

    def make_catalog(self) -> None:
        """Make an empty file for the catalog, if there is none, that is the owner's alone.

        SQLite would make it for everybody to read, and its WAL after it.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(CATALOG_NAME, flags, 0o600, dir_fd=self._fd))

    def sync(self) -> None:
        """Make the names in the root itself durable."""
        os.fsync(self._fd)

    def note_run(self, run: str = "") -> None:
        """Name a run in the lock, durably, once the catalog knows it; this one if none is given."""
        note = b"%10d %s\n" % (os.getpid(), (run or self.run).encode())
        os.ftruncate(self._lock_fd, len(note))
        os.pwrite(self._lock_fd, note, 0)
        os.fsync(self._lock_fd)

    def adopt_backup(self, staged_name: str) -> None:
        """Move a file from the staging to the place of the catalog's backup, durably."""
        fd = os.open(staged_name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._staging_fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(staged_name, BACKUP_NAME, src_dir_fd=self._staging_fd, dst_dir_fd=self._fd)
        self.sync()

    @property
    def catalog_path(self) -> str:
        """Where the catalog is."""
        return f"{self.path}/{CATALOG_NAME}"

    @property
    def backup_path(self) -> str:
        """Where the backup of the catalog is."""
        return os.path.abspath(f"{self.path}/{BACKUP_NAME}")

    def staged_path(self, name: str) -> str:
        """Give the path of a staged file, for those who cannot work with descriptors."""
        return f"{self.path}/{STAGING}/{name}"

    def new_name(self) -> str:
        """Give a name for the staging that is never used twice."""
        return f"{self.run}-{next(self._numbers):x}"

    def _share(self, size: int) -> int:
        return min(size, self.space()[1] // _SHARE)

    def _is_ours(self, staged_name: str) -> bool:
        return staged_name.startswith(f"{self.run}-")

    def _lock(self) -> int:
        fd = os.open(
            LOCK_NAME,
            os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
            dir_fd=self._fd,
        )
        try:
            self.last_run = take_lock(fd, self.path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _refuse_foreign(self) -> None:
        if self._has_catalog():
            return
        for name in sorted(os.listdir(self._fd)):
            if not EXPECTED.fullmatch(name):
                raise BackendError(f"{self.path} is not a store and not empty: it has {name!r}")
        if self._has_objects():
            # An empty catalog would make every object garbage, and the sweep would agree.
            raise BackendError(
                f"store {self.path} has objects but no {CATALOG_NAME}: "
                "dataplaned fsck --repair makes a new one"
            )

    def _refuse_lost_catalog(self) -> None:
        if self._has_catalog():
            return
        # Small objects are nowhere else, so that a lost catalog need not leave files without
        # one. The lock names a run only once a catalog is on disk.
        traces = (BACKUP_NAME, NEXT_CATALOG_NAME, DAMAGED_CATALOG_NAME)
        if self.last_run or any(name.startswith(traces) for name in os.listdir(self._fd)):
            raise BackendError(
                f"store {self.path} has lost its {CATALOG_NAME}: "
                "dataplaned fsck --repair makes a new one"
            )

    def _lay_out(self) -> None:
        for name in (STAGING, OBJECTS, *(f"{OBJECTS}/{shard}" for shard in SHARDS)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self._fd)
        self._sync_directory(OBJECTS)
        self._sync_directory(STAGING)
        self.sync()

    def _has_catalog(self) -> bool:
        # SQLite takes an empty file for a new database. One that objects were stored with
        # never is: opening checkpoints the schema into it before the first of them.
        with contextlib.suppress(FileNotFoundError):
            return os.stat(CATALOG_NAME, dir_fd=self._fd).st_size > 0
        return False

    def _has_objects(self) -> bool:
        for shard in SHARDS:
            with (
                contextlib.suppress(FileNotFoundError),
                self._open_directory(f"{OBJECTS}/{shard}") as shard_fd,
            ):
                if os.listdir(shard_fd):
                    return True
        return False

    def _sync_directory(self, path: str) -> None:
        with self._open_directory(path) as fd:
            os.fsync(fd)

    @contextlib.contextmanager
    def _open_directory(self, path: str) -> Generator[int]:
        fd = os.open(path, _DIRECTORY, dir_fd=self._fd)
        try:
            yield fd
        finally:
            os.close(fd)


def take_lock(fd: int, path: str) -> str:
    """Lock a store for as long as a descriptor of its lock is open.

    Args:
        fd: The lock's.
        path: The store's, for the message.

    Returns:
        The run that the lock names; empty when it names none.

    Raises:
        StoreInUseError: Another process has locked it.
    """
    try:
        # Two daemons on one store would sweep each other's staging.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        note = _LOCK_NOTE.fullmatch(os.pread(fd, 64, 0))
        holder = note[1].decode() if note else "unknown"
        raise StoreInUseError(f"store {path} is in use by process {holder}") from exc
    note = _LOCK_NOTE.fullmatch(os.pread(fd, 64, 0))
    return note[2].decode() if note else ""


def new_run() -> str:
    """Give a name that no run has had."""
    return secrets.token_hex(8)


def stamp_of(status: os.stat_result) -> str:
    """Give the stamp of an open file; see `Root.stamp`."""
    return f"{status.st_size}:{status.st_ino}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _object_path(name: str) -> str:
    if "/" in name:
        # A row that rotted, or was made by hand, must not lead out of the store.
        raise FileNotFoundError(errno.ENOENT, "no name of an object's file")
    return f"{OBJECTS}/{name[:2]}/{name}"


def _make_root(path: str) -> None:
    """Make the root and its parents, each name durable before anything is put below it."""
    missing: list[Path] = []
    directory = Path(path)
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(directory.parent, _DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
