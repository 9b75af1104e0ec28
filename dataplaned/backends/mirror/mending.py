"""Giving one side of a mirror what the other has: at once, from the journal, and by comparing."""

import contextlib
import functools
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import structlog
import trio

from dataplane_protocol import (
    BLAKE3,
    DataPlaneError,
    Digest,
    IngestOutcome,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectState,
    ObjectStatus,
    UnavailableError,
)

from ...digests import Digester, count_blocks
from ...threads import run_in_thread
from ..base import Backend
from .journal import START, Journal, Pending, Task

#: Blocks that are copied in one go.
_BLOCKS: Final = 16

#: Rows of the journal that are worked off in one go, and entries of a page that is compared.
_BATCH: Final = 100
_PAGE: Final = 1000

#: Seconds before a side that was away is asked again, at first and at most.
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0

_log = structlog.get_logger(__name__)


class Mender:
    """What looks after both sides of a mirror.

    Args:
        backend_id: The mirror's.
        sides: The first and the second.
        journal: What they have to do.
    """

    def __init__(self, backend_id: str, sides: Sequence[Backend], journal: Journal) -> None:
        self._id = backend_id
        self._sides = sides
        self._journal = journal
        self._locks: dict[bytes, trio.Lock] = {}
        self._news = trio.Event()
        self._threads = trio.CapacityLimiter(2)

    @contextlib.asynccontextmanager
    async def lock(self, blake3: bytes) -> AsyncGenerator[None]:
        """Keep everybody else from changing an object meanwhile."""
        lock = self._locks.setdefault(blake3, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(blake3, None)

    async def want_copy(self, side: int, blake3: bytes) -> None:
        """Have a side given an object, soon."""
        if not self._journal.is_deleted(side, blake3):
            await self._journal.change(add=[Pending(side, blake3, Task.COPY)])
            self.wake()

    def wake(self) -> None:
        """Say that there is something in the journal."""
        self._news.set()
        self._news = trio.Event()

    async def copy(self, side: int, blake3: bytes) -> None:
        """Give a side an object that the other one has, if it is still so that it needs it.

        Raises:
            DataPlaneError: One of them cannot be used now, or the good copy is none.
        """
        async with self.lock(blake3):
            await self._copy_locked(side, blake3)

    async def drain(self, side: int) -> int:
        """Do what a side has to do, once.

        Returns:
            How many objects it is behind after that.

        Raises:
            UnavailableError: It, or for a copy the other one, cannot be used now.
        """
        place = START
        while rows := await self._journal.rows(side, place, _BATCH):
            for place, row in rows:  # noqa: B007 - the last one is where to go on
                await self._do(row)
        return self._journal.count(side)

    async def work(self, side: int) -> None:
        """Do what a side has to do, for ever."""
        pause = _FIRST_PAUSE
        while True:
            news = self._news
            try:
                left = await self.drain(side)
            except UnavailableError as exc:
                _log.info("side_away", backend=self._sides[side].backend_id, reason=exc.message)
                left = 1
            if not left:
                pause = _FIRST_PAUSE
                await news.wait()
            else:
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def compare(self) -> int:
        """Go through both sides, and note what one has to get from the other.

        Returns:
            How many objects that are.

        Raises:
            DataPlaneError: A side cannot be used now.
        """
        noted = 0
        first, second = (_Walk(side) for side in self._sides)
        await first.step()
        await second.step()
        while first.status or second.status:
            name = min(walk.name for walk in (first, second) if walk.status)
            states = [
                walk.status.state if walk.name == name and walk.status else None
                for walk in (first, second)
            ]
            blake3 = bytes.fromhex(name)
            for side in (0, 1):
                if (
                    states[side] != ObjectState.OK
                    and states[1 - side] == ObjectState.OK
                    and not any(self._journal.is_deleted(one, blake3) for one in (0, 1))
                ):
                    noted += 1
                    await self.want_copy(side, blake3)
            for walk in (first, second):
                if walk.status and walk.name == name:
                    await walk.step()
        _log.info("compared", backend=self._id, differences=noted)
        return noted

    async def _do(self, row: Pending) -> None:
        try:
            if row.task == Task.COPY:
                await self.copy(row.side, row.blake3)
                return
            async with self.lock(row.blake3):
                if self._journal.is_deleted(row.side, row.blake3):
                    await self._sides[row.side].delete(_digest(row.blake3), None)
                    await self._journal.change(drop=[row])
        except UnavailableError:
            raise
        except DataPlaneError as exc:
            # It stays behind, and is seen in the health; the next turn tries again.
            _log.warning(
                "side_not_mended",
                backend=self._sides[row.side].backend_id,
                address=str(_digest(row.blake3)),
                reason=exc.message,
            )

    async def _copy_locked(self, side: int, blake3: bytes) -> None:
        row = Pending(side, blake3, Task.COPY)
        digest = _digest(blake3)
        source, target = self._sides[1 - side], self._sides[side]
        if any(self._journal.is_deleted(one, blake3) for one in (0, 1)):
            return
        there = await source.stat([digest])
        has = await target.stat([digest])
        if (has and has[0].state == ObjectState.OK) or not there:
            # It has come by itself, or has been deleted since.
            await self._journal.change(drop=[row])
            return
        outcome = await self._transfer(digest, source, target)
        await self._journal.change(drop=[row])
        _log.log(
            30 if outcome == IngestOutcome.HEALED else 20,
            "healed" if outcome == IngestOutcome.HEALED else "caught_up",
            backend=target.backend_id,
            address=str(digest),
        )

    async def _transfer(self, digest: Digest, source: Backend, target: Backend) -> str:
        try:
            stored = await source.open_object(digest)
        except ObjectNotFoundError:
            raise ObjectCorruptError(f"object {digest} is gone from both sides") from None
        digester = Digester()
        async with stored:
            staging = await target.stage(stored.length)
            try:
                for block in range(0, count_blocks(stored.length), _BLOCKS):
                    data = await stored.read(block, _BLOCKS)
                    await run_in_thread(functools.partial(digester.update, [data]), self._threads)
                    await staging.write([data])
                digests = digester.finish()
                if digests.blake3.hex() != digest.hex:
                    raise ObjectCorruptError(f"object {digest} is damaged on both sides")
                return (await staging.publish(digests)).outcome
            finally:
                await staging.abort()


class _Walk:
    """One side's objects, in order."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._statuses: list[ObjectStatus] = []
        self._after: Digest | None = None
        self._has_more = True
        self.status: ObjectStatus | None = None
        self.name = ""

    async def step(self) -> None:
        """Go on to the next one; at the end `status` is `None`."""
        if not self._statuses and self._has_more:
            page = await self._backend.list_page(self._after, _PAGE)
            self._statuses = list(reversed(page.objects))
            self._has_more = page.more
        self.status = self._statuses.pop() if self._statuses else None
        if self.status is not None:
            self._after = self.status.content_address.to_digest()
            self.name = self._after.hex


def _digest(blake3: bytes) -> Digest:
    return Digest(BLAKE3, blake3.hex())
