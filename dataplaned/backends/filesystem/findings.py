"""What a check of a store finds, and what a repair did about it."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from dataplane_protocol import BLAKE3


class Kind(StrEnum):
    """What is wrong. `foreign` is only told: nobody knows what it is there for."""

    CATALOG = "catalog"
    RUN = "run"
    GENERATION = "generation"
    TOTALS = "totals"
    OBJECT = "object"
    BLOCKS = "blocks"
    QUARANTINE = "quarantine"
    STRAY = "stray"
    ORPHAN = "orphan"
    STAGED = "staged"
    FOREIGN = "foreign"

    #: Not told: a copy that was read and is right, for the repair to note.
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did.

    Attributes:
        outcome: In a few words.
        garbage: Files, below the root, to be removed once the change is on disk.
    """

    outcome: str
    garbage: tuple[str, ...] = ()


#: Makes one change, inside a transaction that others share.
Repair = Callable[[sqlite3.Connection], Repaired]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: What sort of thing.
        subject: The object's address, or the file's path below the root.
        detail: What is wrong with it, in a few words.
        outcome: What was done about it; `None` while nothing was.
        repair: What does something about it.
    """

    kind: Kind
    subject: str
    detail: str
    outcome: str | None = None
    repair: Repair | None = field(default=None, repr=False, compare=False)

    @property
    def is_open(self) -> bool:
        """Whether it is still to be repaired."""
        return self.outcome is None and self.kind is not Kind.FOREIGN


def address(blake3: bytes) -> str:
    """Give the address of an object by its BLAKE3 value."""
    return f"{BLAKE3}:{blake3.hex()}"
