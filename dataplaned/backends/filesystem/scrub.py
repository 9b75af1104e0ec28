"""The scrub: every object read again before its last verification is too long ago.

The longest unverified comes first, and the time of each verification is in the catalog, so
that a restart goes on where it was: there is no other cursor. It reads so many bytes a second
at most, and steps aside for callers, but never for ever.
"""

import sqlite3
import time
from typing import Final

import structlog
import trio

from dataplane_protocol import DataPlaneError, ObjectNotFoundError, UnavailableError

from ...threads import open_plain_nursery, run_in_thread
from ..maintenance import ScrubState, ScrubStatus
from . import changes
from .rows import Row
from .status import moment
from .store import Store
from .verifying import open_copy, verify_copy

#: Objects that are looked up, and small ones that are read from the disk, in one go.
_BATCH: Final = 64

#: Bytes that an object counts for at least: to find and to note it costs some pages.
_MIN_COST: Final = 16 * 1024

#: Objects that cannot be read, after which it is the disk that cannot be: the pass ends.
_MAX_SKIPPED: Final = 100

#: Seconds between two looks for objects that have become due.
_IDLE_S: Final = 60.0

#: Seconds that one step waits for callers at most: a store that is never idle is scrubbed all
#: the same, at one step in so long.
_MAX_YIELD_S: Final = 10.0

#: Bytes that may be read at once after a pause in which none were.
_BURST: Final = 1024 * 1024

_log = structlog.get_logger(__name__)


