"""What is in the bucket, as the calls above ask for it: find, open, remove, one object each.

An object exists when, and only when, there is a record of it (names.py). Several daemons may
use one bucket: nothing here relies on being alone, and what is remembered of the bucket is
only where to look first.
"""

import contextlib
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Generic, TypeVar

import trio

from dataplane_protocol import (
    BLAKE3,
    SHA256,
    ContentAddress,
    Digest,
    ObjectState,
    ObjectStatus,
    UnavailableError,
)

from ...config import ObjectStoreConfig
from . import names
from .engine import Engine, Entry, KeyExistsError, NoSuchKeyError
from .names import Mark, Record, Sha256Name

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

K = TypeVar("K")
V = TypeVar("V")

#: The rules in FORMAT.md by which a bucket is written.
FORMAT: Final = 1

_FORMAT_TEXT: Final = json.dumps({"dataplaned": "object store", "format": FORMAT}).encode() + b"\n"

#: Records, and lists of block digests, that are remembered: some 40 MiB at most.
_KNOWN_RECORDS: Final = 50_000
_KNOWN_BLOCKS: Final = 16 * 1024 * 1024

#: How often something is looked for anew that others replaced meanwhile.
_ATTEMPTS: Final = 10


class ForeignBucketError(UnavailableError):
    """The bucket is written by rules that this version does not know."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object in the bucket.

    Attributes:
        record: The one of its last ingest.
        keys: Every key in its folder, superseded records and marks among them.
        is_whole: Whether the record has as many bytes under it as it has to.
        verified_ms: When its bytes were last seen to be right.
        is_bad: Whether they were seen to be wrong after that.
    """

    record: Record
    keys: tuple[str, ...]
    is_whole: bool
    verified_ms: int
    is_bad: bool

    @property
    def status(self) -> ObjectStatus:
        return status_of(self.record, verified_ms=self.verified_ms, is_bad=self.is_bad)


