"""The client: a `DataPlane` whose other side is a daemon."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from dataplane_protocol import (
    MAX_BATCH,
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

from . import _calls
from ._body import ServedObject, open_body
from ._connection import check_path
from ._descriptors import DescriptorCutError
from ._ingest import Ingest, Outgoing
from ._pool import Lease, Pool
from ._trace import Trace, traced
from ._waiting import Waiting

if TYPE_CHECKING:
    from dataplane_protocol import FullDataPlane, ObjectStream

T = TypeVar("T")

DEFAULT_POOL_SIZE = 8


def connect(
    path: str | os.PathLike[str],
    *,
    pool_size: int = DEFAULT_POOL_SIZE,
    trace: Trace | None = None,
) -> "DataPlaneClient":
    """Give a client for trio and asyncio. No I/O happens before the first call.

    Args:
        path: The daemon's socket.
        pool_size: The most connections at a time, and so the most calls that run at once;
            further calls wait for their turn.
        trace: Gives the `traceparent` that a call takes to the daemon's logs and traces.

    Raises:
        InvalidRequestError: No socket can have this path, or the pool would be empty.
    """
    # Here, so that the blocking client starts without it.
    from ._anyio import AnyioWaiting

    return DataPlaneClient(path, AnyioWaiting(), pool_size=pool_size, trace=trace)


class DataPlaneClient:
    """A `FullDataPlane` over a Unix socket. Use `connect` to get one.

    Any number of tasks may call it at once. A call that is cancelled closes its connection,
    which is how the daemon learns of it. Deadlines are the caller's: there are none here.

    Beyond what the SPI lists, every call may raise `UnavailableError` (nobody listens, the
    connection was lost, the client is closed), `AccessDeniedError` and `ProtocolError`.

    Args:
        path: The daemon's socket.
        waiting: How to wait.
        pool_size: The most connections at a time.
        trace: Gives the `traceparent` of each call.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        waiting: Waiting,
        *,
        pool_size: int,
        trace: Trace | None = None,
    ) -> None:
        if pool_size < 1:
            raise InvalidRequestError(f"pool_size is {pool_size}, must be at least 1")
        self._waiting = waiting
        self._trace = trace
        self._pool = Pool(check_path(path), pool_size, waiting)

    async def ingest_stream(
        self,
        stream: AsyncIterator[bytes],
        *,
        hints: IngestHints | None = None,
        expected_digest: ExpectedDigest | None = None,
    ) -> IngestResult:
        """Store the bytes of `stream`; see `FullDataPlane`.

        Pieces may be of any size, and be any bytes-like objects. If the daemon refuses the
        body early, the stream is left where it is; it is never closed here.
        """
        request = traced(_calls.ingest_request(hints), self._trace)
        ingest = Ingest(request, Outgoing(stream, expected_digest))
        lease = await self._pool.lease()
        try:
            return await lease.run(ingest.over, ingest.is_repeatable)
        finally:
            lease.release()

    async def serve_object(
        self,
        content_address: ContentAddress,
        *,
        byte_range: tuple[int, int] | None = None,
        backend_id: str | None = None,
    ) -> ServedObject:
        """Open an object or a range of it; see `FullDataPlane`. The caller closes it."""
        call = _calls.serve(content_address, byte_range, backend_id)
        call = replace(call, request=traced(call.request, self._trace))
        try:
            lease, opened = await self._open(call)
        except DescriptorCutError:
            # Its connection was closed, and its bytes need no descriptor (`SPEC.md` 12.6).
            lease, opened = await self._open(replace(call, accepts_fd=False))
        return ServedObject(open_body(lease, self._waiting, opened, content_address))

    async def verify_object(
        self, content_address: ContentAddress, *, backend_id: str | None = None
    ) -> VerifyResult:
        """Have the stored bytes read and compared; see `DataPlane`."""
        return await self._call(_calls.verify(content_address, backend_id))

    async def delete_object(
        self,
        content_address: ContentAddress,
        *,
        backend_id: str | None = None,
        if_generation: int | None = None,
    ) -> DeletionResult:
        """Remove an object for good; see `FullDataPlane`."""
        return await self._call(_calls.delete(content_address, backend_id, if_generation))

    async def backend_health(self, *, backend_id: str | None = None) -> BackendStatus:
        """Probe one backend; see `FullDataPlane`."""
        return await self._call(_calls.health(backend_id))

    async def stat_objects(
        self, content_addresses: Sequence[ContentAddress], *, backend_id: str | None = None
    ) -> tuple[ObjectStatus, ...]:
        """Describe those that are present; see `FullDataPlane`. One call per `MAX_BATCH`."""
        found: list[ObjectStatus] = []
        for call in _calls.stats(content_addresses, backend_id):
            present = await self._call(call)
            found += present
        return tuple(found)

    def list_objects(
        self,
        *,
        after: ContentAddress | None = None,
        page_size: int = MAX_BATCH,
        backend_id: str | None = None,
    ) -> AsyncGenerator[ObjectPage]:
        """Walk over all objects; see `FullDataPlane`. No connection is held between pages.

        Arguments are refused here, before the first page. Whoever leaves the walk early
        closes it, with `contextlib.aclosing`.
        """
        first = _calls.page(after, page_size, backend_id)
        return self._pages(first, page_size, backend_id)

    async def list_backends(self) -> BackendList:
        """Probe every configured backend; see `FullDataPlane`."""
        return await self._call(_calls.list_backends())

    async def call_private(
        self, operation: str, arguments: Mapping[str, object] | None = None
    ) -> Mapping[str, object]:
        """Call an operation of one daemon that is not in the contract (`SPEC.md` 10-7).

        It is sent at most once: if the connection is lost the daemon may have carried it out.

        Args:
            operation: Its name, which has a dot.
            arguments: What it takes: text, bytes, integers, booleans, and lists and maps of
                them. None when `None`.

        Returns:
            What the daemon answered, not looked at. Such a call has no body either way.

        Raises:
            InvalidRequestError: The name has no dot, or the arguments cannot be sent; also
                whatever the daemon says so of.
            UnsupportedError: This daemon has no such operation.
        """
        return await self._call(_calls.private(operation, arguments))

    async def aclose(self) -> None:
        """Close all connections; idempotent, never waits.

        Calls and served objects that are still open raise `UnavailableError`, but for
        objects that came as a file: these can be read to their end.
        """
        self._pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.close()

    async def _call(self, call: _calls.Call[T]) -> T:
        if self._trace is not None:
            call = replace(call, request=traced(call.request, self._trace))
        lease = await self._pool.lease()
        try:
            return await lease.run(call.over, lambda: call.is_repeatable)
        finally:
            lease.release()

    async def _open(self, call: _calls.ServeCall) -> tuple[Lease, _calls.Opened]:
        lease = await self._pool.lease()
        try:
            return lease, await lease.run(call.over)
        except BaseException:
            lease.release()
            raise

    async def _pages(
        self, call: _calls.Call[ObjectPage], page_size: int, backend_id: str | None
    ) -> AsyncGenerator[ObjectPage]:
        while True:
            page = await self._call(call)
            yield page
            if not page.more:
                return
            call = _calls.page(page.objects[-1].content_address, page_size, backend_id)


if TYPE_CHECKING:
    # What type checkers must be able to prove.
    _PLANE: type[FullDataPlane] = DataPlaneClient
    _STREAM: type[ObjectStream] = ServedObject
