"""The filesystem backend: the order in which bytes, names and rows become durable.

    ingest   stage, write, fsync, rename into the shard, fsync the shard, commit the row, answer
    delete   commit without the row, answer, unlink the file
    heal     as ingest; the commit points the row to the new file, then the old one goes

A crash between any two steps leaves a file without a row, which nobody sees and the next run
sweeps. See root.py for names and directories and catalog.py for rows.
"""

import contextlib
import functools
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import structlog
import trio

from dataplane_protocol import (
    BLAKE3,
    SHA256,
    BackendState,
    BackendStatus,
    ContentAddress,
    DataPlaneError,
    Digest,
    IngestOutcome,
    NoSpaceError,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectPage,
    ObjectState,
    ObjectStatus,
    UnavailableError,
    resolve_range,
)

from ...digests import (
    BLOCK_SIZE,
    DIGEST_SIZE,
    Digester,
    ObjectDigests,
    count_blocks,
    touched_blocks,
)
from ...threads import DISK_THREADS, run_in_thread
from ..base import (
    Backend,
    BackendError,
    Published,
    Staging,
    StoredObject,
    Verification,
    describe_mismatch,
)
from .catalog import Catalog, Row, Stored
from .errors import describe, is_full, leaves_no_doubt, translated
from .reading import FilesystemObject, digest_file
from .root import CATALOG_NAME, Root, StagedFile, stamp_of

T = TypeVar("T")

#: A week, the pace of a scrub that operators of large stores are used to.
MAX_VERIFY_AGE_S: Final = 7 * 86_400.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = structlog.get_logger(__name__)


