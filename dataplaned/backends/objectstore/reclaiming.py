"""Removing bytes that no object has: of what was deleted, healed, or never finished.

Whoever ingests an object that is there makes a record that names its stored copy, and may have
looked some requests ago; so nothing that a record may still come to name is removed before it
has been without one, and unchanged, for `reclaim_after_s`. That is longer than any request is
under way, and measured by this daemon's own clock only.
"""

import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from dataplane_protocol import DataPlaneError

from . import names
from .bucket import Bucket, Found, found_in
from .names import Mark, Part, Record, Sha256Name

#: Copies of this daemon's own deletes that wait; what comes on top is found by the search.
_MOST_WAITING: Final = 100_000

#: Seconds between two looks at what waits.
_LOOK_INTERVAL: Final = 30.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Suspect:
    """Keys that belonged to no object when they were looked at.

    Attributes:
        since: When they were first seen as they are now.
        signature: Changes when an ingest under way adds to them.
    """

    since: float
    signature: str


class Reclaimer:
    """What one daemon does about it, for as long as it runs."""

    def __init__(self, backend_id: str, bucket: Bucket) -> None:
        self._id = backend_id
        self._bucket = bucket
        self._grace = bucket.config.reclaim_after_s
        self._waiting: deque[tuple[float, Record]] = deque(maxlen=_MOST_WAITING)
        self._suspects: dict[str, _Suspect] = {}

    def note_removed(self, record: Record) -> None:
        """Have the copy of a deleted record removed when its time has come."""
        self._waiting.append((time.monotonic(), record))

    async def run(self) -> None:
        """Look after both, until cancelled."""
        interval = self._bucket.config.reclaim_interval_s
        next_search = time.monotonic()
        while True:
            try:
                await self.remove_waiting()
                if interval and time.monotonic() >= next_search:
                    next_search = time.monotonic() + min(interval, self._grace)
                    if not await self.search():
                        next_search = time.monotonic() + interval
            except DataPlaneError as exc:
                _log.warning("reclaim_failed", backend=self._id, reason=exc.message)
            await trio.sleep(min(_LOOK_INTERVAL, self._grace))

    async def remove_waiting(self) -> None:
        """Remove the copies of deleted objects whose time has come."""
        while self._waiting and self._waiting[0][0] + self._grace <= time.monotonic():
            _, record = self._waiting[0]
            if not await self._is_named(record.blake3, record.copy):
                folder = names.parts_folder(record.blake3, record.copy)
                keys = [entry.key for entry in await self._bucket.engine.list_all(folder)]
                await self._bucket.engine.delete([*keys, record.sha256_key])
            self._waiting.popleft()

    async def search(self) -> int:
        """Go through the whole bucket once: remove what has long been of no use.

        Returns:
            How much is of no use, but has not been so for long enough.
        """
        now = time.monotonic()
        seen: dict[str, _Suspect] = {}
        removed = 0
        async for group, signature in self._useless():
            suspect = self._suspects.get(group)
            if suspect is None or suspect.signature != signature:
                suspect = _Suspect(now, signature)
            if now - suspect.since >= self._grace:
                removed += await self._remove(group)
            else:
                seen[group] = suspect
        self._suspects = seen
        _log.info("reclaimed", backend=self._id, keys=removed, waiting=len(seen))
        return len(seen)

    async def _useless(self) -> AsyncGenerator[tuple[str, str]]:
        """Give keys, and folders of parts, that no object has, each with a signature."""
        copies = array("Q")
        async for _, entries in self._bucket.objects_after(None):
            found = found_in(entries)
            for entry in entries:
                name = names.parse(entry.key)
                if isinstance(name, Record):
                    copies.append(int(name.copy, 16))
                if not _is_current(name, found):
                    yield entry.key, ""
        # Eight bytes for an object: what the search costs in memory.
        copies = array("Q", sorted(copies))
        folder, parts, last = "", 0, ""
        async for entry in self._bucket.entries(names.PARTS):
            name = names.parse(entry.key)
            if not isinstance(name, Part) or _is_in(copies, name.copy):
                continue
            here = names.parts_folder(name.blake3, name.copy)
            if here != folder and folder:
                yield folder, f"{parts} {last}"
            parts = parts + 1 if here == folder else 1
            folder, last = here, entry.key
        if folder:
            yield folder, f"{parts} {last}"
        async for entry in self._bucket.entries(names.SHA256_NAMES):
            name = names.parse(entry.key)
            if isinstance(name, Sha256Name) and not _is_in(copies, name.copy):
                yield entry.key, ""
        async for entry in self._bucket.entries(names.PROBES):
            yield entry.key, ""

    async def _remove(self, group: str) -> int:
        """Look a last time, and remove keys; how many."""
        name = names.parse(group)
        if isinstance(name, Record | Mark):
            folder = names.object_folder(name.blake3)
            if _is_current(name, found_in(await self._bucket.engine.list_all(folder))):
                return 0
            keys = [group]
        elif isinstance(name, Sha256Name):
            if await self._is_named(name.blake3, name.copy):
                return 0
            keys = [group]
        elif group.startswith(f"{names.PARTS}/"):
            _, blake3, copy = group.split("/")
            if await self._is_named(blake3, copy):
                return 0
            keys = [entry.key for entry in await self._bucket.engine.list_all(group)]
        else:
            keys = [group]
        await self._bucket.engine.delete(keys)
        return len(keys)

    async def _is_named(self, blake3: str, copy: str) -> bool:
        """Whether any record of an object stands for a copy."""
        entries = await self._bucket.engine.list_all(names.object_folder(blake3))
        parsed = (names.parse(entry.key) for entry in entries)
        return any(isinstance(name, Record) and name.copy == copy for name in parsed)


def _is_current(name: object, found: Found | None) -> bool:
    """Whether a key in an object's folder still says something; what is not ours always does."""
    if isinstance(name, Mark):
        return found is not None and name.copy == found.record.copy
    return not isinstance(name, Record) or (found is not None and name == found.record)


def _is_in(copies: "array[int]", copy: str) -> bool:
    value = int(copy, 16)
    index = bisect_left(copies, value)
    return index < len(copies) and copies[index] == value