class Scrub:
    """Verifies what a store holds, in the background.

    Args:
        store: The store, opened before `run`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state = ScrubState.IDLE
        self._verified = self._bytes = self._rotten = self._skipped = 0
        self._is_paused = False
        self._news = trio.Event()
        self._ready_at = 0.0

    async def run(self) -> None:
        """Scrub until cancelled, whatever the disk does."""
        while True:
            # Taken before the pass: whoever asks during it must not be heard a minute later.
            news = self._news
            try:
                record = await self._store.run(self._store.catalog.scrub_record)
                if news is self._news:  # else a caller said otherwise while it was read
                    self._is_paused = bool(record.is_paused)
                await self._pass()
            except DataPlaneError as exc:
                _log.error("scrub_failed", backend=self._store.backend_id, reason=exc.message)
            except Exception as exc:  # noqa: BLE001 - callers must not pay for a fault in here
                _log.error("scrub_failed", backend=self._store.backend_id, exc_info=exc)
            self._state = ScrubState.IDLE
            with trio.move_on_after(_IDLE_S):
                await news.wait()

    async def status(self) -> ScrubStatus:
        """Say what it does and what is left to do."""
        catalog = self._store.catalog
        record = await self._store.run(catalog.scrub_record)
        before = self._due_before(record.asked_at_ms)
        objects, size, _ = await self._store.run(lambda: catalog.due_totals(before))
        oldest = await self._store.run(lambda: catalog.due(changes.now_ms(), 1))
        # Of the record: `run` may not have read it yet.
        state = ScrubState.PAUSED if record.is_paused else self._state
        return ScrubStatus(
            backend_id=self._store.backend_id,
            state=state if self._store.config.scrub_rate else ScrubState.OFF,
            due_objects=objects,
            due_bytes=size,
            rate=self._store.config.scrub_rate,
            oldest_verification=moment(oldest[0].verified_at_ms) if oldest else None,
            verified_objects=self._verified,
            verified_bytes=self._bytes,
            rotten_objects=self._rotten,
            quarantined=await self._store.run(catalog.quarantined_count),
        )

    async def start(self) -> None:
        """Go on if it was paused, and make every object due now. Kept over restarts."""
        now = changes.now_ms()
        await self._control(
            "UPDATE store SET is_scrub_paused = 0, scrub_asked_at_ms = ?, "
            "catalog_checked_at_ms = 0",
            now,
        )
        self._is_paused = False
        self._tell()

    async def pause(self) -> None:
        """Stop after the step under way, until `start`. Kept over restarts."""
        await self._control("UPDATE store SET is_scrub_paused = ?", 1)
        self._is_paused = True
        self._tell()

    async def _control(self, statement: str, value: int) -> None:
        self._store.require_writable()
        with self._store.translated():
            await self._store.commit(lambda connection: _execute(connection, statement, value))

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _pass(self) -> None:
        """Verify everything that is due, the catalog first."""
        found, verified, self._skipped = self._rotten, self._verified, 0
        last: list[Row] = []
        while (rows := await self._due()) and rows[0] not in last:
            # Else nothing was noted of those just verified: the disk is full, or takes no writes.
            await self._verify(rows)
            last = rows
        if self._verified > verified:
            _log.info(
                "scrubbed",
                backend=self._store.backend_id,
                objects=self._verified - verified,
                rotten=self._rotten - found,
                skipped=self._skipped,
            )

    async def _due(self) -> list[Row]:
        """Give the next objects to verify; check the catalog before, if that is due."""
        if not self._store.config.scrub_rate or self._store.read_only_reason is not None:
            return []
        catalog = self._store.catalog
        record = await self._store.run(catalog.scrub_record)
        before = self._due_before(record.asked_at_ms)
        if record.catalog_checked_at_ms < before and not await self._check_catalog():
            return []
        # Those that could not be read are the first of all: they were due and still are.
        return await self._store.run(lambda: catalog.due(before, _BATCH, self._skipped))

    def _due_before(self, asked_at_ms: int) -> int:
        interval_ms = int(self._store.config.scrub_interval_s * 1000)
        return max(changes.now_ms() - interval_ms, asked_at_ms)

    async def _check_catalog(self) -> bool:
        """Have SQLite check the catalog; whether it is sound."""
        await self._pace(0)
        damage = await run_in_thread(self._store.catalog.check, self._store.limiter)
        if damage is not None:
            _log.error("catalog_damaged", backend=self._store.backend_id, reason=damage)
            self._store.stop_writing(f"the catalog is damaged: {damage}")
            return False
        await self._control("UPDATE store SET catalog_checked_at_ms = ?", changes.now_ms())
        return True

    async def _verify(self, rows: list[Row]) -> None:
        small = [row for row in rows if row.file is None]
        await self._pace(sum(max(_MIN_COST, row.size) for row in small))
        if small:
            await self._store.run(self._store.catalog.forget_cached)
        # All at once, so that their times go to the disk in one commit.
        async with open_plain_nursery() as nursery:
            for row in small:
                nursery.start_soon(self._verify_one, row)
        for row in rows:
            if row.file is not None:
                await self._pace(_MIN_COST)
                await self._verify_one(row)

    async def _verify_one(self, row: Row) -> None:
        try:
            copy = await self._store.run(lambda: open_copy(self._store, row.digest, from_disk=True))
            verification = await verify_copy(self._store, copy, self._pace)
        except ObjectNotFoundError:
            return  # deleted since it was looked up
        except UnavailableError as exc:
            # No rot: a wrong owner, say. It must not hold up those behind it.
            self._skipped += 1
            _log.warning(
                "not_scrubbed",
                backend=self._store.backend_id,
                object=str(row.digest),
                reason=exc.message,
            )
            if self._skipped >= _MAX_SKIPPED:
                raise
            return
        self._verified += 1
        self._bytes += verification.actual.size
        self._rotten += verification.mismatch is not None

    async def _pace(self, size: int) -> None:
        """Wait until so many bytes may be read."""
        while self._is_paused:
            await self._news.wait()
        self._state = ScrubState.YIELDING
        with trio.move_on_after(_MAX_YIELD_S):
            await self._store.wait_idle()
        self._state = ScrubState.RUNNING
        rate = self._store.config.scrub_rate
        now = time.monotonic()
        self._ready_at = max(self._ready_at, now - _BURST / rate) + size / rate
        with trio.move_on_after(max(0.0, self._ready_at - now)):
            await self._news.wait()


def _execute(connection: sqlite3.Connection, statement: str, value: int) -> None:
    connection.execute(statement, (value,))