class FilesystemBackend(Backend):
    """Objects under one directory of a local filesystem.

    Args:
        backend_id: The id that calls name it by.
        path: The directory; made when it is missing.
        max_verify_age_s: Seconds for which bytes that were seen to be right, by an ingest or
            a verify, are believed to be so without looking.
    """

    def __init__(
        self, backend_id: str, path: str, *, max_verify_age_s: float = MAX_VERIFY_AGE_S
    ) -> None:
        super().__init__(backend_id)
        self._path = path
        self._max_verify_age_s = max_verify_age_s
        self._limiter = trio.CapacityLimiter(DISK_THREADS)
        self._read_only_reason: str | None = None

    async def open(self) -> None:
        try:
            await run_in_thread(self._open, self._limiter)
        except OSError as exc:
            raise BackendError(f"store {self._path} cannot be opened: {exc}") from exc
        except sqlite3.Error as exc:
            raise BackendError(
                f"catalog {self._path}/{CATALOG_NAME} cannot be opened: {exc}"
            ) from exc

    async def aclose(self) -> None:
        await run_in_thread(self._close, self._limiter)

    async def sweep(self) -> None:
        swept = await self._run(self._root.sweep_staging)
        for shard in self._root.shards():
            swept += await self._run(
                functools.partial(self._root.sweep_shard, shard, self._catalog.names_file)
            )
        _log.info("swept", backend=self.backend_id, files=swept)

    async def stage(self, size_hint: int | None) -> Staging:  # noqa: ARG002
        self._require_writable()
        return _FilesystemStaging(self)

    async def open_object(
        self, digest: Digest, byte_range: tuple[int, int] | None = None
    ) -> StoredObject:
        return await self._run(lambda: self._open_object(digest, byte_range))

    async def verify(self, digest: Digest) -> Verification:
        row, fd = await self._run(lambda: self._open_file(digest))
        # Before the first byte is read: a change during the verify must not pass for verified.
        stamp = "" if fd is None else stamp_of(os.fstat(fd))
        actual, trouble = await self._digest(fd)
        expected = await self._run(lambda: self._expected(row))
        mismatch = trouble or describe_mismatch(expected, actual)
        if mismatch is None:
            await self._run(lambda: self._note(lambda: self._catalog.mark_good(row, stamp)))
        else:
            await self._run(lambda: self._mark_rotten(row))
        return Verification(actual=actual, mismatch=mismatch)

    async def delete(self, digest: Digest, if_generation: int | None) -> bool:
        self._require_writable()
        # A thread that has begun is waited for, cancelled or not: the outcome is known.
        return await self._run(lambda: self._delete(digest, if_generation))

    async def stat(self, digests: Sequence[Digest]) -> tuple[ObjectStatus, ...]:
        rows = await self._run(lambda: [self._catalog.find(digest) for digest in digests])
        return tuple(_status(row) for row in rows if row is not None)

    async def list_page(self, after: Digest | None, limit: int) -> ObjectPage:
        start = b"" if after is None else bytes.fromhex(after.hex)
        rows = await self._run(lambda: self._catalog.page(start, limit + 1))
        return ObjectPage(
            objects=tuple(_status(row) for row in rows[:limit]), more=len(rows) > limit
        )

    async def health(self) -> BackendStatus:
        try:
            (free, total), count = await self._run(
                lambda: (self._root.probe(), self._catalog.object_count())
            )
        except NoSpaceError as exc:
            return self._unwell(BackendState.DEGRADED, exc.message)
        except DataPlaneError as exc:
            return self._unwell(BackendState.DOWN, exc.message)
        reason = self._read_only_reason
        return BackendStatus(
            backend_id=self.backend_id,
            state=BackendState.OK if reason is None else BackendState.DEGRADED,
            writable=reason is None,
            free_bytes=free,
            total_bytes=total,
            object_count=count,
            message=reason,
        )

    def _unwell(self, state: BackendState, message: str) -> BackendStatus:
        return BackendStatus(
            backend_id=self.backend_id, state=state, writable=False, message=message
        )

    async def run(self, function: Callable[[], T]) -> T:
        """Run something in this backend's threads, its errors turned into the contract's."""
        return await self._run(function)

    def stage_file(self) -> StagedFile:
        """Open a file in the staging. Blocks."""
        return self._root.stage()

    def publish(self, staged: StagedFile, digests: ObjectDigests) -> Published:
        """Publish a staged file; see the module. Blocks."""
        self._require_writable()
        present = self._catalog.find(digests.named(BLAKE3))
        is_trusted = present is not None and self._is_trusted(present)
        if present is not None and is_trusted:
            renewed = self._commit(lambda: self._catalog.renew(present))
            if renewed is not None:
                staged.discard()
                return _published(renewed, IngestOutcome.EXISTED)
        file = self._name_durably(staged, digests)
        replaces = None if is_trusted else present
        stored = self._store(digests, file, replaces)
        if stored.garbage is not None:
            self._root.remove_file(stored.garbage)
        if stored.is_new:
            return _published(stored.row, IngestOutcome.CREATED)
        is_healed = stored.row.file == file
        return _published(stored.row, IngestOutcome.HEALED if is_healed else IngestOutcome.EXISTED)

    # What follows runs in worker threads.

    def _open(self) -> None:
        self._root = Root(self._path)
        try:
            self._catalog = Catalog(self._root.catalog_path)
            self._root.sync()  # the catalog's own name
            self._root.take_reserve()
        except BaseException:
            self._root.close()
            raise

    def _close(self) -> None:
        self._catalog.close()
        self._root.close()

    def _name_durably(self, staged: StagedFile, digests: ObjectDigests) -> str:
        try:
            return staged.publish(digests.blake3)
        except OSError as exc:
            self._doubt(exc, "an object's file could not be synced")
            raise

    def _store(self, digests: ObjectDigests, file: str, replaces: Row | None) -> Stored:
        stamp = self._root.stamp(file) or ""
        try:
            return self._commit(lambda: self._catalog.store(digests, file, replaces, stamp=stamp))
        except sqlite3.Error as exc:
            if leaves_no_doubt(exc):
                # No row will ever name it, and the sweep leaves this run's files alone.
                self._root.remove_file(file)
            raise

    def _delete(self, digest: Digest, if_generation: int | None) -> bool:
        try:
            row = self._commit(lambda: self._catalog.remove(digest, if_generation))
        except sqlite3.Error as exc:
            if not is_full(exc):
                raise
            self._root.give_reserve()
            row = self._commit(lambda: self._catalog.remove(digest, if_generation))
        if row is not None:
            self._root.remove_file(row.file)
        self._root.take_reserve()
        return row is not None

    def _commit(self, change: Callable[[], T]) -> T:
        try:
            return change()
        except sqlite3.Error as exc:
            self._doubt(exc, "the catalog could not commit")
            raise

    def _doubt(self, exc: OSError | sqlite3.Error, reason: str) -> None:
        """Take no more writes: what is on disk is unknown until the store is opened again."""
        if not leaves_no_doubt(exc) and self._read_only_reason is None:
            self._read_only_reason = f"read-only since {reason}: {describe(exc)}"
            _log.error("read_only", backend=self.backend_id, reason=self._read_only_reason)

    def _is_trusted(self, row: Row) -> bool:
        return not row.is_rotten and self._root.stamp(row.file) == row.stamp

    def _find(self, digest: Digest) -> Row:
        row = self._catalog.find(digest)
        if row is None:
            raise ObjectNotFoundError(f"no object {digest}")
        return row

    def _open_object(self, digest: Digest, byte_range: tuple[int, int] | None) -> FilesystemObject:
        row, fd = self._open_file(digest)
        if fd is None:
            self._mark_rotten(row)
            raise ObjectCorruptError(f"object {digest} has lost its file")
        try:
            return self._reader(row, fd, byte_range)
        except BaseException:
            os.close(fd)
            raise

    def _reader(self, row: Row, fd: int, byte_range: tuple[int, int] | None) -> FilesystemObject:
        status = _status(row)
        if row.is_rotten:
            raise ObjectCorruptError(f"object {status.content_address} is quarantined")
        first, count = touched_blocks(*resolve_range(byte_range, row.size))
        digests = self._block_digests(row, first, count)
        if len(digests) < count * DIGEST_SIZE:
            self._find(status.sha256_digest)  # a delete took them; otherwise reading will tell
        return FilesystemObject(
            status,
            byte_range,
            fd,
            digests=digests,
            is_fresh=self._is_fresh(row, fd),
            on_damage=functools.partial(self._mark_rotten, row),
            limiter=self._limiter,
        )

    def _is_fresh(self, row: Row, fd: int) -> bool:
        age_ms = time.time_ns() // 1_000_000 - row.verified_at_ms
        is_recent = 0 <= age_ms < self._max_verify_age_s * 1000
        return is_recent and stamp_of(os.fstat(fd)) == row.stamp

    def _open_file(self, digest: Digest) -> tuple[Row, int | None]:
        """Find an object and open its file; `None` when the file is gone."""
        row = self._find(digest)
        while True:
            try:
                return row, self._root.open_file(row.file)
            except FileNotFoundError:
                # Deleted or healed between the row and the file, or really gone.
                previous, row = row, self._find(digest)
                if row.file == previous.file:
                    return row, None

    def _block_digests(self, row: Row, first: int, count: int) -> bytes:
        if row.size <= BLOCK_SIZE:
            return row.blake3
        return self._catalog.block_digests(row.blake3, first, count)

    def _expected(self, row: Row) -> ObjectDigests:
        count = count_blocks(row.size)
        blocks = self._block_digests(row, 0, count) if count > 1 else b""
        return ObjectDigests(blake3=row.blake3, sha256=row.sha256, size=row.size, blocks=blocks)

    def _mark_rotten(self, row: Row) -> None:
        _log.error("rotten", backend=self.backend_id, object=f"{BLAKE3}:{row.blake3.hex()}")
        self._note(lambda: self._catalog.mark_rotten(row))

    def _note(self, change: Callable[[], None]) -> None:
        """Note what reading has shown. A catalog that cannot must not hide what was found."""
        with contextlib.suppress(sqlite3.Error):
            self._commit(change)

    # Back on the event loop.

    async def _digest(self, fd: int | None) -> tuple[ObjectDigests, str | None]:
        if fd is None:
            return Digester().finish(), "file is missing"
        try:
            with translated(self.backend_id):
                return await digest_file(fd, self._limiter)
        finally:
            os.close(fd)

    def _require_writable(self) -> None:
        if self._read_only_reason is not None:
            raise UnavailableError(
                f"backend {self.backend_id} is {self._read_only_reason}", retry=False
            )

    async def _run(self, function: Callable[[], T]) -> T:
        with translated(self.backend_id):
            return await run_in_thread(function, self._limiter)


