"""The rows of a catalog as values, and how an object is found by its name."""

from dataclasses import dataclass
from typing import ClassVar, Final

from dataplane_protocol import BLAKE3, SHA256, Digest

#: Of the table `objects`, in the order of the fields of `Row`.
COLUMNS: Final = (
    "blake3, sha256, size, file, content, generation, stored_at_ms, verified_at_ms, stamp, "
    "is_rotten"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One object. Its bytes are in a file or in the catalog, never in both.

    Attributes:
        file: The name of its file in its shard.
        content: The number of its bytes in the table `contents`.
        verified_at_ms: When the bytes of this copy were last seen to be right.
        stamp: What `Root.stamp` said of the file then; empty without a file.
        is_rotten: Whether they were seen to be wrong since: the copy is in quarantine.
    """

    blake3: bytes
    sha256: bytes
    size: int
    file: str | None
    content: int | None
    generation: int
    stored_at_ms: int
    verified_at_ms: int
    stamp: str
    is_rotten: int

    @property
    def digest(self) -> Digest:
        """The object's BLAKE3 name."""
        return Digest(BLAKE3, self.blake3.hex())

    @property
    def copy(self) -> str | int:
        """What tells this copy from every other that the object had or will have."""
        copy = self.content if self.file is None else self.file
        assert copy is not None
        return copy

    @property
    def values(self) -> tuple[object, ...]:
        """The values of `COLUMNS`."""
        return (
            self.blake3,
            self.sha256,
            self.size,
            self.file,
            self.content,
            self.generation,
            self.stored_at_ms,
            self.verified_at_ms,
            self.stamp,
            self.is_rotten,
        )


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One bad copy that is kept.

    Attributes:
        number: Of this entry; never used again.
        file: As in `Row`; neither this nor `content` when nothing of the copy is left.
        reason: What was wrong with it.
    """

    COLUMNS: ClassVar = "id, blake3, size, file, content, reason, found_at_ms"

    number: int
    blake3: bytes
    size: int
    file: str | None
    content: int | None
    reason: str
    found_at_ms: int

    @property
    def digest(self) -> Digest:
        """The BLAKE3 name of the object that it was a copy of."""
        return Digest(BLAKE3, self.blake3.hex())

    def is_copy_of(self, row: Row) -> bool:
        """Whether this is, or was until it went missing, the copy that an object has now."""
        return (self.file, self.content) in ((None, None), (row.file, row.content))


def key_of(digest: Digest) -> str:
    """Give the condition that finds an object by one of its names; see `value_of`."""
    return "sha256 = ?" if digest.algorithm == SHA256 else "blake3 = ?"


def value_of(digest: Digest) -> bytes:
    """Give the value for the condition of `key_of`."""
    return bytes.fromhex(digest.hex)
