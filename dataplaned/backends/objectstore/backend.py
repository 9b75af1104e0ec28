"""The object store backend: objects in a bucket of S3, GCS, Azure, or an engine like them.

`FORMAT.md` says what lies there and what holds when several daemons use it. The rooms:
publishing.py takes in, by way of a spool (spool.py), reading.py gives out, reclaiming.py removes
what nobody has any more, on a bucket (bucket.py) of keys (names.py), reached through an engine
(engine.py).
"""

import contextlib
import functools
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
import trio

from dataplane_protocol import (
    BackendState,
    BackendStatus,
    ConflictError,
    DataPlaneError,
    Digest,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectPage,
    ObjectStatus,
    UnavailableError,
)

from ...config import ObjectStoreConfig
from ...digests import BLOCK_SIZE, Digester, ObjectDigests, count_blocks
from ...paths import default_store_path
from ...threads import make_limiter, open_plain_nursery, run_in_thread, to_the_end
from ..base import (
    Backend,
    BackendError,
    Staging,
    StoredObject,
    Verification,
    describe_mismatch,
)
from . import names
from .bucket import Bucket, ForeignBucketError, Found, found_in, status_of
from .engine import NoSuchKeyError
from .names import Record
from .publishing import ObjectStoreStaging, Uploads
from .reading import CHUNKS_AHEAD, InlineObject, PartedObject
from .reclaiming import Reclaimer
from .spool import Spool, SpooledBody

#: Seconds that a start waits for the engine, and a probe.
_START_TIMEOUT: Final = 5.0
_PROBE_TIMEOUT: Final = 10.0

#: Objects that one `stat` looks up at a time.
_LOOKUPS: Final = 16

#: Blocks that a verify reads in one go.
_VERIFY_BLOCKS: Final = 64

_log = structlog.get_logger(__name__)


