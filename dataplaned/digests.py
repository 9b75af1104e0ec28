"""Both digests and the block digests of one pass over an object's bytes.

Everything here is plain computing, meant for worker threads: blake3 and hashlib release the
interpreter lock, so the two methods of a `Digester` may run at the same time.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from dataplane_protocol import BLAKE3, SHA256, ContentAddress, Digest

#: Bytes that share one block digest: the least that has to be read to check any byte of them.
BLOCK_SIZE: Final = 65_536

#: Bytes of one BLAKE3 or SHA-256 value.
DIGEST_SIZE: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectDigests:
    """What one pass over an object's bytes found.

    Attributes:
        blake3: The BLAKE3 value, 32 bytes.
        sha256: The SHA-256 value, 32 bytes.
        size: Bytes of the object.
        blocks: The BLAKE3 value of each `BLOCK_SIZE` bytes, one after the other. An object
            of at most one block has none: its own BLAKE3 says the same.
    """

    blake3: bytes
    sha256: bytes
    size: int
    blocks: bytes

    def named(self, algorithm: str) -> Digest:
        """Give the digest of one algorithm, `blake3` or `sha256`."""
        value = {BLAKE3: self.blake3, SHA256: self.sha256}[algorithm]
        return Digest(algorithm, value.hex())

    def block_digests(self, first: int, count: int) -> bytes:
        """Give the values of at most `count` blocks from the index `first` on."""
        blocks = self.blocks or (self.blake3 if self.size else b"")
        return blocks[first * DIGEST_SIZE : (first + count) * DIGEST_SIZE]

    @property
    def address(self) -> ContentAddress:
        """The object's BLAKE3 name."""
        return ContentAddress.from_digest(self.named(BLAKE3))


class Digester:
    """Digests of bytes that come in pieces of any size, in order."""

    def __init__(self) -> None:
        self._blake3 = blake3()
        self._sha256 = hashlib.sha256()
        self._block = blake3()
        self._block_fill = 0
        self._blocks = bytearray()
        self._size = 0

    def update_blake3(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Feed BLAKE3 and the blocks, and count."""
        for piece in pieces:
            self._blake3.update(piece)
            self._size += len(piece)
            self._update_blocks(memoryview(piece))

    def update_sha256(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Feed SHA-256."""
        for piece in pieces:
            self._sha256.update(piece)

    def update(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Feed both."""
        pieces = tuple(pieces)
        self.update_blake3(pieces)
        self.update_sha256(pieces)

    def finish(self) -> ObjectDigests:
        """Give the digests of all that was fed to both."""
        blocks = bytes(self._blocks)
        if self._block_fill:
            blocks += self._block.digest()
        return ObjectDigests(
            blake3=self._blake3.digest(),
            sha256=self._sha256.digest(),
            size=self._size,
            blocks=blocks if self._size > BLOCK_SIZE else b"",
        )

    def _update_blocks(self, piece: memoryview) -> None:
        while piece:
            part = piece[: BLOCK_SIZE - self._block_fill]
            self._block.update(part)
            self._block_fill += len(part)
            piece = piece[len(part) :]
            if self._block_fill == BLOCK_SIZE:
                self._blocks += self._block.digest()
                self._block = blake3()
                self._block_fill = 0


def count_blocks(size: int) -> int:
    """Give the number of blocks of an object of `size` bytes."""
    return -(-size // BLOCK_SIZE)


def touched_blocks(offset: int, length: int) -> tuple[int, int]:
    """Give the index of the first block that a range touches, and how many it touches."""
    first = offset // BLOCK_SIZE
    return first, count_blocks(offset + length) - first if length else 0


def find_bad_block(data: bytes | memoryview, digests: bytes) -> int | None:
    """Compare whole blocks with their digests.

    Args:
        data: Consecutive blocks; the last one may be short.
        digests: One value for each of these blocks.

    Returns:
        The index of the first block that does not match, counted from the start of `data`,
        or `None` when all match. Too little or too much data is a block that does not match.
    """
    if len(digests) == DIGEST_SIZE and len(data) <= BLOCK_SIZE:
        return None if blake3(data).digest() == digests else 0
    view = memoryview(data)
    expected = len(digests) // DIGEST_SIZE
    for index in range(max(expected, count_blocks(len(data)))):
        block = view[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
        if blake3(block).digest() != digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]:
            return index
    return None
