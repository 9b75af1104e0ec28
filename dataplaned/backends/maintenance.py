"""What an operator may ask of a backend that looks after its own disk.

No part of the contract: a control plane does without. The daemon offers it to its own command
line where a backend is `Maintained`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from dataplane_protocol import ContentAddress

if TYPE_CHECKING:
    # The command line uses the values below, and must start without what a backend needs.
    from .base import Verification


class ScrubState(StrEnum):
    """What a scrub does now."""

    OFF = "off"
    IDLE = "idle"
    RUNNING = "running"
    YIELDING = "yielding"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubStatus:
    """A scrub, as it is.

    Attributes:
        backend_id: The backend.
        state: A word of `ScrubState`: nothing is due in `idle`, callers go first in `yielding`.
        due_objects: Objects whose last verification is too long ago, but for those that are
            in quarantine.
        due_bytes: Their bytes.
        rate: Bytes a second that it may read; 0 turns it off.
        oldest_verification: When the longest unverified object was last seen to be right.
        verified_objects: Objects verified since the daemon started.
        verified_bytes: Their bytes.
        rotten_objects: How many of them were bad.
        quarantined: Copies in quarantine now.
    """

    backend_id: str
    state: str
    due_objects: int
    due_bytes: int
    rate: int
    oldest_verification: datetime | None
    verified_objects: int
    verified_bytes: int
    rotten_objects: int
    quarantined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedCopy:
    """A bad copy that is kept.

    Attributes:
        number: Names it within its backend.
        content_address: The object that it was a copy of.
        size_bytes: Bytes that the object has.
        reason: What was wrong.
        found_at: When that was found.
        is_only_copy: Whether the object has no other: it cannot be served until it is
            ingested again.
    """

    number: int
    content_address: ContentAddress
    size_bytes: int
    reason: str
    found_at: datetime
    is_only_copy: bool


class Maintained(ABC):
    """The operations. Their errors are those of `Backend`."""

    @abstractmethod
    async def scrub_status(self) -> ScrubStatus:
        """Say what the scrub does."""

    @abstractmethod
    async def start_scrub(self) -> None:
        """Go on if it was paused, and make every object due now. Kept over restarts."""

    @abstractmethod
    async def pause_scrub(self) -> None:
        """Stop after the step under way, until it is started. Kept over restarts."""

    @abstractmethod
    async def list_quarantined(self, after: int, limit: int) -> Sequence[QuarantinedCopy]:
        """Give at most `limit` copies whose number is larger than `after`, in order."""

    @abstractmethod
    async def restore(self, number: int) -> "Verification":
        """Read a copy again, and take it out of quarantine if it is right after all.

        Raises:
            ObjectNotFoundError: There is no such copy.
            ConflictError: The object has a good copy already.
        """

    @abstractmethod
    async def purge(self, number: int) -> None:
        """Remove a copy for good, and the object with it if that has no other.

        Raises:
            ObjectNotFoundError: There is no such copy.
        """

    @abstractmethod
    async def back_up(self) -> str:
        """Write a copy of the catalog beside it, durably, in place of the last one.

        Returns:
            Its path.
        """
