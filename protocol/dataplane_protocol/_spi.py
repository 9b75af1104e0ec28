"""The surface between a control plane and the bytes: `DataPlane`, and what the wire adds.

`DataPlane` is the SPI that control planes are written against, with its names and
signatures as they stand there. `FullDataPlane` is everything that the wire contract offers:
the in-process plane of the daemon and the client both are one, so that the same suite runs
over both and a daemon can serve a client of another daemon.

Both are event-loop neutral. On cancellation an ingest leaves nothing behind unless its
bytes were already being published; then it completes, and only the answer is lost.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeAlias, runtime_checkable

from ._identity import ContentAddress, Digest
from ._limits import MAX_BATCH
from ._storage import (
    BackendList,
    BackendStatus,
    DeletionResult,
    ObjectPage,
    ObjectStatus,
    StorageReceipt,
)

#: A digest known before the bytes, or a function that is asked for it after the last byte.
ExpectedDigest: TypeAlias = Digest | Callable[[], Digest | None]


@dataclass(frozen=True, slots=True)
class IngestHints:
    """Optional hints attached to an ingest call.

    Attributes:
        size_hint: The number of bytes that will probably come. It may only cause an early
            refusal for size or space; the bytes that do come decide.
        primary_algorithm: Which of the two digests the result calls primary: `blake3`, the
            default, or `sha256`. Both are always computed.
        backend_id: The backend to store in; the default one when `None`.
    """

    size_hint: int | None = None
    primary_algorithm: str | None = None
    backend_id: str | None = None


@dataclass(frozen=True, slots=True)
class IngestResult:
    """Return value of :meth:`DataPlane.ingest_stream`."""

    primary_digest: Digest
    sha256_digest: Digest
    size_bytes: int
    receipt: StorageReceipt


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Return value of :meth:`DataPlane.verify_object`.

    `verified` is true when the bytes that the backend holds, read from the disk, have the
    size and both digests that they were stored under. Otherwise `mismatch` says in a few
    words what differs. The primary digest is in the algorithm of the address asked for.
    """

    content_address: ContentAddress
    verified: bool
    actual_primary_digest: Digest
    actual_sha256_digest: Digest
    actual_size_bytes: int
    mismatch: str | None = None


@runtime_checkable
class DataPlane(Protocol):
    """Byte-handling surface used by the control plane."""

    async def ingest_stream(
        self,
        stream: AsyncIterator[bytes],
        *,
        hints: IngestHints | None = None,
    ) -> IngestResult:
        """Store the bytes of `stream`; return once they are durable and visible.

        Raises:
            UnsupportedError: `hints.primary_algorithm` is neither `blake3` nor `sha256`.
            UnknownBackendError: `hints.backend_id` is not configured.
            ObjectTooLargeError, NoSpaceError: The object does not fit.
            UnavailableError: The backend or the daemon cannot take it now.
            Exception: Whatever `stream` raised, unchanged. Nothing was stored.
        """
        ...

    async def serve_object(
        self,
        content_address: ContentAddress,
        *,
        byte_range: tuple[int, int] | None = None,
        backend_id: str | None = None,
    ) -> AsyncIterator[bytes]:
        """Open an object, or the inclusive range `(first, last)` of it, for reading.

        `last` is clamped to the last byte. Every byte was checked before it comes out.

        Raises:
            ObjectNotFoundError: From the `await`, before the first piece.
            RangeNotSatisfiableError: The range is inverted, negative or starts past the
                last byte; every range of an empty object does.
            UnsupportedError: The address's algorithm is neither `blake3` nor `sha256`.
            UnknownBackendError: `backend_id` is not configured.
            ObjectCorruptError: From the `await` or a later piece: the stored bytes are bad.
        """
        ...

    async def verify_object(
        self,
        content_address: ContentAddress,
        *,
        backend_id: str | None = None,
    ) -> VerifyResult:
        """Read the stored bytes from the disk and compare them with both digests.

        Raises:
            ObjectNotFoundError: There is no such object. A bad one is a result, no error.
            UnsupportedError, UnknownBackendError: As for `serve_object`.
        """
        ...

    async def delete_object(
        self,
        content_address: ContentAddress,
        *,
        backend_id: str | None = None,
    ) -> DeletionResult:
        """Remove an object for good; return once no crash can bring it back.

        Raises:
            UnsupportedError, UnknownBackendError: As for `serve_object`.
        """
        ...

    async def backend_health(self) -> BackendStatus:
        """Probe the default backend."""
        ...


@runtime_checkable
class ObjectStream(Protocol):
    """An open object or range: an async iterator of its bytes that knows its size.

    One task at a time iterates. Whoever opened it closes it; reaching the end closes it too.
    """

    @property
    def size(self) -> int:
        """Bytes of the whole object."""
        ...

    @property
    def offset(self) -> int:
        """Where in the object the first byte of this stream is."""
        ...

    @property
    def length(self) -> int:
        """Bytes that this stream gives in all."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Give this stream itself."""
        ...

    async def __anext__(self) -> bytes:
        """Give the next piece, never empty, checked."""
        ...

    async def aclose(self) -> None:
        """Let go of the object. Idempotent; never blocks for long."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class FullDataPlane(DataPlane, Protocol):
    """A `DataPlane` with everything that the wire contract offers."""

    async def ingest_stream(
        self,
        stream: AsyncIterator[bytes],
        *,
        hints: IngestHints | None = None,
        expected_digest: ExpectedDigest | None = None,
    ) -> IngestResult:
        """Store as `DataPlane.ingest_stream` does, and compare with a digest if given.

        Raises:
            BodyMismatchError: The bytes do not have the expected digest; nothing was stored.
        """
        ...

    async def serve_object(
        self,
        content_address: ContentAddress,
        *,
        byte_range: tuple[int, int] | None = None,
        backend_id: str | None = None,
    ) -> ObjectStream:
        """Serve as `DataPlane.serve_object` does, as a stream that knows its size."""
        ...

    async def delete_object(
        self,
        content_address: ContentAddress,
        *,
        backend_id: str | None = None,
        if_generation: int | None = None,
    ) -> DeletionResult:
        """Delete as `DataPlane.delete_object` does, only if the generation still holds.

        Raises:
            ConflictError: The object has another generation: it was ingested again.
        """
        ...

    async def backend_health(self, *, backend_id: str | None = None) -> BackendStatus:
        """Probe one backend, the default one when `None`."""
        ...

    async def stat_objects(
        self,
        content_addresses: Sequence[ContentAddress],
        *,
        backend_id: str | None = None,
    ) -> tuple[ObjectStatus, ...]:
        """Describe those of the addresses that are present, in the order asked.

        `FullDataPlane` implementations take any number of addresses; the wire takes
        `MAX_BATCH` a call. What was asked minus what came back is what is missing.
        """
        ...

    def list_objects(
        self,
        *,
        after: ContentAddress | None = None,
        page_size: int = MAX_BATCH,
        backend_id: str | None = None,
    ) -> AsyncGenerator[ObjectPage]:
        """Walk over all objects, page by page, in ascending order of the BLAKE3 address.

        There is always at least one page. An object that is present during the whole walk
        appears exactly once. `after` is a BLAKE3 address, present or not; `page_size` is
        1 to `MAX_BATCH`.
        """
        ...

    async def list_backends(self) -> BackendList:
        """Probe every configured backend."""
        ...
