"""The directory of a store: layout, lock, durable names, and the sweep of what is left over.

    ROOT/
        lock                     held with flock while the store is open
        catalog.sqlite3          the truth; see catalog.py
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
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Final

from ..base import BackendError

CATALOG_NAME: Final = "catalog.sqlite3"
_LOCK_NAME: Final = "lock"
_RESERVE: Final = "reserve"
_STAGING: Final = "staging"
_OBJECTS: Final = "objects"
_SHARDS: Final = tuple(f"{shard:02x}" for shard in range(256))

#: What may be in the root of a store; a mounted volume brings the last one.
_EXPECTED: Final = re.compile(
    rf"{_LOCK_NAME}|{_RESERVE}|{_STAGING}|{_OBJECTS}|{CATALOG_NAME}(-\w+)?|lost\+found"
)

_STAGED_FILE: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]+")
_OBJECT_FILE: Final = re.compile(rf"[0-9a-f]{{64}}\.({_STAGED_FILE.pattern})")

#: Bytes that are set aside. A delete takes some ten pages of the catalog and its WAL.
_RESERVE_SIZE: Final = 1024 * 1024

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class StagedFile:
    """A file under `staging/` that is being written."""

    def __init__(self, root: "Root", name: str, fd: int) -> None:
        self._root = root
        self._name = name
        self._fd = fd

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append all of the bytes.

        Raises:
            OSError: As write(2).
        """
        for piece in pieces:
            view = memoryview(piece)
            while view:
                # A write is short before it fails on a full disk or at a size limit; taking
                # a short one for a whole one would publish a torn object.
                view = view[os.write(self._fd, view) :]

    def read_back(self, expected: bytes) -> None:
        """Check that the file holds these bytes, on disk as far as the kernel can tell.

        Raises:
            OSError: It does not, or the disk fails.
        """
        os.fsync(self._fd)
        if os.pread(self._fd, len(expected) + 1, 0) != expected:
            raise OSError(errno.EIO, "read back other bytes than were written")

    def publish(self, blake3: bytes) -> str:
        """Give the file its place among the objects, durably, and return its new name.

        Raises:
            OSError: The bytes or the name may not be on disk. An fsync that failed must not
                be tried again on this file: the kernel has forgotten which pages were lost.
        """
        os.fchmod(self._fd, 0o400)
        os.fsync(self._fd)  # before it has a name: no crash may show a torn object
        name = f"{blake3.hex()}.{self._name}"
        self._root.adopt(self._name, name)
        self._close()
        return name

    def discard(self) -> None:
        """Remove the file. Does nothing once it was published or discarded."""
        if self._fd >= 0:
            self._close()
            self._root.discard_staged(self._name)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        # It was synced, or nobody wants it: there is nothing left that close(2) could lose.
        with contextlib.suppress(OSError):
            os.close(fd)


