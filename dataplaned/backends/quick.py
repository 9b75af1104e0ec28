"""What a backend may offer beside its calls: some of them done at once, on the event loop.

Nothing here ever waits: not for a disk, not for a lock that is held for long. What cannot be
done without waiting is declined, as is everything that is out of the ordinary, errors
included; the ordinary call then does it, or raises. So a backend may always decline.

Addresses are texts of 71 characters, `blake3:` or `sha256:` and hexadecimal digits.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..digests import ObjectDigests

#: Bytes of a range, at most, that is read at once.
MAX_QUICK_READ = 65_536


@dataclass(frozen=True, slots=True)
class QuickRead:
    """A range that was read and checked.

    Attributes:
        size: Bytes of the whole object.
        offset: Where in it the range starts.
        content: Its bytes, good until the backend is called again.
    """

    size: int
    offset: int
    content: bytes | memoryview


@dataclass(frozen=True, slots=True)
class QuickReceipt:
    """What a backend signs for; see `Published`. The time is in milliseconds since 1970."""

    outcome: str
    generation: int
    stored_at_ms: int


class QuickBackend(ABC):
    """The calls of a `Backend` that it may do at once. They keep every promise of those.

    Each says whether it takes the call. If so it calls `done` once, on the event loop, perhaps
    before it returns: with the result, or with `None` when the ordinary call has to be made
    after all. What was begun goes on to its end.
    """

    @abstractmethod
    def stat(self, addresses: Sequence[str], done: Callable[[list[bytes] | None], None]) -> bool:
        """Describe those that are present, each as `usual_object_entry` gives it."""

    @abstractmethod
    def read(
        self,
        address: str,
        byte_range: tuple[int, int] | None,
        done: Callable[[QuickRead | None], None],
    ) -> bool:
        """Read a range of 1 to `MAX_QUICK_READ` bytes, checked."""

    @abstractmethod
    def ingest(
        self, content: bytes, digests: ObjectDigests, done: Callable[[QuickReceipt | None], None]
    ) -> bool:
        """Store a small object, of which the bytes and the digests are at hand."""

    @abstractmethod
    def delete(
        self, address: str, if_generation: int | None, done: Callable[[bool | None], None]
    ) -> bool:
        """Remove a small object; the result is that of `Backend.delete`."""
