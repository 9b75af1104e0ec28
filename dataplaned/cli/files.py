"""Local files of a transfer: where the bytes of an ingest come from and those of a get go."""

import os
import stat
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EBADF, EINVAL, EISDIR

from .output import emit_piece

STDIN = "-"
STDOUT = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An open file to ingest.

    Attributes:
        name: What the user calls it.
        descriptor: Open for reading, at the start.
        size_bytes: Its size now, if it is a regular file.
    """

    name: str
    descriptor: int
    size_bytes: int | None

    def pieces(self, on_progress: Callable[[int], None]) -> Iterator[bytes]:
        """Read to the end. Pieces come as they arrive, so that a slow pipe is seen to move.

        Raises:
            OSError: With the file's name.
        """
        from dataplane_protocol import DATA_SIZE

        with _naming(self.name):
            while piece := os.read(self.descriptor, DATA_SIZE):
                yield piece
                on_progress(len(piece))


@contextmanager
def open_source(name: str) -> Generator[Source]:
    """Open a file, or standard input for `-`.

    Raises:
        OSError: It cannot be read, or is a directory.
    """
    with _naming("standard input" if name == STDIN else name):
        descriptor = _stdin_descriptor() if name == STDIN else os.open(name, os.O_RDONLY)
    try:
        yield Source(name=name, descriptor=descriptor, size_bytes=_size_of(descriptor, name))
    finally:
        if name != STDIN:
            os.close(descriptor)


@contextmanager
def open_destination(name: str) -> Generator[Callable[[bytes], None]]:
    """Give what writes to a file, or to standard output for `-`.

    The file appears when the block ends, whole and durable; if the block raises it never
    does, and a file that was there before stays as it was.

    Raises:
        OSError: It cannot be written. Devices, pipes and directories are not replaced.
    """
    if name == STDOUT:
        yield emit_piece
        return
    # A link is kept and what it names is replaced, as if the file had been written to.
    path = os.path.realpath(name)
    _refuse_irregular(path, name)
    with _replacement(path, name) as descriptor:

        def write(piece: bytes) -> None:
            rest = memoryview(piece)
            with _naming(name):
                while rest:
                    rest = rest[os.write(descriptor, rest) :]

        yield write


@contextmanager
def _replacement(path: str, name: str) -> Generator[int]:
    directory = os.path.dirname(path)
    # In the same directory, or the rename would be a copy; short, as names have a limit.
    temporary = os.path.join(directory, f".dataplaned-{os.urandom(8).hex()}.partial")
    descriptor = -1
    try:
        with _naming(name):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        yield descriptor
        with _naming(name):
            # Before the rename: else a power cut can leave the name with bytes missing.
            os.fsync(descriptor)
            os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    with _naming(name):
        _sync_directory(directory)


def _sync_directory(directory: str) -> None:
    # Makes the rename durable.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_irregular(path: str, name: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise OSError(EISDIR, os.strerror(EISDIR), name)
    if not stat.S_ISREG(mode):
        raise OSError(EINVAL, "not a regular file", name)


def _stdin_descriptor() -> int:
    if sys.stdin is None:
        raise OSError(EBADF, os.strerror(EBADF))
    return sys.stdin.fileno()


def _size_of(descriptor: int, name: str) -> int | None:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise OSError(EISDIR, os.strerror(EISDIR), name)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextmanager
def _naming(name: str) -> Generator[None]:
    """Let errors of descriptor calls, which know no name, carry the one the user gave."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
