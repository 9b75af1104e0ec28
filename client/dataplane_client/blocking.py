"""The client for plain threads: scripts, the command line, synchronous applications.

It is the same client as the async one, driven to the end of every wait by the thread that
calls it. Importing it loads no event loop.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, cast

from dataplane_protocol import (
    MAX_BATCH,
    STALL_TIMEOUT,
    BackendList,
    BackendStatus,
    ContentAddress,
    DeletionResult,
    ExpectedDigest,
    IngestHints,
    IngestResult,
    InvalidRequestError,
    ObjectPage,
    ObjectStatus,
    VerifyResult,
)

from ._body import ServedObject
from ._client import DEFAULT_POOL_SIZE, DataPlaneClient
from ._threads import ThreadWaiting, run
from ._trace import Trace


def connect(
    path: str | os.PathLike[str],
    *,
    pool_size: int = DEFAULT_POOL_SIZE,
    stall_timeout: float = STALL_TIMEOUT,
    trace: Trace | None = None,
) -> "BlockingDataPlaneClient":
    """Give a client for threads. No I/O happens before the first call.

    Args:
        path: The daemon's socket.
        pool_size: The most connections at a time; further threads wait for their turn.
        stall_timeout: Seconds without progress after which a call raises
            `UnavailableError`: while connecting, and inside a frame or a body. How long the
            daemon takes to answer a request is not limited, since it may have to read or
            sync a large object first. `math.inf` waits for ever.
        trace: Gives the `traceparent` that a call takes to the daemon's logs and traces.

    Raises:
        InvalidRequestError: No socket can have this path, or a number is out of range.
    """
    return BlockingDataPlaneClient(
        path, pool_size=pool_size, stall_timeout=stall_timeout, trace=trace
    )


class BlockingDataPlaneClient:
    """The operations of `FullDataPlane`, blocking. Use `connect` to get one.

    Any number of threads may call it at once. The operations raise what the SPI says, and
    what `DataPlaneClient` adds.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        pool_size: int = DEFAULT_POOL_SIZE,
        stall_timeout: float = STALL_TIMEOUT,
        trace: Trace | None = None,
    ) -> None:
        if not stall_timeout > 0:
            raise InvalidRequestError(f"stall_timeout is {stall_timeout}, must be above 0")
        self._client = DataPlaneClient(
            path, ThreadWaiting(stall_timeout), pool_size=pool_size, trace=trace
        )

    def ingest_stream(
        self,
        stream: Iterable[bytes],
        *,
        hints: IngestHints | None = None,
        expected_digest: ExpectedDigest | None = None,
    ) -> IngestResult:
        """Store the bytes of `stream`, pieces of any size; see `FullDataPlane`."""
        return run(
            self._client.ingest_stream(
                _Pieces(stream), hints=hints, expected_digest=expected_digest
            )
        )

    def serve_object(
        self,
        content_address: ContentAddress,
        *,
        byte_range: tuple[int, int] | None = None,
        backend_id: str | None = None,
    ) -> "BlockingServedObject":
        """Open an object or a range of it; see `FullDataPlane`. The caller closes it."""
        return BlockingServedObject(
            run(
                self._client.serve_object(
                    content_address, byte_range=byte_range, backend_id=backend_id
                )
            )
        )

    def verify_object(
        self, content_address: ContentAddress, *, backend_id: str | None = None
    ) -> VerifyResult:
        """Have the stored bytes read and compared; see `DataPlane`."""
        return run(self._client.verify_object(content_address, backend_id=backend_id))

    def delete_object(
        self,
        content_address: ContentAddress,
        *,
        backend_id: str | None = None,
        if_generation: int | None = None,
    ) -> DeletionResult:
        """Remove an object for good; see `FullDataPlane`."""
        return run(
            self._client.delete_object(
                content_address, backend_id=backend_id, if_generation=if_generation
            )
        )

    def backend_health(self, *, backend_id: str | None = None) -> BackendStatus:
        """Probe one backend; see `FullDataPlane`."""
        return run(self._client.backend_health(backend_id=backend_id))

    def stat_objects(
        self, content_addresses: Sequence[ContentAddress], *, backend_id: str | None = None
    ) -> tuple[ObjectStatus, ...]:
        """Describe those that are present; see `FullDataPlane`."""
        return run(self._client.stat_objects(content_addresses, backend_id=backend_id))

    def list_objects(
        self,
        *,
        after: ContentAddress | None = None,
        page_size: int = MAX_BATCH,
        backend_id: str | None = None,
    ) -> Iterator[ObjectPage]:
        """Walk over all objects; see `FullDataPlane`. No connection is held between pages."""
        pages = self._client.list_objects(after=after, page_size=page_size, backend_id=backend_id)
        return _walk(pages)

    def list_backends(self) -> BackendList:
        """Probe every configured backend; see `FullDataPlane`."""
        return run(self._client.list_backends())

    def call_private(
        self, operation: str, arguments: Mapping[str, object] | None = None
    ) -> Mapping[str, object]:
        """Call an operation that is not in the contract; see `DataPlaneClient`."""
        return run(self._client.call_private(operation, arguments))

    def close(self) -> None:
        """Close all connections, also while other threads use them; see `aclose`."""
        run(self._client.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class BlockingServedObject:
    """An open object, or a range of one: an iterator of `bytes`, used by one thread.

    It promises what `ServedObject` does.
    """

    def __init__(self, served: ServedObject) -> None:
        self._served = served

    @property
    def size(self) -> int:
        """Bytes of the whole object."""
        return self._served.size

    @property
    def offset(self) -> int:
        """Where in the object the first byte of this stream is."""
        return self._served.offset

    @property
    def length(self) -> int:
        """Bytes that this stream gives in all."""
        return self._served.length

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Give the next piece as `ServedObject.__anext__` does."""
        try:
            return run(self._served.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Let go of the object. Idempotent; never waits."""
        run(self._served.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Pieces:
    """A caller's iterable as the async iterator that the shared client takes."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        if not isinstance(cast("object", stream), Iterable):
            raise InvalidRequestError(f"stream is a {type(stream).__name__}, must be iterable")
        self._pieces = iter(stream)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None


def _walk(pages: AsyncGenerator[ObjectPage]) -> Iterator[ObjectPage]:
    try:
        while (page := run(_next(pages))) is not None:
            yield page
    finally:
        run(pages.aclose())


async def _next(pages: AsyncGenerator[ObjectPage]) -> ObjectPage | None:
    return await anext(pages, None)
