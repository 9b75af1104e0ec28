"""What backends report: receipts, deletions, health, and the entries of a listing."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ._identity import ContentAddress, Digest


class IngestOutcome(StrEnum):
    """What an ingest found. Later versions may add words; callers pass them through."""

    CREATED = "created"
    EXISTED = "existed"
    HEALED = "healed"


class BackendState(StrEnum):
    """How a backend is. Later versions may add words; callers pass them through."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


class ObjectState(StrEnum):
    """Whether an object can be served. Later versions may add words."""

    OK = "ok"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class StorageReceipt:
    """What a backend signed for: this object is stored, durably, by this backend.

    Attributes:
        backend_id: The backend that holds the object.
        content_address: The object's name under the primary algorithm.
        size_bytes: The object's size.
        outcome: `created`, `existed` (a trusted copy was there) or `healed` (the stored
            copy was missing, bad or not trusted, and these bytes replaced it). See
            `IngestOutcome`.
        generation: Grows with every acknowledged ingest of the object, within a backend.
            `delete_object(if_generation=...)` takes it.
        stored_at: When the ingest was acknowledged, in UTC, to the millisecond.
    """

    backend_id: str
    content_address: ContentAddress
    size_bytes: int
    outcome: str
    generation: int
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class DeletionResult:
    """The end of a delete. `deleted` is false when there was no such object."""

    content_address: ContentAddress
    backend_id: str
    deleted: bool


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """The health of one backend, from a probe that really wrote and read.

    Attributes:
        backend_id: The backend that was asked.
        state: `ok`, `degraded` or `down`. See `BackendState`.
        writable: Whether an ingest can succeed now.
        free_bytes: Bytes still free, where the backend can tell.
        total_bytes: Bytes in all, where the backend can tell.
        object_count: Objects stored, where the backend can tell cheaply.
        message: Why the state is not `ok`.
    """

    backend_id: str
    state: str
    writable: bool
    free_bytes: int | None = None
    total_bytes: int | None = None
    object_count: int | None = None
    message: str | None = None

    @property
    def healthy(self) -> bool:
        """Whether the state is `ok`."""
        return self.state == BackendState.OK


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """One stored object, as `stat_objects` and `list_objects` describe it.

    Attributes:
        content_address: Its BLAKE3 name, whichever name it was asked for by.
        size_bytes: The object's size.
        sha256_digest: Its SHA-256 digest, the other name.
        generation: The generation of its last ingest.
        stored_at: When it was last ingested, in UTC.
        verified_at: When its bytes were last seen to be right, in UTC, if that is known.
        state: `ok` or `quarantined`. See `ObjectState`.
    """

    content_address: ContentAddress
    size_bytes: int
    sha256_digest: Digest
    generation: int
    stored_at: datetime
    verified_at: datetime | None = None
    state: str = ObjectState.OK

    def is_named(self, address: ContentAddress) -> bool:
        """Whether `address` is one of the object's two names."""
        return address == self.content_address or address.value == str(self.sha256_digest)


@dataclass(frozen=True, slots=True)
class ObjectPage:
    """One page of a listing, in ascending order of the BLAKE3 address.

    Attributes:
        objects: The entries, at most the limit asked for.
        more: Whether entries follow after the last one of this page.
    """

    objects: tuple[ObjectStatus, ...]
    more: bool

    def __iter__(self) -> Iterator[ObjectStatus]:
        return iter(self.objects)

    def __len__(self) -> int:
        return len(self.objects)


@dataclass(frozen=True, slots=True)
class BackendList:
    """The configured backends, the default one first.

    Attributes:
        backends: The health of each.
        default: The id that calls without a `backend_id` go to.
    """

    backends: tuple[BackendStatus, ...]
    default: str