class Bucket:
    """An engine with a layout."""

    def __init__(self, backend_id: str, config: ObjectStoreConfig) -> None:
        self.config = config
        self.engine = Engine(backend_id, config)
        #: Whether an entity tag is the MD5 of the bytes, as with most engines.
        self.has_md5_tags = False
        self._is_ours = False
        self._last_generation = 0
        self._locks: dict[str, trio.Lock] = {}
        self._records: _Memory[str, Record] = _Memory(_KNOWN_RECORDS)
        self._blocks: _Memory[str, bytes] = _Memory(_KNOWN_BLOCKS)
        self._blake3_names: _Memory[str, str] = _Memory(_KNOWN_RECORDS)

    async def require_ours(self) -> None:
        """See, once, that the bucket is there and written by rules that are known.

        Raises:
            UnavailableError: It cannot be looked at now.
            ForeignBucketError: It is of another format.
        """
        if self._is_ours:
            return
        try:
            text = await self.engine.get(names.FORMAT_KEY)
        except NoSuchKeyError:
            with contextlib.suppress(KeyExistsError):
                await self.engine.create(names.FORMAT_KEY, _FORMAT_TEXT)
            text = await self._read_format()
        if _format_of(text) != FORMAT:
            raise ForeignBucketError(
                f"object store {self.config.url} has format {_format_of(text)!r}, "
                f"this version knows {FORMAT}"
            )
        tag = (await self.engine.head(names.FORMAT_KEY)).e_tag
        self.has_md5_tags = tag == _md5(text)
        self._is_ours = True

    @contextlib.asynccontextmanager
    async def lock(self, blake3: str) -> AsyncGenerator[None]:
        """Keep the other tasks of this daemon from changing an object meanwhile.

        Nothing depends on it but that one of many equal ingests is enough.
        """
        lock = self._locks.setdefault(blake3, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():  # nobody has it, so nobody waits for it
                self._locks.pop(blake3, None)

    async def find(self, digest: Digest) -> Found | None:
        """Look an object up, by either of its digests."""
        await self.require_ours()
        if digest.algorithm == BLAKE3:
            return await self._find_blake3(digest.hex)
        known = self._blake3_names.get(digest.hex)
        for blake3 in [known] if known else await self._blake3_of(digest.hex):
            found = await self._find_blake3(blake3)
            if found is not None and found.record.sha256 == digest.hex:
                self._blake3_names.put(digest.hex, blake3)
                return found
        return None

    async def open(self, digest: Digest) -> tuple[Found | Record, bytes] | None:
        """Look an object up and give what is under its record.

        It takes one request where a record of the object is known that is still there.
        """
        await self.require_ours()
        blake3 = digest.hex if digest.algorithm == BLAKE3 else self._blake3_names.get(digest.hex)
        known = self._records.get(blake3) if blake3 else None
        if known is not None:
            with contextlib.suppress(NoSuchKeyError):
                return known, await self._body_of(known)
            self.forget(known.blake3)
        for _ in range(_ATTEMPTS):
            found = await self.find(digest)
            if found is None:
                return None
            if found.is_bad:
                return found, b""
            with contextlib.suppress(NoSuchKeyError):  # deleted, or ingested again, meanwhile
                body = await self._body_of(found.record)
                self.remember(found.record)
                return found, body
        raise UnavailableError("object is being replaced again and again")

    def remember(self, record: Record, blocks: bytes | None = None) -> None:
        """Look here first from now on."""
        self._records.put(record.blake3, record)
        self._blake3_names.put(record.sha256, record.blake3)
        if blocks and record.part_size:
            self._blocks.put(record.key, blocks, len(blocks))

    def forget(self, blake3: str) -> None:
        """Do not look first where an object was."""
        self._records.drop(blake3)

    def next_generation(self, found: Found | None) -> int:
        """Give a generation later than all that this object had: microseconds since 1970."""
        least = max(self._last_generation, found.record.generation if found else 0) + 1
        self._last_generation = max(time.time_ns() // 1000, least)
        return self._last_generation

    async def remove(self, keys: Iterable[str], last: str) -> None:
        """Remove keys, one of them only when the others are gone."""
        others = [key for key in keys if key != last]
        await self.engine.delete(others)
        await self.engine.delete([last])

    async def parts_of(self, record: Record) -> list[Entry] | None:
        """List the parts of an object; `None` when one is missing or of another length."""
        folder = names.parts_folder(record.blake3, record.copy)
        entries = await self.engine.list_all(folder)
        wanted = [
            (record.part_key(number), record.part_length(number))
            for number in range(record.part_count)
        ]
        return entries if [(entry.key, entry.size) for entry in entries] == wanted else None

    async def mark(self, record: Record, *, is_good: bool) -> None:
        """Write down what reading an object has shown."""
        mark = Mark(blake3=record.blake3, copy=record.copy, at_ms=now_ms(), is_good=is_good)
        self.forget(record.blake3)
        await self.engine.put(mark.key, b"")
        entries = await self.engine.list_all(names.object_folder(record.blake3))
        older = [
            entry.key
            for entry in entries
            if isinstance(other := names.parse(entry.key), Mark)
            and other.copy == mark.copy
            and other.key < mark.key
        ]
        await self.engine.delete(older)

    async def objects_after(self, blake3: str | None) -> AsyncGenerator[tuple[str, list[Entry]]]:
        """Give every folder of an object and what is in it, in order, after a digest."""
        group: list[Entry] = []
        digest = ""
        after = f"{names.OBJECTS}/{blake3}/~" if blake3 else None
        async with contextlib.aclosing(self.entries(names.OBJECTS, after)) as entries:
            async for entry in entries:
                here = entry.key.split("/")[1]
                if group and here != digest:
                    yield digest, group
                    group = []
                digest = here
                group.append(entry)
        if group:
            yield digest, group

    async def entries(self, folder: str, after: str | None = None) -> AsyncGenerator[Entry]:
        """Give every key in a folder, in order, a page of the engine's at a time."""
        while page := await self.engine.list_some(folder, after):
            for entry in page:
                yield entry
            after = page[-1].key

    async def _find_blake3(self, blake3: str) -> Found | None:
        found = found_in(await self.engine.list_all(names.object_folder(blake3)))
        if found is None:
            self.forget(blake3)
        return found

    async def _blake3_of(self, sha256: str) -> list[str]:
        entries = await self.engine.list_all(f"{names.SHA256_NAMES}/{sha256}")
        parsed = (names.parse(entry.key) for entry in entries)
        return sorted({name.blake3 for name in parsed if isinstance(name, Sha256Name)})

    async def _body_of(self, record: Record) -> bytes:
        """Give the bytes or the block digests of an object whose record is there."""
        blocks = self._blocks.get(record.key)
        if blocks is None:
            body = await self.engine.get(record.key)
            if record.part_size:
                self._blocks.put(record.key, body, len(body))
            return body
        await self.engine.head(record.key)
        return blocks

    async def _read_format(self) -> bytes:
        try:
            return await self.engine.get(names.FORMAT_KEY)
        except NoSuchKeyError:
            raise UnavailableError("object store does not show what was written") from None


class _Memory(Generic[K, V]):
    """The last used of many values, up to a total weight."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._weight = 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        value, _ = self._values.get(key, (None, 0))
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V, weight: int = 1) -> None:
        self.drop(key)
        self._values[key] = value, weight
        self._weight += weight
        while self._weight > self._limit:
            self.drop(next(iter(self._values)))

    def drop(self, key: K) -> None:
        _, weight = self._values.pop(key, (None, 0))
        self._weight -= weight


def found_in(entries: Iterable[Entry]) -> Found | None:
    """Make sense of what is in the folder of an object; `None` when there is no record."""
    records: list[tuple[Record, Entry]] = []
    marks: list[Mark] = []
    for entry in entries:
        name = names.parse(entry.key)
        if isinstance(name, Record):
            records.append((name, entry))
        elif isinstance(name, Mark):
            marks.append(name)
    if not records:
        return None
    record, entry = max(records, key=lambda pair: pair[0].key)
    of_copy = sorted(
        (mark for mark in marks if mark.copy == record.copy),
        # Of two at the same instant the bad one holds.
        key=lambda mark: (mark.at_ms, not mark.is_good),
    )
    good = [mark.at_ms for mark in of_copy if mark.is_good]
    return Found(
        record=record,
        keys=(*(other.key for other, _ in records), *(mark.key for mark in marks)),
        is_whole=bool(record.part_size) or entry.size == record.size,
        verified_ms=max([record.verified_ms, *good]),
        is_bad=bool(of_copy) and not of_copy[-1].is_good,
    )


def status_of(record: Record, *, verified_ms: int, is_bad: bool) -> ObjectStatus:
    """Describe an object as the contract does."""
    return ObjectStatus(
        content_address=ContentAddress.from_digest(Digest(BLAKE3, record.blake3)),
        size_bytes=record.size,
        sha256_digest=Digest(SHA256, record.sha256),
        generation=record.generation,
        stored_at=moment(record.stored_ms),
        verified_at=moment(verified_ms),
        state=ObjectState.QUARANTINED if is_bad else ObjectState.OK,
    )


def moment(milliseconds: int) -> datetime:
    """Give the time that a number of milliseconds since 1970 stands for."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def now_ms() -> int:
    """Give the milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _format_of(text: bytes) -> object:
    try:
        return json.loads(text)["format"]
    except (ValueError, LookupError, TypeError):
        return None


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