class Root:
    """The open directory of a store, locked against every other process.

    Raises:
        BackendError: It is in use, holds something that is not a store, or lost its catalog.
        OSError: It cannot be made or read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        _make_root(path)
        self._run = secrets.token_hex(8)
        self._numbers = count()
        with contextlib.ExitStack() as undo:
            # The root itself may be a link, as operators make them; nothing below it may.
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, self._fd)
            self._refuse_foreign()
            self._lock_fd = self._lock()
            undo.callback(os.close, self._lock_fd)
            self._lay_out()
            self._staging_fd = os.open(_STAGING, _DIRECTORY, dir_fd=self._fd)
            undo.pop_all()

    def close(self) -> None:
        """Unlock."""
        for fd in (self._staging_fd, self._lock_fd, self._fd):
            os.close(fd)

    def stage(self) -> StagedFile:
        """Open a new file for bytes that nobody may see yet."""
        name = f"{self._run}-{next(self._numbers):x}"
        return StagedFile(self, name, os.open(name, _NEW_FILE, 0o600, dir_fd=self._staging_fd))

    def adopt(self, staged_name: str, name: str) -> None:
        """Move a synced file from the staging to its shard and make its name durable.

        Raises:
            OSError: It has not moved, or is gone: nothing is left that a sweep must find.
        """
        # Opened first, so that a process out of descriptors fails before anything has moved.
        with self._open_directory(f"{_OBJECTS}/{name[:2]}") as shard_fd:
            os.rename(staged_name, name, src_dir_fd=self._staging_fd, dst_dir_fd=shard_fd)
            try:
                # Without this the catalog's row may survive a crash that the name does not.
                os.fsync(shard_fd)
            except OSError:
                self.remove_file(name)
                raise

    def open_file(self, name: str) -> int:
        """Open an object's file for reading."""
        return os.open(
            _object_path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd
        )

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

    def remove_file(self, name: str) -> None:
        """Remove a file that no row names any more. Best effort: the sweep finds the rest."""
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
            if _STAGED_FILE.fullmatch(name) and not self._is_ours(name)
        ]
        for name in leftovers:
            self.discard_staged(name)
        return len(leftovers)

    def shards(self) -> Iterator[str]:
        """Give the name of every shard."""
        return iter(_SHARDS)

    def sweep_shard(self, shard: str, is_known: Callable[[str], bool]) -> int:
        """Remove the files of earlier runs that no row names. Returns how many files."""
        with self._open_directory(f"{_OBJECTS}/{shard}") as shard_fd:
            names = os.listdir(shard_fd)
        swept = 0
        for name in names:
            match = _OBJECT_FILE.fullmatch(name)
            if match and not self._is_ours(match[1]) and not is_known(name):
                self.remove_file(name)
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
        space = os.fstatvfs(self._fd)
        return space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize

    def take_reserve(self) -> None:
        """Set room aside, if there is any."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            fd = os.open(_RESERVE, flags, 0o600, dir_fd=self._fd)
            try:
                os.posix_fallocate(fd, 0, _RESERVE_SIZE)
            finally:
                os.close(fd)

    def give_reserve(self) -> None:
        """Free the room that was set aside: the way out of a full disk must not need any."""
        with contextlib.suppress(OSError):
            os.unlink(_RESERVE, dir_fd=self._fd)

    def sync(self) -> None:
        """Make the names in the root itself durable."""
        os.fsync(self._fd)

    @property
    def catalog_path(self) -> str:
        """Where the catalog is."""
        return f"{self.path}/{CATALOG_NAME}"

    def _is_ours(self, staged_name: str) -> bool:
        return staged_name.startswith(f"{self._run}-")

    def _lock(self) -> int:
        fd = os.open(
            _LOCK_NAME,
            os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
            dir_fd=self._fd,
        )
        try:
            # Two daemons on one store would sweep each other's staging.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise BackendError(
                f"store {self.path} is in use by process {holder or 'unknown'}"
            ) from exc
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        return fd

    def _refuse_foreign(self) -> None:
        if self._has_catalog():
            return
        for name in sorted(os.listdir(self._fd)):
            if not _EXPECTED.fullmatch(name):
                raise BackendError(f"{self.path} is not a store and not empty: it has {name!r}")
        if self._has_objects():
            # An empty catalog would make every object garbage, and the sweep would agree.
            raise BackendError(f"store {self.path} has objects but no {CATALOG_NAME}")

    def _lay_out(self) -> None:
        for name in (_STAGING, _OBJECTS, *(f"{_OBJECTS}/{shard}" for shard in _SHARDS)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=self._fd)
        self._sync_directory(_OBJECTS)
        self._sync_directory(_STAGING)
        self.sync()

    def _has_catalog(self) -> bool:
        # SQLite takes an empty file for a new database. One that objects were stored with
        # never is: opening checkpoints the schema into it before the first of them.
        with contextlib.suppress(FileNotFoundError):
            return os.stat(CATALOG_NAME, dir_fd=self._fd).st_size > 0
        return False

    def _has_objects(self) -> bool:
        for shard in _SHARDS:
            with (
                contextlib.suppress(FileNotFoundError),
                self._open_directory(f"{_OBJECTS}/{shard}") as shard_fd,
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


def stamp_of(status: os.stat_result) -> str:
    """Give the stamp of an open file; see `Root.stamp`."""
    return f"{status.st_size}:{status.st_ino}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _object_path(name: str) -> str:
    return f"{_OBJECTS}/{name[:2]}/{name}"


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
