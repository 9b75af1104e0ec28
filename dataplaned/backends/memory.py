"""The reference backend: the shortest code that keeps every promise but to outlive us."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import trio

from dataplane_protocol import (
    BLAKE3,
    BackendState,
    BackendStatus,
    ConflictError,
    Digest,
    IngestOutcome,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectPage,
    ObjectState,
    ObjectStatus,
)

from ..digests import BLOCK_SIZE, Digester, ObjectDigests, find_bad_block
from ..threads import HASH_THREADS, run_in_thread
from .base import Backend, Published, Staging, StoredObject, Verification, describe_mismatch


@dataclass(slots=True, kw_only=True)
class _Entry:
    data: bytes
    digests: ObjectDigests
    status: ObjectStatus


class MemoryBackend(Backend):
    """Objects in a dictionary."""

    def __init__(self, backend_id: str) -> None:
        super().__init__(backend_id)
        self._entries: dict[Digest, _Entry] = {}
        self._blake3_names: dict[Digest, Digest] = {}
        self._generation = 0
        self._limiter = trio.CapacityLimiter(HASH_THREADS)

    async def open(self) -> None:
        pass

    async def aclose(self) -> None:
        self._entries.clear()
        self._blake3_names.clear()

    async def sweep(self) -> None:
        pass

    async def scrub(self) -> None:
        pass

    async def stage(self, size_hint: int | None) -> Staging:  # noqa: ARG002
        return _MemoryStaging(self)

    async def open_object(
        self, digest: Digest, byte_range: tuple[int, int] | None = None
    ) -> StoredObject:
        entry = self._entry(digest)
        if entry.status.state != ObjectState.OK:
            raise ObjectCorruptError(f"object {entry.status.content_address} is quarantined")
        return _MemoryObject(self, entry, byte_range)

    async def verify(self, digest: Digest) -> Verification:
        entry = self._entry(digest)
        digester = Digester()
        await run_in_thread(lambda: digester.update([entry.data]), self._limiter)
        actual = digester.finish()
        mismatch = describe_mismatch(entry.digests, actual)
        self.mark(entry, is_good=mismatch is None)
        return Verification(actual=actual, mismatch=mismatch)

    async def delete(self, digest: Digest, if_generation: int | None) -> bool:
        name = self._blake3_names.get(digest)
        if name is None:
            return False
        generation = self._entries[name].status.generation
        if if_generation not in (None, generation):
            raise ConflictError(
                f"object has generation {generation}, not {if_generation}",
                details={"generation": generation},
            )
        entry = self._entries.pop(name)
        del self._blake3_names[name]
        del self._blake3_names[entry.status.sha256_digest]
        return True

    async def stat(self, digests: Sequence[Digest]) -> tuple[ObjectStatus, ...]:
        names = (self._blake3_names.get(digest) for digest in digests)
        return tuple(self._entries[name].status for name in names if name is not None)

    async def list_page(self, after: Digest | None, limit: int) -> ObjectPage:
        names = sorted(name for name in self._entries if after is None or name > after)
        return ObjectPage(
            objects=tuple(self._entries[name].status for name in names[:limit]),
            more=len(names) > limit,
        )

    async def health(self) -> BackendStatus:
        return BackendStatus(
            backend_id=self.backend_id,
            state=BackendState.OK,
            writable=True,
            object_count=len(self._entries),
        )

    def put(self, digests: ObjectDigests, data: bytes) -> Published:
        """Take an object in, at one instant."""
        name = digests.named(BLAKE3)
        self._generation += 1
        now = _now()
        present = self._entries.get(name)
        if present is not None and _is_trusted(present):
            outcome = IngestOutcome.EXISTED
            present.status = replace(present.status, generation=self._generation, stored_at=now)
        else:
            outcome = IngestOutcome.CREATED if present is None else IngestOutcome.HEALED
            status = ObjectStatus(
                content_address=digests.address,
                size_bytes=digests.size,
                sha256_digest=digests.named("sha256"),
                generation=self._generation,
                stored_at=now,
                verified_at=now,
            )
            self._entries[name] = _Entry(data=data, digests=digests, status=status)
            self._blake3_names[name] = self._blake3_names[status.sha256_digest] = name
        return Published(outcome=outcome, generation=self._generation, stored_at=now)

    def mark(self, entry: _Entry, *, is_good: bool) -> None:
        """Note what reading an object has shown."""
        if is_good:
            entry.status = replace(entry.status, state=ObjectState.OK, verified_at=_now())
        else:
            entry.status = replace(entry.status, state=ObjectState.QUARANTINED)

    def _entry(self, digest: Digest) -> _Entry:
        name = self._blake3_names.get(digest)
        if name is None:
            raise ObjectNotFoundError(f"no object {digest}")
        return self._entries[name]


class _MemoryStaging(Staging):
    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self._pieces: list[bytes] = []

    async def write(self, pieces: Sequence[bytes]) -> None:
        self._pieces += pieces

    async def publish(self, digests: ObjectDigests) -> Published:
        return self._backend.put(digests, b"".join(self._pieces))

    async def abort(self) -> None:
        self._pieces.clear()


class _MemoryObject(StoredObject):
    def __init__(
        self, backend: MemoryBackend, entry: _Entry, byte_range: tuple[int, int] | None
    ) -> None:
        super().__init__(entry.status, byte_range)
        self._backend = backend
        self._entry = entry

    async def read(self, first_block: int, count: int) -> bytes:
        digests = self._entry.digests.block_digests(first_block, count)
        data = self._entry.data[first_block * BLOCK_SIZE : (first_block + count) * BLOCK_SIZE]
        if find_bad_block(data, digests) is not None:
            self._backend.mark(self._entry, is_good=False)
            raise ObjectCorruptError(f"object {self.status.content_address} is damaged")
        return data

    async def aclose(self) -> None:
        pass


def _is_trusted(entry: _Entry) -> bool:
    return entry.status.state == ObjectState.OK and len(entry.data) == entry.digests.size


def _now() -> datetime:
    # To the millisecond, as the wire has it.
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
