"""What every backend promises to the plane above it, and what whoever writes one implements.

`memory.py` is the shortest one; `suite.py` has the tests that all of them pass; `entry_points.py`
says how a daemon finds one that another distribution brings.

A backend stores objects under both of their digests and knows nothing of sockets, hints or
algorithms to choose. The promises, in the order in which they matter:

1. `publish` returns only when bytes and name survive a power cut.
2. Before that, nobody sees any of the object, at any instant, also after a crash.
3. `StoredObject.read` gives only bytes that were checked against their block digests.
4. When `delete` has returned, no crash brings the object back.
5. `publish` believes no copy that is there already unless it is trusted: present, of the right
   size, and not known to be bad. Otherwise the fresh bytes replace it.
6. Different tasks may call everything at the same time, for the same object too.

Foreign errors are turned into those of the contract here and nowhere above: no space is
`NoSpaceError`, a disk or service that fails is `UnavailableError`, bad stored bytes are
`ObjectCorruptError`. Every call may be cancelled. What has begun to publish or to delete goes
on to its end first, shielded.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from dataplane_protocol import (
    BackendStatus,
    Digest,
    ObjectPage,
    ObjectStatus,
    resolve_range,
)

from ..config import BackendConfig
from ..digests import BLOCK_SIZE, ObjectDigests, count_blocks
from .quick import QuickBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a backend signs for.

    Attributes:
        outcome: A word of `IngestOutcome`.
        generation: Larger than every generation this backend has given before.
        stored_at: The time of the acknowledgement, in UTC.
    """

    outcome: str
    generation: int
    stored_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a verify read, and what is wrong with it.

    Attributes:
        actual: The digests and size of what could be read.
        mismatch: A few words on what differs from what was stored; `None` when nothing does.
    """

    actual: ObjectDigests
    mismatch: str | None


class Staging(ABC):
    """The unpublished bytes of one ingest. One task uses it at a time.

    It ends with `publish` or with `abort`; `abort` after either does nothing, so that it can
    stand in a `finally`.
    """

    @abstractmethod
    async def write(self, pieces: Sequence[bytes]) -> None:
        """Append bytes, all of them.

        Raises:
            NoSpaceError: There is no room.
            UnavailableError: The backend cannot write now.
        """

    def blocking_writer(self) -> Callable[[memoryview], None] | None:
        """Give a way to append bytes from one thread, which may wait for a disk.

        It raises what `write` does. Nothing is written by `write` before it, and only the last
        piece may be other than a multiple of 4096 bytes long, or begin within a page of memory.

        Returns:
            A function; `None` from a backend that has no such way.
        """
        return None

    @abstractmethod
    async def publish(self, digests: ObjectDigests) -> Published:
        """Make what was written visible under `digests`, durably.

        Raises:
            NoSpaceError, UnavailableError: It is not stored, or, after a failed sync, the
                outcome is unknown and the backend takes no more.
        """

    @abstractmethod
    async def abort(self) -> None:
        """Leave nothing behind. Never raises for a backend that fails."""


class StoredObject(ABC):
    """An object, or a range of one, opened for reading.

    It stays readable when the object is deleted or healed meanwhile.

    Attributes:
        status: What the backend knows of the whole object.
        offset: Where in the object the range starts.
        length: Bytes of the range.
    """

    def __init__(self, status: ObjectStatus, byte_range: tuple[int, int] | None) -> None:
        self.status = status
        self.offset, self.length = resolve_range(byte_range, status.size_bytes)

    @abstractmethod
    async def read(self, first_block: int, count: int) -> bytes:
        """Read whole blocks, checked.

        Args:
            first_block: Index of the first `BLOCK_SIZE` block, within the object. Only
                blocks that the range touches may be asked for.
            count: Blocks to read, at least 1; clamped to the object's last.

        Raises:
            ObjectCorruptError: A block is bad or cannot be read; the object is marked.
        """

    def read_into(self, first_block: int, buffer: memoryview) -> int:
        """Read whole blocks into a buffer, checked, in a thread.

        Args:
            first_block: As for `read`.
            buffer: Its length says how many: a multiple of the block size, or up to the
                object's end.

        Returns:
            How many bytes of it are right, from its start: whole blocks, or up to the object's
            end. What is wrong with the others, `read` will say. None from an object that
            cannot be read in this way.
        """
        del first_block, buffer
        return 0

    def take_descriptor(self) -> int | None:
        """Give an open descriptor that stands for the object, for the caller to close.

        It is read-only, a description of its own, and of a regular file that has exactly the
        bytes of the whole object and never changes. Whoever gets it reads unchecked, so that
        only an object whose bytes were seen to be right not long ago has one.

        Returns:
            The descriptor, once; `None` when there is none.
        """
        return None

    @abstractmethod
    async def aclose(self) -> None:
        """Let go. Idempotent; does not wait."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class Backend(ABC):
    """A place for objects. `Digest` arguments are `blake3` or `sha256`, nothing else.

    Attributes:
        quick: What it can do at once, on the event loop; `None` for a backend that has no such.
        inner: Backends that it is made of, which an operator may look after by their own ids.
    """

    quick: QuickBackend | None = None
    inner: "Sequence[Backend]" = ()

    def __init__(self, backend_id: str) -> None:
        self.backend_id = backend_id

    @abstractmethod
    async def open(self) -> None:
        """Make ready for calls.

        What is visible from here on is durable, also what a killed run has left.

        Raises:
            BackendError: It cannot be used: in use, not ours, unreadable.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of everything. No call is under way and none follows."""

    def reconfigure(self, config: BackendConfig) -> None:
        """Take over what can change of its configuration while it is open.

        What that is, `config/changes.py` says: of this type of backend, nothing else differs.
        """
        del config

    @abstractmethod
    async def sweep(self) -> None:
        """Remove what earlier runs left unfinished. Runs beside calls; may be cancelled."""

    @abstractmethod
    async def scrub(self) -> None:
        """Verify what is stored in the background, until cancelled.

        A backend whose bytes do not rot, or that has somebody else look after them, returns.
        """

    @abstractmethod
    async def stage(self, size_hint: int | None) -> Staging:
        """Begin an ingest.

        Raises:
            NoSpaceError: `size_hint` cannot fit.
            UnavailableError: The backend takes no writes.
        """

    @abstractmethod
    async def open_object(
        self, digest: Digest, byte_range: tuple[int, int] | None = None
    ) -> StoredObject:
        """Open for reading, the whole object or an inclusive range `(first, last)` of it.

        Raises:
            ObjectNotFoundError: There is no such object.
            RangeNotSatisfiableError: It has no byte in the range.
            ObjectCorruptError: It is known to be bad, or its bytes are gone.
        """

    @abstractmethod
    async def verify(self, digest: Digest) -> Verification:
        """Read all of an object from where it is stored, not from a cache, and mark it.

        Raises:
            ObjectNotFoundError: There is no such object.
        """

    @abstractmethod
    async def delete(self, digest: Digest, if_generation: int | None) -> bool:
        """Remove an object; false when there is none.

        Raises:
            ConflictError: It is there with another generation.
        """

    @abstractmethod
    async def stat(self, digests: Sequence[Digest]) -> tuple[ObjectStatus, ...]:
        """Describe those that are present, in the order asked."""

    @abstractmethod
    async def list_page(self, after: Digest | None, limit: int) -> ObjectPage:
        """Describe at most `limit` objects in ascending order of BLAKE3, after a digest."""

    @abstractmethod
    async def health(self) -> BackendStatus:
        """Probe: really write, read back and remove. Never raises for a backend that fails."""

    async def figures(self) -> Mapping[str, float]:
        """Give what it can tell in numbers beside its health, cheaply, by names for metrics.

        `stored_bytes` are the bytes of all its objects.

        Raises:
            UnavailableError: It cannot tell now.
        """
        return {}


class BackendError(Exception):
    """A backend that cannot be opened. The message names the place and the reason."""


def describe_mismatch(expected: ObjectDigests, actual: ObjectDigests) -> str | None:
    """Say in a few words how what was read differs from what was stored."""
    if actual.size != expected.size:
        return f"size is {actual.size} bytes, must be {expected.size}"
    if (actual.blake3, actual.sha256) == (expected.blake3, expected.sha256):
        return None if actual.blocks == expected.blocks else "block digests differ"
    for block in range(count_blocks(expected.size)):
        if actual.block_digests(block, 1) != expected.block_digests(block, 1):
            first = block * BLOCK_SIZE
            last = min(first + BLOCK_SIZE, expected.size) - 1
            return f"content differs, first between bytes {first} and {last}"
    return "content differs"
