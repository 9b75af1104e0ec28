"""The objects of a self-test: bytes that can be read again, and both of their names."""

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from typing import Final

from blake3 import blake3

from dataplane_protocol import BLAKE3, DATA_SIZE, SHA256, ContentAddress, Digest

#: Bytes of a block, the unit in which stored objects are checked.
BLOCK_SIZE: Final = 65_536

_SALT_SIZE: Final = 16
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Bytes to store: those of a file, if there is one, and then the tail.

    Attributes:
        title: What people call it.
        path: The file, which must not change meanwhile.
        tail: Bytes after the file's.
        is_own: Whether nobody else can have stored it, because it holds fresh random bytes.
        size_bytes: Bytes in all.
        blake3: Its name under BLAKE3.
        sha256: Its name under SHA-256.
    """

    title: str
    path: str | None
    tail: bytes
    is_own: bool
    size_bytes: int
    blake3: ContentAddress
    sha256: ContentAddress

    def pieces(self) -> Iterator[bytes]:
        """Read it all."""
        yield from _pieces(self.path, self.tail)

    def read(self, first: int, last: int) -> bytes:
        """Read a range, both ends included."""
        start, found = 0, bytearray()
        for piece in self.pieces():
            found += piece[max(first - start, 0) : max(last + 1 - start, 0)]
            start += len(piece)
            if start > last:
                break
        return bytes(found)


def make_sample(title: str, *, path: str | None = None, tail: bytes, is_own: bool) -> Sample:
    """Digest the bytes and give the sample.

    Raises:
        OSError: The file cannot be read.
    """
    size, primary, other = 0, blake3(), sha256()
    for piece in _pieces(path, tail):
        size += len(piece)
        primary.update(piece)
        other.update(piece)
    return Sample(
        title=title,
        path=path,
        tail=tail,
        is_own=is_own,
        size_bytes=size,
        blake3=ContentAddress.from_digest(Digest(BLAKE3, primary.hexdigest())),
        sha256=ContentAddress.from_digest(Digest(SHA256, other.hexdigest())),
    )


def main_sample(path: str | None) -> Sample:
    """Give the user's file as it is, or else a large installed one with a salt of its own.

    Raises:
        OSError: The file cannot be read, or is no regular file.
    """
    if path is None:
        path = largest_installed_file()
        tail = os.urandom(_SALT_SIZE)
        return make_sample(os.path.basename(path), path=path, tail=tail, is_own=True)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(None, "not a regular file", path)
    return make_sample(os.path.basename(path), path=path, tail=b"", is_own=False)


def edge_samples() -> Iterator[Sample]:
    """Give the sizes at which block arithmetic goes wrong when it does."""
    yield make_sample("empty", tail=b"", is_own=False)
    yield make_sample("one byte", tail=os.urandom(1), is_own=False)
    for size in (BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1):
        yield random_sample(f"{size} bytes", size)


def random_sample(title: str, size: int) -> Sample:
    """Give fresh random bytes; they are only ours from `_SALT_SIZE` bytes on."""
    return make_sample(title, tail=os.urandom(size), is_own=size >= _SALT_SIZE)


def largest_installed_file() -> str:
    """Give the largest file of the distributions that dataplaned itself needs.

    Where nothing of them can be found, it is the interpreter.
    """
    found = [(_size_of(path), path) for path in _installed_files()]
    return max(found, default=(0, os.path.realpath(sys.executable)))[1]


def _installed_files() -> Iterator[str]:
    for name in _dependencies():
        try:
            files = metadata.files(name)
        except metadata.PackageNotFoundError:
            continue
        for file in files or ():
            path = str(file.locate())
            if os.path.isfile(path):
                yield path


def _dependencies() -> list[str]:
    try:
        requirements = metadata.requires("dataplaned") or []
    except metadata.PackageNotFoundError:
        # Run from a source tree that is not installed.
        return ["blake3", "cbor2"]
    needed = [requirement for requirement in requirements if "extra ==" not in requirement]
    return [match[0] for one in needed if (match := _REQUIREMENT.match(one))]


def _size_of(path: str) -> int:
    return os.stat(path).st_size


def _pieces(path: str | None, tail: bytes) -> Iterator[bytes]:
    if path is not None:
        with closing(open(path, "rb", buffering=0)) as file:
            while piece := file.read(DATA_SIZE):
                yield piece
    if tail:
        yield tail