class ObjectStoreBackend(Backend):
    """Objects in a bucket.

    Args:
        backend_id: The id that calls name it by.
        config: Where it is, and what its operator chose.
    """

    def __init__(self, backend_id: str, config: ObjectStoreConfig) -> None:
        super().__init__(backend_id)
        self._bucket = Bucket(backend_id, config)
        path = config.spool or os.path.join(
            os.path.dirname(default_store_path()), f"spool-{backend_id}"
        )
        self._spool = Spool(path, config.spool_size)
        self._uploads = Uploads(config.parallel_parts)
        self._ahead = trio.CapacityLimiter(CHUNKS_AHEAD)
        self._threads = make_limiter("bucket", 8)
        self._reclaimer = Reclaimer(backend_id, self._bucket)

    async def open(self) -> None:
        await run_in_thread(self._spool.open, self._threads)
        self._bucket.engine.open()
        try:
            with trio.fail_after(_START_TIMEOUT):
                await self._bucket.require_ours()
        except ForeignBucketError as exc:
            await self.aclose()
            raise BackendError(exc.message) from exc
        except (UnavailableError, trio.TooSlowError) as exc:
            # An engine that is away must not keep the other backends from being served.
            reason = exc.message if isinstance(exc, UnavailableError) else "no answer in time"
            _log.warning("engine_away", backend=self.backend_id, reason=reason)

    async def aclose(self) -> None:
        await self._bucket.engine.aclose()

    async def sweep(self) -> None:
        """Nothing: what others left unfinished cannot be told from what they are about."""

    async def figures(self) -> Mapping[str, float]:
        return {"spool_bytes": self._spool.used}

    async def scrub(self) -> None:
        """Look after what nobody has any more; the bytes of objects the engine looks after."""
        await self._reclaimer.run()

    async def stage(self, size_hint: int | None) -> Staging:
        self._spool.require_room(size_hint or 0)
        return ObjectStoreStaging(
            self._bucket, SpooledBody(self._spool, self._uploads.threads), self._uploads
        )

    async def open_object(
        self, digest: Digest, byte_range: tuple[int, int] | None = None
    ) -> StoredObject:
        opened = await self._bucket.open(digest)
        if opened is None:
            raise ObjectNotFoundError(f"no object {digest}")
        found, body = opened
        if isinstance(found, Found) and found.is_bad:
            raise ObjectCorruptError(f"object {digest} is quarantined")
        record = found.record if isinstance(found, Found) else found
        return self._stored(record, _status(found), byte_range, body)

    async def verify(self, digest: Digest) -> Verification:
        found = await self._bucket.find(digest)
        if found is None:
            raise ObjectNotFoundError(f"no object {digest}")
        record = found.record
        try:
            body = await self._bucket.engine.get(record.key)
        except NoSuchKeyError:
            raise ObjectNotFoundError(f"no object {digest}: deleted meanwhile") from None
        expected = ObjectDigests(
            blake3=bytes.fromhex(record.blake3),
            sha256=bytes.fromhex(record.sha256),
            size=record.size,
            blocks=body if record.size > BLOCK_SIZE else b"",
        )
        actual = await self._digest(record, body)
        mismatch = describe_mismatch(expected, actual)
        await to_the_end(lambda: self._bucket.mark(record, is_good=mismatch is None))
        return Verification(actual=actual, mismatch=mismatch)

    async def delete(self, digest: Digest, if_generation: int | None) -> bool:
        found = await self._bucket.find(digest)
        if found is None:
            return False
        async with self._bucket.lock(found.record.blake3):
            found = await self._bucket.find(found.status.content_address.to_digest())
            if found is None:
                return False
            record = found.record
            if if_generation not in (None, record.generation):
                raise ConflictError(
                    f"object has generation {record.generation}, not {if_generation}",
                    details={"generation": record.generation},
                )
            keys = found.keys
            await to_the_end(lambda: self._bucket.remove(keys, last=record.key))
            self._bucket.forget(record.blake3)
            self._reclaimer.note_removed(record)
        return True

    async def stat(self, digests: Sequence[Digest]) -> tuple[ObjectStatus, ...]:
        statuses: dict[Digest, ObjectStatus] = {}
        waiting = list(dict.fromkeys(digests))

        async def look_up() -> None:
            while waiting:
                digest = waiting.pop()
                found = await self._bucket.find(digest)
                if found is not None:
                    statuses[digest] = found.status

        async with open_plain_nursery() as nursery:
            for _ in range(min(_LOOKUPS, len(waiting))):
                nursery.start_soon(look_up)
        return tuple(statuses[digest] for digest in digests if digest in statuses)

    async def list_page(self, after: Digest | None, limit: int) -> ObjectPage:
        await self._bucket.require_ours()
        objects: list[ObjectStatus] = []
        folders = self._bucket.objects_after(after.hex if after else None)
        async with contextlib.aclosing(folders):
            async for _, entries in folders:
                found = found_in(entries)
                if found is not None and len(objects) == limit:
                    return ObjectPage(objects=tuple(objects), more=True)
                if found is not None:
                    objects.append(found.status)
        return ObjectPage(objects=tuple(objects), more=False)

    async def health(self) -> BackendStatus:
        circuit = self._bucket.engine.circuit
        trouble: str | None = None
        try:
            with trio.fail_after(_PROBE_TIMEOUT):
                await self._probe()
        except DataPlaneError as exc:
            trouble = exc.message
        except trio.TooSlowError:
            trouble = f"object store: no answer in {_PROBE_TIMEOUT:.0f} s"
        if trouble is not None:
            return BackendStatus(
                backend_id=self.backend_id,
                state=BackendState.DOWN,
                writable=False,
                message=trouble,
            )
        state = circuit.state
        return BackendStatus(
            backend_id=self.backend_id,
            state=state,
            writable=True,
            message=None if state == BackendState.OK else f"lately: {circuit.reason}",
        )

    def _stored(
        self,
        record: Record,
        status: ObjectStatus,
        byte_range: tuple[int, int] | None,
        body: bytes,
    ) -> StoredObject:
        async def report(reason: str) -> None:
            _log.error(
                "object_corrupt",
                backend=self.backend_id,
                address=str(status.content_address),
                reason=reason,
            )
            try:
                await to_the_end(lambda: self._bucket.mark(record, is_good=False))
            except DataPlaneError as exc:
                _log.warning("mark_failed", backend=self.backend_id, reason=exc.message)

        if not record.part_size:
            return InlineObject(status, byte_range, body, report)
        return PartedObject(
            self._bucket,
            record,
            status,
            byte_range,
            blocks=body,
            ahead=self._ahead,
            threads=self._threads,
            report=report,
        )

    async def _digest(self, record: Record, body: bytes) -> ObjectDigests:
        """Read all of an object from the engine; as much as there is."""
        digester = Digester()
        if not record.part_size:
            digester.update([body])
            return digester.finish()

        async def ignore(reason: str) -> None:
            del reason

        reader = PartedObject(
            self._bucket,
            record,
            status_of(record, verified_ms=0, is_bad=False),
            None,
            blocks=body,
            ahead=self._ahead,
            threads=self._threads,
            report=ignore,
        )
        async with reader:
            block, count = 0, _VERIFY_BLOCKS
            while block < count_blocks(record.size):
                try:
                    data = await reader.fetch(block, count)
                except NoSuchKeyError:
                    if count == 1:
                        break
                    count = 1  # as far as there is something
                    continue
                await run_in_thread(functools.partial(digester.update, [data]), self._threads)
                block += count
        return digester.finish()

    async def _probe(self) -> None:
        """Really write, read back and remove."""
        await self._bucket.require_ours()
        engine = self._bucket.engine
        key, data = f"{names.PROBES}/{names.new_copy()}", secrets.token_bytes(64)
        await engine.put(key, data)
        try:
            if await engine.get(key) != data:
                raise UnavailableError("object store gives other bytes than were stored")
        except NoSuchKeyError:
            raise UnavailableError("object store does not show what was just stored") from None
        await engine.delete([key])


def _status(found: Found | Record) -> ObjectStatus:
    if isinstance(found, Found):
        return found.status
    return status_of(found, verified_ms=found.verified_ms, is_bad=False)
