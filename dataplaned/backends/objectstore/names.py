"""The keys in a bucket: what they say, and how they are written. See FORMAT.md.

A key is written once and never again, and what it says never changes, so that a request that
comes late, or twice, cannot undo what came after it.
"""

import re
import secrets
from dataclasses import dataclass
from typing import Final

#: The folders.
OBJECTS: Final = "objects"
PARTS: Final = "parts"
SHA256_NAMES: Final = "sha256"
PROBES: Final = "probes"

#: What the bucket holds, and by which rules.
FORMAT_KEY: Final = "dataplaned-format"

_RECORD: Final = re.compile(
    r"g(?P<generation>[0-9a-f]{14})\.(?P<stored>[0-9a-f]{1,12})\.(?P<verified>[0-9a-f]{1,12})"
    r"\.(?P<copy>[0-9a-f]{16})\.(?P<size>[0-9a-f]{1,14})\.(?P<sha256>[0-9a-f]{64})"
    r"\.(?P<part_size>[0-9a-f]{1,8})"
)
_MARK: Final = re.compile(r"v(?P<copy>[0-9a-f]{16})\.(?P<at>[0-9a-f]{12})\.(?P<verdict>good|bad)")
_HEX_256: Final = re.compile(r"[0-9a-f]{64}")
_SHA256_NAME: Final = re.compile(r"(?P<blake3>[0-9a-f]{64})\.(?P<copy>[0-9a-f]{16})")
_PART: Final = re.compile(r"(?P<copy>[0-9a-f]{16})/(?P<number>[0-9a-f]{6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A key that makes an object exist.

    Attributes:
        blake3: The object's BLAKE3 value in hex.
        generation: Of the ingest that wrote it.
        stored_ms: When that was acknowledged, in milliseconds since 1970.
        verified_ms: When the bytes of the copy were last seen to be right, as far as was
            known then.
        copy: Names the stored bytes among all that the object ever had, 16 hex digits.
        size: Bytes of the object.
        sha256: The object's SHA-256 value in hex.
        part_size: Bytes of each part but the last; 0 when the bytes are in the record itself.
    """

    blake3: str
    generation: int
    stored_ms: int
    verified_ms: int
    copy: str
    size: int
    sha256: str
    part_size: int

    @property
    def key(self) -> str:
        """Where it is. Later generations sort after earlier ones."""
        return (
            f"{OBJECTS}/{self.blake3}/g{self.generation:014x}.{self.stored_ms:x}"
            f".{self.verified_ms:x}.{self.copy}.{self.size:x}.{self.sha256}.{self.part_size:x}"
        )

    @property
    def part_count(self) -> int:
        """Parts that the bytes are in."""
        return -(-self.size // self.part_size) if self.part_size else 0

    def part_length(self, number: int) -> int:
        """Bytes of a part."""
        return min(self.part_size, self.size - number * self.part_size)

    def part_key(self, number: int) -> str:
        """Where a part is."""
        return f"{parts_folder(self.blake3, self.copy)}/{number:06x}"

    @property
    def sha256_key(self) -> str:
        """The key that leads from the object's SHA-256 to its BLAKE3."""
        return f"{SHA256_NAMES}/{self.sha256}/{self.blake3}.{self.copy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A key that says what reading a copy has shown."""

    blake3: str
    copy: str
    at_ms: int
    is_good: bool

    @property
    def key(self) -> str:
        verdict = "good" if self.is_good else "bad"
        return f"{OBJECTS}/{self.blake3}/v{self.copy}.{self.at_ms:012x}.{verdict}"


@dataclass(frozen=True, slots=True)
class Sha256Name:
    """A key that leads from a SHA-256 to a BLAKE3."""

    sha256: str
    blake3: str
    copy: str


@dataclass(frozen=True, slots=True)
class Part:
    """A key of some bytes of a copy."""

    blake3: str
    copy: str
    number: int


def object_folder(blake3: str) -> str:
    """Give the folder of an object's records and marks."""
    return f"{OBJECTS}/{blake3}"


def parts_folder(blake3: str, copy: str) -> str:
    """Give the folder of a copy's parts."""
    return f"{PARTS}/{blake3}/{copy}"


def new_copy() -> str:
    """Give a name that no copy has had."""
    return secrets.token_hex(8)


def parse(key: str) -> "Record | Mark | Sha256Name | Part | None":
    """Read a key; `None` for one that is not ours."""
    folder, _, rest = key.partition("/")
    digest, _, name = rest.partition("/")
    if not _HEX_256.fullmatch(digest):
        return None
    if folder == OBJECTS:
        return _parse_record(digest, name) or _parse_mark(digest, name)
    if folder == SHA256_NAMES and (match := _SHA256_NAME.fullmatch(name)):
        return Sha256Name(digest, match["blake3"], match["copy"])
    if folder == PARTS and (match := _PART.fullmatch(name)):
        return Part(digest, match["copy"], int(match["number"], 16))
    return None


def _parse_record(digest: str, name: str) -> Record | None:
    match = _RECORD.fullmatch(name)
    if match is None:
        return None
    return Record(
        blake3=digest,
        generation=int(match["generation"], 16),
        stored_ms=int(match["stored"], 16),
        verified_ms=int(match["verified"], 16),
        copy=match["copy"],
        size=int(match["size"], 16),
        sha256=match["sha256"],
        part_size=int(match["part_size"], 16),
    )


def _parse_mark(digest: str, name: str) -> Mark | None:
    match = _MARK.fullmatch(name)
    if match is None:
        return None
    return Mark(
        blake3=digest,
        copy=match["copy"],
        at_ms=int(match["at"], 16),
        is_good=match["verdict"] == "good",
    )
