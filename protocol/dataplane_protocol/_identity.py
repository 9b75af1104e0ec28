"""What an object is called: a digest, and the content address that spells it as text."""

import re
from dataclasses import dataclass
from typing import Final

from ._errors import InvalidRequestError

BLAKE3: Final = "blake3"
SHA256: Final = "sha256"

#: Hexadecimal digits of each algorithm that version 1 stores objects under.
ALGORITHMS: Final = {BLAKE3: 64, SHA256: 64}

_ALGORITHM = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_HEX = re.compile(r"(?:[0-9a-f]{2}){1,64}")
_SEPARATED = re.compile(r"[^:]*:[^:]*")
_SHOWN: Final = 100


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A hash value: the algorithm's name and the value in lower-case hexadecimal.

    The name matches `[a-z][a-z0-9_-]*` with at most 32 characters. The value has 1 to 64
    bytes, and exactly 32 where the algorithm is `blake3` or `sha256`. Other algorithms can
    be written down, but no operation of version 1 accepts them.

    Raises:
        InvalidRequestError: Either field breaks these rules.
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        for field, value, pattern in (
            ("algorithm", self.algorithm, _ALGORITHM),
            ("hex", self.hex, _HEX),
        ):
            if not _matches(pattern, value):
                raise InvalidRequestError(
                    f"digest {field} is {_shown(value)}, must match {pattern.pattern}"
                )
        expected = ALGORITHMS.get(self.algorithm, len(self.hex))
        if len(self.hex) != expected:
            raise InvalidRequestError(
                f"{self.algorithm} digest has {len(self.hex)} hexadecimal digits, must have "
                f"{expected}"
            )

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @classmethod
    def parse(cls, text: str) -> "Digest":
        """Read `algorithm:hex`.

        Raises:
            InvalidRequestError: The text is not of that form.
        """
        if not _matches(_SEPARATED, text):
            raise InvalidRequestError(f"digest is {_shown(text)}, must be algorithm:hex")
        algorithm, _, value = text.partition(":")
        return cls(algorithm, value)


@dataclass(frozen=True, slots=True, order=True)
class ContentAddress:
    """The digest of an object as its name, in the one spelling used everywhere.

    Equality is equality of text, and the order of text is the order of digests.

    Raises:
        InvalidRequestError: The text is not `algorithm:hex` as `Digest` allows it.
    """

    value: str

    def __post_init__(self) -> None:
        Digest.parse(self.value)

    def __str__(self) -> str:
        return self.value

    def to_digest(self) -> Digest:
        """Give the digest that this address spells."""
        return Digest.parse(self.value)

    @classmethod
    def from_digest(cls, digest: Digest) -> "ContentAddress":
        """Give the address of the object that has this digest."""
        return cls(str(digest))


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    # Callers without a type checker pass anything at all.
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _shown(value: object) -> str:
    """Give a bounded, escaped form of what a caller sent, safe in a message or a log."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
