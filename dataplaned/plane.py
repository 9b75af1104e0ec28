"""The in-process data plane: choose the backend, digest what comes in, check what goes out.

`LocalDataPlane` is a `DataPlane` itself; the server only carries it over a socket. It runs on
trio, since its backends do.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self, cast

import trio

from dataplane_protocol import (
    ALGORITHMS,
    BLAKE3,
    MAX_BATCH,
    SHA256,
    BackendList,
    BackendStatus,
    BodyMismatchError,
    ContentAddress,
    DeletionResult,
    Digest,
    ExpectedDigest,
    IngestHints,
    IngestResult,
    InvalidRequestError,
    ObjectPage,
    ObjectStatus,
    ObjectTooLargeError,
    StorageReceipt,
    UnknownBackendError,
    UnsupportedError,
    VerifyResult,
)

from .backends.base import Backend, Staging, StoredObject
from .digests import BLOCK_SIZE, Digester, ObjectDigests, count_blocks
from .intake import AreaPool, BlockingSource, take_in
from .outlet import give_out
from .threads import HASH_THREADS, LARGE_BODIES, make_limiter, open_plain_nursery, run_in_thread

#: Bytes that are hashed and staged in one go. Two such batches are held for each ingest.
_BATCH_SIZE: Final = 1024 * 1024

#: Pieces in a batch. Each costs some 50 bytes of memory, which tiny ones are not worth.
_BATCH_PIECES: Final = 4096

#: Blocks that are read, checked and given out in one go: 1 MiB. A thread is woken for each
#: time, which took longer than its work with a quarter of that.
_READ_BLOCKS: Final = 16


class LocalDataPlane:
    """Several backends as one data plane.

    Args:
        backends: By id; the first is the default. Opened and closed by whoever made them.
        max_object_size: Bytes an object may have; no limit when `None`. May be set at any time.
    """

    def __init__(
        self, backends: Mapping[str, Backend], *, max_object_size: int | None = None
    ) -> None:
        if not backends:
            raise ValueError("a data plane needs a backend")
        self._backends = dict(backends)
        self._default = next(iter(self._backends))
        self.max_object_size = max_object_size
        self._hash_limiter = make_limiter("hash", HASH_THREADS)
        self._areas = AreaPool(LARGE_BODIES)
        self._body_limiter = make_limiter("large_bodies", LARGE_BODIES)

    async def ingest_stream(
        self,
        stream: AsyncIterator[bytes],
        *,
        hints: IngestHints | None = None,
        expected_digest: ExpectedDigest | None = None,
    ) -> IngestResult:
        hints = hints or IngestHints()
        primary = BLAKE3 if hints.primary_algorithm is None else hints.primary_algorithm
        _require_known(primary)
        backend = self._backend(hints.backend_id)
        self._check_size(hints.size_hint or 0)
        staging = await backend.stage(hints.size_hint)
        try:
            digests = await self._take_in(stream, staging)
            _compare(digests, expected_digest)
            published = await staging.publish(digests)
        finally:
            await staging.abort()
        digest = digests.named(primary)
        return IngestResult(
            primary_digest=digest,
            sha256_digest=digests.named(SHA256),
            size_bytes=digests.size,
            receipt=StorageReceipt(
                backend_id=backend.backend_id,
                content_address=ContentAddress.from_digest(digest),
                size_bytes=digests.size,
                outcome=published.outcome,
                generation=published.generation,
                stored_at=published.stored_at,
            ),
        )

    async def serve_object(
        self,
        content_address: ContentAddress,
        *,
        byte_range: tuple[int, int] | None = None,
        backend_id: str | None = None,
    ) -> "CheckedObject":
        digest = _known_digest(content_address)
        stored = await self._backend(backend_id).open_object(digest, byte_range)
        return CheckedObject(stored, self._areas, self._body_limiter)

    async def verify_object(
        self, content_address: ContentAddress, *, backend_id: str | None = None
    ) -> VerifyResult:
        digest = _known_digest(content_address)
        verification = await self._backend(backend_id).verify(digest)
        return VerifyResult(
            content_address=content_address,
            verified=verification.mismatch is None,
            actual_primary_digest=verification.actual.named(digest.algorithm),
            actual_sha256_digest=verification.actual.named(SHA256),
            actual_size_bytes=verification.actual.size,
            mismatch=verification.mismatch,
        )

    async def delete_object(
        self,
        content_address: ContentAddress,
        *,
        backend_id: str | None = None,
        if_generation: int | None = None,
    ) -> DeletionResult:
        backend = self._backend(backend_id)
        deleted = await backend.delete(_known_digest(content_address), if_generation)
        return DeletionResult(
            content_address=content_address, backend_id=backend.backend_id, deleted=deleted
        )

    async def backend_health(self, *, backend_id: str | None = None) -> BackendStatus:
        return await self._backend(backend_id).health()

    async def stat_objects(
        self, content_addresses: Sequence[ContentAddress], *, backend_id: str | None = None
    ) -> tuple[ObjectStatus, ...]:
        digests = [_known_digest(address) for address in content_addresses]
        return await self._backend(backend_id).stat(digests)

    async def list_objects(
        self,
        *,
        after: ContentAddress | None = None,
        page_size: int = MAX_BATCH,
        backend_id: str | None = None,
    ) -> AsyncGenerator[ObjectPage]:
        if not 1 <= page_size <= MAX_BATCH:
            raise InvalidRequestError(f"page_size is {page_size}, must be from 1 to {MAX_BATCH}")
        start = None if after is None else _known_digest(after)
        if start is not None and start.algorithm != BLAKE3:
            raise InvalidRequestError(f"after is a {start.algorithm} address, must be {BLAKE3}")
        backend = self._backend(backend_id)
        while True:
            page = await backend.list_page(start, page_size)
            yield page
            if not page.more:
                return
            start = page.objects[-1].content_address.to_digest()

    async def list_backends(self) -> BackendList:
        return BackendList(
            backends=tuple([await backend.health() for backend in self._backends.values()]),
            default=self._default,
        )

    def find_backend(self, backend_id: str | None) -> Backend | None:
        """Give a backend by its id, the default one without."""
        return self._backends.get(self._default if backend_id is None else backend_id)

    def allows(self, size: int) -> bool:
        """Whether an object may have so many bytes."""
        return self.max_object_size is None or size <= self.max_object_size

    def _backend(self, backend_id: str | None) -> Backend:
        backend = self.find_backend(backend_id)
        if backend is None:
            raise UnknownBackendError("no backend with this id is configured")
        return backend

    def _check_size(self, size: int) -> None:
        if not self.allows(size):
            raise ObjectTooLargeError(
                f"object has at least {size} bytes, limit is {self.max_object_size}",
                details={"limit_bytes": self.max_object_size},
            )

    async def _take_in(self, stream: AsyncIterator[bytes], staging: Staging) -> ObjectDigests:
        """Digest and stage a stream, the next batch arriving while the last one is worked on."""
        digester = Digester()
        batch, is_last = await self._next_batch(stream, 0)
        if not is_last and await self._take_in_large(batch, stream, staging, digester):
            return digester.finish()
        total = sum(map(len, batch))
        while not is_last:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(self._digest_and_stage, batch, digester, staging)
                batch, is_last = await self._next_batch(stream, total)
            total += sum(map(len, batch))
        # A small object is this alone, and two threads for it would cost more than they save;
        # for one block, even one thread takes longer to wake than to hash it.
        if total <= BLOCK_SIZE:
            digester.update(batch)
        else:
            await run_in_thread(lambda: digester.update(batch), self._hash_limiter)
        await staging.write(batch)
        return digester.finish()

    async def _take_in_large(
        self,
        first: list[bytes],
        stream: AsyncIterator[bytes],
        staging: Staging,
        digester: Digester,
    ) -> bool:
        """Leave a large body to threads; false when it has to be taken in here."""
        if not isinstance(stream, BlockingSource):
            return False
        write = staging.blocking_writer()
        areas = None if write is None else self._areas.take()
        if write is None or areas is None:
            return False
        with areas:
            await run_in_thread(
                lambda: take_in(
                    first,
                    stream,
                    areas,
                    digester=digester,
                    write=write,
                    check_size=self._check_size,
                ),
                self._body_limiter,
            )
        return True

    async def _next_batch(
        self, stream: AsyncIterator[bytes], total: int
    ) -> tuple[list[bytes], bool]:
        """Collect a batch; whether the stream ended with it."""
        batch: list[bytes] = []
        fill = 0
        async for piece in stream:
            batch.append(_as_bytes(piece))
            fill += len(piece)
            self._check_size(total + fill)
            if fill >= _BATCH_SIZE or len(batch) == _BATCH_PIECES:
                return batch, False
        return batch, True

    async def _digest_and_stage(
        self, batch: list[bytes], digester: Digester, staging: Staging
    ) -> None:
        # SHA-256 takes as long as all the rest, so the two keep two cores busy.
        async with open_plain_nursery() as nursery:
            nursery.start_soon(
                run_in_thread, lambda: digester.update_sha256(batch), self._hash_limiter
            )
            await run_in_thread(lambda: digester.update_blake3(batch), self._hash_limiter)
            await staging.write(batch)


class CheckedObject:
    """An open object or range of a local backend, as an `ObjectStream`.

    Attributes:
        status: What the backend knows of the whole object.
    """

    def __init__(
        self, stored: StoredObject, areas: AreaPool, limiter: trio.CapacityLimiter
    ) -> None:
        self.status = stored.status
        self._areas = areas
        self._limiter = limiter
        self._stored = stored
        self._position = stored.offset
        self._end = stored.offset + stored.length

    @property
    def size(self) -> int:
        return self.status.size_bytes

    @property
    def offset(self) -> int:
        return self._stored.offset

    @property
    def length(self) -> int:
        return self._stored.length

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        left = self._end - self._position
        if left == 0:
            await self.aclose()
            raise StopAsyncIteration
        first_block, skip = divmod(self._position, BLOCK_SIZE)
        count = min(_READ_BLOCKS, -(-(skip + left) // BLOCK_SIZE))
        blocks = await self._stored.read(first_block, count)
        piece = blocks[skip : skip + left]
        self._position += len(piece)
        return piece

    async def give_out(self, send: Callable[[memoryview], None]) -> None:
        """Give as much as threads can; the iterator gives the rest."""
        areas = self._areas.take()
        if areas is not None:
            with areas:
                await run_in_thread(lambda: give_out(self, send, areas), self._limiter)

    def read_into(self, buffer: memoryview) -> memoryview:
        """See `BlockingObject`."""
        first_block, skip = divmod(self._position, BLOCK_SIZE)
        whole = min(
            len(buffer) // BLOCK_SIZE,
            count_blocks(self._end) - first_block,
        )
        size = min(whole * BLOCK_SIZE, self.size - first_block * BLOCK_SIZE)
        right = self._stored.read_into(first_block, buffer[:size]) if size else 0
        piece = buffer[skip : min(right, skip + self._end - self._position)]
        self._position += len(piece)
        return piece

    def take_descriptor(self) -> int | None:
        """Give a file with exactly the whole object, for the caller to close, or `None`."""
        return self._stored.take_descriptor()

    async def aclose(self) -> None:
        self._position = self._end
        await self._stored.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _known_digest(address: ContentAddress) -> Digest:
    digest = address.to_digest()
    _require_known(digest.algorithm)
    return digest


def _require_known(algorithm: str) -> None:
    if algorithm not in ALGORITHMS:
        raise UnsupportedError(f"algorithm must be one of {', '.join(ALGORITHMS)}")


def _as_bytes(piece: object) -> bytes:
    # Threads work on it while the caller goes on, so a buffer that may change is copied.
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, bytearray | memoryview):
        return bytes(cast("bytearray | memoryview", piece))
    raise InvalidRequestError(f"stream gave {type(piece).__name__}, must give bytes")


def _compare(digests: ObjectDigests, expected: ExpectedDigest | None) -> None:
    wanted = expected() if callable(expected) else expected
    if wanted is None:
        return
    _require_known(wanted.algorithm)
    actual = digests.named(wanted.algorithm)
    if actual != wanted:
        raise BodyMismatchError(f"body has digest {actual}, expected is {wanted}")
