"""Taking in: spool, then parts, then the names; the record, which makes it exist, is last."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence

import structlog
import trio

from dataplane_protocol import (
    DataPlaneError,
    IngestOutcome,
    UnavailableError,
)

from ...digests import BLOCK_SIZE, ObjectDigests, count_blocks, find_bad_block
from ...threads import make_limiter, open_plain_nursery, run_in_thread, to_the_end
from ..base import Published, Staging
from . import names
from .bucket import Bucket, Found, moment, now_ms
from .engine import NoSuchKeyError
from .names import Record
from .spool import SpooledBody

_log = structlog.get_logger(__name__)


class Uploads:
    """What the ingests of one backend share: threads, and how many parts are sent at a time."""

    def __init__(self, parallel_parts: int) -> None:
        self.threads = make_limiter("spool", 4)
        self.parts = trio.CapacityLimiter(parallel_parts)


class ObjectStoreStaging(Staging):
    """The bytes of one ingest, on the local disk."""

    def __init__(self, bucket: Bucket, body: SpooledBody, uploads: Uploads) -> None:
        self._bucket = bucket
        self._body = body
        self._uploads = uploads

    async def write(self, pieces: Sequence[bytes]) -> None:
        await self._body.write(pieces)

    def blocking_writer(self) -> Callable[[memoryview], None]:
        return lambda piece: self._body.append([piece])

    async def publish(self, digests: ObjectDigests) -> Published:
        blake3 = digests.blake3.hex()
        async with self._bucket.lock(blake3):
            found = await self._bucket.find(digests.named("blake3"))
            if found is not None and await self._is_trusted(found):
                outcome = IngestOutcome.EXISTED
                record = self._next_record(digests, found, kept=found)
            else:
                outcome = IngestOutcome.CREATED if found is None else IngestOutcome.HEALED
                record = self._next_record(digests, found, kept=None)
                await self._upload(record, digests)
                if record.part_size:
                    # That took a while, in which others may have ingested it too.
                    found = await self._bucket.find(digests.named("blake3"))
                    record = self._renewed(record, found)
            # From here on it is a matter of a second, and must not stop half-way.
            await to_the_end(lambda: self._write_record(record, digests, found))
        return Published(
            outcome=outcome,
            generation=record.generation,
            stored_at=moment(record.stored_ms),
        )

    async def abort(self) -> None:
        self._body.close()

    async def _is_trusted(self, found: Found) -> bool:
        if found.is_bad or not found.is_whole:
            return False
        return not found.record.part_size or await self._bucket.parts_of(found.record) is not None

    def _next_record(
        self, digests: ObjectDigests, found: Found | None, kept: Found | None
    ) -> Record:
        config = self._bucket.config
        now = now_ms()
        if kept is not None:
            copy, part_size = kept.record.copy, kept.record.part_size
        else:
            copy = names.new_copy()
            part_size = config.part_size if digests.size > config.small_object_size else 0
        return Record(
            blake3=digests.blake3.hex(),
            generation=self._bucket.next_generation(found),
            stored_ms=now,
            verified_ms=now if kept is None else kept.verified_ms,
            copy=copy,
            size=digests.size,
            sha256=digests.sha256.hex(),
            part_size=part_size,
        )

    def _renewed(self, record: Record, found: Found | None) -> Record:
        now = now_ms()
        generation = self._bucket.next_generation(found)
        return dataclasses.replace(record, generation=generation, stored_ms=now, verified_ms=now)

    async def _upload(self, record: Record, digests: ObjectDigests) -> None:
        """Send what the record will stand for, and see that the engine has it."""
        tags: dict[str, str | None] = {}
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._bucket.engine.put, record.sha256_key, b"")
            for number in range(record.part_count):
                await self._uploads.parts.acquire_on_behalf_of(slot := object())
                nursery.start_soon(
                    functools.partial(self._send_part, record, digests, number, tags, slot)
                )
        if record.part_size:
            stored = await self._bucket.parts_of(record)
            if stored is None:
                raise UnavailableError("object store does not show the parts that were written")
            if any(tags[entry.key] != entry.e_tag for entry in stored):
                raise UnavailableError("object store has other bytes than were sent")

    async def _send_part(
        self,
        record: Record,
        digests: ObjectDigests,
        number: int,
        tags: dict[str, str | None],
        slot: object,
    ) -> None:
        try:
            start, length = number * record.part_size, record.part_length(number)
            data = await self._body.read(start, length)
            wanted = digests.block_digests(start // BLOCK_SIZE, count_blocks(length))
            key = record.part_key(number)
            needs_md5 = self._bucket.has_md5_tags and not self._bucket.engine.signs_bodies
            async with open_plain_nursery() as nursery:
                nursery.start_soon(self._put_part, key, data, tags)
                md5 = await run_in_thread(
                    lambda: _check(data, wanted, needs_md5=needs_md5), self._uploads.threads
                )
            if md5 is not None:
                tags[key] = md5
        finally:
            self._uploads.parts.release_on_behalf_of(slot)

    async def _put_part(self, key: str, data: bytes, tags: dict[str, str | None]) -> None:
        tags[key] = await self._bucket.engine.put(key, data)

    async def _write_record(
        self, record: Record, digests: ObjectDigests, found: Found | None
    ) -> None:
        """Make the object exist, see that it does, and remove what it takes the place of."""
        bucket = self._bucket
        body = digests.blocks if record.part_size else await self._body.read(0, record.size)
        # An object of one block that is in a part.
        if record.part_size and not body:
            body = digests.blake3
        tag = await bucket.engine.put(record.key, body)
        try:
            entry = await bucket.engine.head(record.key)
        except NoSuchKeyError:
            # Deleted by another daemon already, or never there.
            raise UnavailableError("object store does not show the record just written") from None
        if entry.size != len(body) or entry.e_tag != tag:
            raise UnavailableError("object store has another record than was written")
        if bucket.has_md5_tags and entry.e_tag != _md5(body):
            raise UnavailableError("object store has other bytes than were sent")
        bucket.remember(record, body)
        try:
            await bucket.engine.delete(_superseded(found, record))
        except DataPlaneError as exc:
            # They are ignored, and found again.
            _log.info("superseded_kept", reason=exc.message)


def _superseded(found: Found | None, record: Record) -> list[str]:
    """Give the keys that a new record makes needless: all but marks of the copy it keeps."""
    if found is None:
        return []
    parsed = ((key, names.parse(key)) for key in found.keys)
    return [
        key
        for key, name in parsed
        if isinstance(name, Record) or (name is not None and name.copy != record.copy)
    ]


def _check(data: bytes, digests: bytes, *, needs_md5: bool) -> str | None:
    """See that the spool has given what was put in; its MD5, if that is wanted."""
    if find_bad_block(data, digests) is not None:
        raise UnavailableError("spool has given other bytes than were put in")
    return _md5(data) if needs_md5 else None


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
