"""Giving out: ranged requests for whole blocks, some of them ahead, checked before they leave."""

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

import trio

from dataplane_protocol import ObjectCorruptError, ObjectStatus

from ...digests import BLOCK_SIZE, DIGEST_SIZE, count_blocks, find_bad_block
from ...threads import run_in_thread
from ..base import StoredObject
from .bucket import Bucket
from .engine import NoSuchKeyError, Request
from .names import Record

#: Bytes that one request asks for where an object is read on and on.
_CHUNK: Final = 4 * 1024 * 1024

#: Requests of one reader that are under way ahead of it.
_AHEAD: Final = 3

#: Chunks that all readers of a backend have ahead together; who comes later has none ahead.
CHUNKS_AHEAD: Final = 24

Report = Callable[[str], Coroutine[Any, Any, None]]


class InlineObject(StoredObject):
    """An object whose bytes came with its record."""

    def __init__(
        self,
        status: ObjectStatus,
        byte_range: tuple[int, int] | None,
        data: bytes,
        report: Report,
    ) -> None:
        super().__init__(status, byte_range)
        self._data = data
        self._report = report

    async def read(self, first_block: int, count: int) -> bytes:  # noqa: ARG002 - it has one
        await trio.lowlevel.checkpoint()
        wanted = bytes.fromhex(self.status.content_address.to_digest().hex)
        if find_bad_block(self._data, wanted) is not None:
            await self._report("is damaged")
            raise ObjectCorruptError(f"object {self.status.content_address} is damaged")
        return self._data

    async def aclose(self) -> None:
        self._data = b""


class PartedObject(StoredObject):
    """An object whose bytes are in parts.

    Once a reader has gone on from one block to the next, what follows is asked for ahead.
    """

    def __init__(
        self,
        bucket: Bucket,
        record: Record,
        status: ObjectStatus,
        byte_range: tuple[int, int] | None,
        *,
        blocks: bytes,
        ahead: trio.CapacityLimiter,
        threads: trio.CapacityLimiter,
        report: Report,
    ) -> None:
        super().__init__(status, byte_range)
        self._bucket = bucket
        self._record = record
        self._blocks = blocks
        self._ahead = ahead
        self._threads = threads
        self._report = report
        self._end = -(-(self.offset + self.length) // BLOCK_SIZE) * BLOCK_SIZE
        self._chunks: deque[_Chunk] = deque()
        #: Where the next request begins, and where what was fetched and not yet given does.
        self._next = self._position = -1
        self._fetched = memoryview(b"")
        #: Where the first bad block of what was fetched last is, if there is one.
        self._bad_at: int | None = None

    async def fetch(self, first_block: int, count: int) -> bytes:
        """Give whole blocks, unchecked; the rest is as for `read`.

        Raises:
            NoSuchKeyError: Some of the bytes are gone.
        """
        start = first_block * BLOCK_SIZE
        return await self._take(start, min(count * BLOCK_SIZE, self._record.size - start))

    async def read(self, first_block: int, count: int) -> bytes:
        try:
            data = await self.fetch(first_block, count)
        except NoSuchKeyError:
            await self._refuse("has lost bytes")
        if self._bad_at is not None and self._bad_at < first_block * BLOCK_SIZE + len(data):
            self._drop()
            await self._refuse("is damaged")
        return data

    async def aclose(self) -> None:
        self._drop()

    async def _refuse(self, reason: str) -> NoReturn:
        await self._report(reason)
        raise ObjectCorruptError(f"object {self.status.content_address} {reason}")

    async def _take(self, start: int, length: int) -> bytes:
        """Give bytes; they may have been asked for if the reader goes on where it was."""
        if start != self._position:
            self._drop()
            self._next = self._position = start
        pieces: list[memoryview] = []
        while length:
            if not self._fetched:
                self._fetched = await self._fetch(length)
            piece = self._fetched[:length]
            self._fetched = self._fetched[len(piece) :]
            pieces.append(piece)
            self._position += len(piece)
            length -= len(piece)
        return b"".join(pieces)

    async def _fetch(self, length: int) -> memoryview:
        """Give the next bytes, checked: a chunk, or just those that are wanted now."""
        try:
            self._ask_ahead()
            if not self._chunks:
                data = await self._ask(self._next, length).result()
            else:
                chunk = self._chunks.popleft()
                try:
                    data = await chunk.request.result()
                finally:
                    self._ahead.release_on_behalf_of(chunk)
                self._ask_ahead()
            await self._check(data)
        except BaseException:
            self._drop()
            raise
        return data

    async def _check(self, data: memoryview) -> None:
        """Look for the first bad block in bytes that begin where the reader is."""
        first = self._position // BLOCK_SIZE
        digests = self._blocks[first * DIGEST_SIZE :][: count_blocks(len(data)) * DIGEST_SIZE]
        if len(data) <= BLOCK_SIZE:
            bad = find_bad_block(data, digests)
        else:
            bad = await run_in_thread(lambda: find_bad_block(data, digests), self._threads)
        if bad is not None and self._bad_at is None:
            self._bad_at = (first + bad) * BLOCK_SIZE

    def _ask_ahead(self) -> None:
        while len(self._chunks) < _AHEAD and self._next < min(self._end, self._record.size):
            chunk = _Chunk()
            try:
                self._ahead.acquire_on_behalf_of_nowait(chunk)
            except trio.WouldBlock:
                return
            try:
                chunk.request = self._ask(self._next, _CHUNK)
            except BaseException:
                self._ahead.release_on_behalf_of(chunk)
                raise
            self._chunks.append(chunk)

    def _ask(self, start: int, length: int) -> "Request[memoryview]":
        """Ask for bytes of one part, at most so many."""
        number, skip = divmod(start, self._record.part_size)
        end = min(self._end, self._record.size) - start
        length = min(length, self._record.part_length(number) - skip, end)
        request = self._bucket.engine.start_get_range(self._record.part_key(number), skip, length)
        self._next = start + length
        return request

    def _drop(self) -> None:
        self._position = -1
        self._bad_at = None
        self._fetched = memoryview(b"")
        for chunk in self._chunks:
            chunk.request.cancel()
            self._ahead.release_on_behalf_of(chunk)
        self._chunks.clear()


class _Chunk:
    """A request ahead; also the borrower of its place among `CHUNKS_AHEAD`."""

    request: "Request[memoryview]"
