"""The one place where the disk's and SQLite's errors become those of the contract."""

import contextlib
import errno
import sqlite3
from collections.abc import Generator
from typing import Final

from dataplane_protocol import NoSpaceError, UnavailableError

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: What SQLite fails with before a change is committed. A frame of the WAL that could not be
#: written has no valid checksum, and the next transaction starts where this one did.
_BEFORE_COMMIT: Final = ("SQLITE_BUSY", "SQLITE_IOERR_READ", "SQLITE_IOERR_WRITE")

#: What the disk or the filesystem fails with when it has lost something.
_LOST: Final = (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EILSEQ, errno.ENODATA)

#: What SQLite fails with when a file is not, or no longer, what it should be. An error without
#: a number is a text that is none.
_DAMAGED: Final = (
    "SQLITE_CORRUPT",
    "SQLITE_NOTADB",
    "SQLITE_FORMAT",
    "SQLITE_ERROR",
    "SQLITE_IOERR_READ",
    "SQLITE_IOERR_SHORT_READ",
    "SQLITE_IOERR_CORRUPTFS",
    "OperationalError",
)

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


def is_damage(exc: OSError | sqlite3.Error) -> bool:
    """Whether what was read is lost or damaged, and not only out of reach."""
    if isinstance(exc, OSError):
        return exc.errno in _LOST
    return describe(exc).startswith(_DAMAGED)


def leaves_no_doubt(exc: OSError | sqlite3.Error) -> bool:
    """Whether a publish or a commit that failed so is certain to have changed nothing."""
    if isinstance(exc, OSError):
        return is_full(exc) or exc.errno in _NO_DESCRIPTORS
    reason = describe(exc)
    return is_full(exc) or reason in _BEFORE_COMMIT or reason.startswith("SQLITE_CONSTRAINT")


def describe(exc: OSError | sqlite3.Error) -> str:
    """Give the reason in a few words, without the path that the error itself may show."""
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    return getattr(exc, "sqlite_errorname", type(exc).__name__)
