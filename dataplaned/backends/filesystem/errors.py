"""The one place where the disk's and SQLite's errors become those of the contract."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Generator
from typing import Final

from dataplane_protocol import NoSpaceError, UnavailableError

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def translated(backend_id: str) -> Generator[None]:
    """Turn what a disk or a catalog raises into `NoSpaceError` or `UnavailableError`."""
    try:
        yield
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        if exc.errno in _NO_SPACE:
            raise NoSpaceError(f"backend {backend_id} has no space: {reason}") from exc
        raise UnavailableError(f"backend {backend_id} failed: {reason}") from exc
    except sqlite3.Error as exc:
        name = getattr(exc, "sqlite_errorname", type(exc).__name__)
        if name == "SQLITE_FULL":
            raise NoSpaceError(f"backend {backend_id} has no space for its catalog") from exc
        raise UnavailableError(f"backend {backend_id} failed in its catalog: {name}") from exc


def is_full(exc: BaseException) -> bool:
    """Whether an error only says that there is no room, so that nothing is in doubt."""
    if isinstance(exc, OSError):
        return exc.errno in _NO_SPACE
    return getattr(exc, "sqlite_errorname", "") == "SQLITE_FULL"
