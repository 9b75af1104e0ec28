"""Where in the work of a store a system call can be made to fail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .caller import HUGE, LARGE, SMALL, address_of


class Place:
    """Where on its way to the disk an object is hit.

    Args:
        calls: Names of system calls.
        path: Which file, as seen when the object is on its way, or before if it is known.
        is_sync: Whether a failure leaves the outcome unknown.
    """

    def __init__(
        self, calls: str, path: Callable[[Any, bytes], Path], *, is_sync: bool = False
    ) -> None:
        self.calls = calls
        self.path = path
        self.is_sync = is_sync


def staging(daemon: Any, data: bytes) -> Path:
    return Path(daemon.root / "staging")


def staged_file(daemon: Any, data: bytes) -> Path:
    """Give the file of the ingest that is under way, as soon as there is one."""
    assert daemon.becomes(lambda: len(daemon.files("staging")) == 1)
    (path,) = daemon.files("staging")
    return Path(path)


def shard(daemon: Any, data: bytes) -> Path:
    return Path(daemon.root / "objects" / address_of(data).to_digest().hex[:2])


def write_ahead_log(daemon: Any, data: bytes) -> Path:
    return Path(daemon.root / "catalog.sqlite3-wal")


RENAME = "?rename,?renameat,?renameat2"
STAGED_OPEN = Place("?open,openat", staging)
STAGED_WRITE = Place("write,pwrite64,writev,pwritev", staged_file)
STAGED_SYNC = Place("fsync,fdatasync", staged_file, is_sync=True)
SHARD_RENAME = Place(RENAME, shard)
SHARD_SYNC = Place("fsync", shard, is_sync=True)
WAL_WRITE = Place("pwrite64", write_ahead_log)
WAL_SYNC = Place("fsync,fdatasync", write_ahead_log, is_sync=True)

PLACES = {
    "opening the staged file": (STAGED_OPEN, HUGE),
    "writing the staged file": (STAGED_WRITE, HUGE),
    "syncing the staged file": (STAGED_SYNC, HUGE),
    "renaming into the shard": (SHARD_RENAME, LARGE),
    "syncing the shard": (SHARD_SYNC, LARGE),
    "writing the catalog, small": (WAL_WRITE, SMALL),
    "writing the catalog, large": (WAL_WRITE, LARGE),
    "syncing the catalog, small": (WAL_SYNC, SMALL),
    "syncing the catalog, large": (WAL_SYNC, LARGE),
}