class _FilesystemStaging(Staging):
    """One ingest. The file is made with the first bytes, or at the end of an empty object."""

    def __init__(self, backend: FilesystemBackend) -> None:
        self._backend = backend
        self._file: StagedFile | None = None

    async def write(self, pieces: Sequence[bytes]) -> None:
        await self._backend.run(lambda: self._ensure_file().write(pieces))

    async def publish(self, digests: ObjectDigests) -> Published:
        # One call in one thread, and a thread that has begun is waited for: a cancellation
        # between the fsync and the commit would leave the outcome unknown.
        published = await self._backend.run(
            lambda: self._backend.publish(self._ensure_file(), digests)
        )
        self._file = None
        return published

    async def abort(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with trio.CancelScope(shield=True):
                await self._backend.run(file.discard)

    def _ensure_file(self) -> StagedFile:
        if self._file is None:
            self._file = self._backend.stage_file()
        return self._file


def _status(row: Row) -> ObjectStatus:
    return ObjectStatus(
        content_address=ContentAddress(f"{BLAKE3}:{row.blake3.hex()}"),
        size_bytes=row.size,
        sha256_digest=Digest(SHA256, row.sha256.hex()),
        generation=row.generation,
        stored_at=_moment(row.stored_at_ms),
        verified_at=_moment(row.verified_at_ms),
        state=ObjectState.QUARANTINED if row.is_rotten else ObjectState.OK,
    )


def _published(row: Row, outcome: IngestOutcome) -> Published:
    return Published(
        outcome=outcome, generation=row.generation, stored_at=_moment(row.stored_at_ms)
    )


def _moment(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)
