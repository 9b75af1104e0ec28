"""The one place where the disk's and SQLite's errors become those of the contract."""

import contextlib
import errno
import sqlite3
from collections.abc import Generator
from typing import Final

from dataplane_protocol import NoSpaceError, UnavailableError

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)


@contextlib.contextmanager
def translated(backend_id: str) -> Generator[None]:
    """Turn what a disk or a catalog raises into `NoSpaceError` or `UnavailableError`."""
    try:
        yield
    except OSError as exc:
        reason = describe(exc)
        if is_full(exc):
            raise NoSpaceError(f"backend {backend_id} has no space: {reason}") from exc
        raise UnavailableError(f"backend {backend_id} failed: {reason}") from exc
    except sqlite3.Error as exc:
        reason = describe(exc)
        if is_full(exc):
            raise NoSpaceError(f"backend {backend_id} has no space for its catalog") from exc
        raise UnavailableError(f"backend {backend_id} failed in its catalog: {reason}") from exc


def is_full(exc: OSError | sqlite3.Error) -> bool:
    """Whether there was no room."""
    if isinstance(exc, OSError):
        return exc.errno in _NO_SPACE
    return describe(exc) == "SQLITE_FULL"


def leaves_no_doubt(exc: OSError | sqlite3.Error) -> bool:
    """Whether a publish or a commit that failed so is certain to have changed nothing."""
    if isinstance(exc, OSError):
        return is_full(exc) or exc.errno in _NO_DESCRIPTORS
    return is_full(exc) or describe(exc) == "SQLITE_BUSY"


def describe(exc: OSError | sqlite3.Error) -> str:
    """Give the reason in a few words, without the path that the error itself may show."""
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    return getattr(exc, "sqlite_errorname", type(exc).__name__)
