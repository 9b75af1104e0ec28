"""The filesystem backend: objects under one directory of a local filesystem.

`FORMAT.md` says what lies there. The rooms: publishing.py takes in, reading.py gives out,
verifying.py and scrub.py look after what is stored, on a store (store.py) that is a directory
(root.py) and a catalog (catalog.py).
"""

import contextlib
import functools
import os
import sqlite3
from collections.abc import Mapping, Sequence

import structlog
import trio

from dataplane_protocol import (
    BackendState,
    BackendStatus,
    ConflictError,
    ContentAddress,
    DataPlaneError,
    Digest,
    NoSpaceError,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectPage,
    ObjectStatus,
)

from ...config import BackendConfig, FilesystemConfig
from ...digests import DIGEST_SIZE
from ...threads import run_in_thread
from ..base import Backend, BackendError, Staging, StoredObject, Verification
from ..maintenance import Maintained, QuarantinedCopy, ScrubStatus
from . import changes
from .errors import is_full
from .hot import HotFile, HotObject
from .opening import MOST_QUICK_BLOCKS, block_digests, close_copy, open_to_serve
from .publishing import FilesystemStaging
from .quick import FilesystemQuick
from .reading import FilesystemObject, SmallObject
from .root import CATALOG_NAME, NotAFileError, stamp_of
from .rows import Quarantined, Row
from .scrub import Scrub
from .status import moment, status_of
from .store import Store
from .verifying import Copy, verify
from .writer import Change

_log = structlog.get_logger(__name__)


class FilesystemBackend(Backend, Maintained):
    """Objects under one directory of a local filesystem.

    Args:
        backend_id: The id that calls name it by.
        config: Where it is, and what its operator chose.
    """

    def __init__(self, backend_id: str, config: FilesystemConfig) -> None:
        super().__init__(backend_id)
        self._store = Store(backend_id, config)
        self._scrub = Scrub(self._store)
        self._has_given_reserve = False
        self.quick = FilesystemQuick(self._store)

    def reconfigure(self, config: BackendConfig) -> None:
        if isinstance(config, FilesystemConfig):
            self._store.reconfigure(config)

    async def open(self) -> None:
        path = self._store.config.root
        self._store.mailbox.open()
        try:
            await run_in_thread(self._store.open, self._store.limiter)
        except OSError as exc:
            raise BackendError(f"store {path} cannot be opened: {exc}") from exc
        except sqlite3.Error as exc:
            raise BackendError(
                f"catalog {path}/{CATALOG_NAME} cannot be opened: {exc}: "
                "dataplaned fsck says what can be done"
            ) from exc

    async def aclose(self) -> None:
        await run_in_thread(self._store.close, self._store.limiter)

    async def sweep(self) -> None:
        root, catalog = self._store.root, self._store.catalog
        swept = await self._store.run(root.sweep_staging)
        for shard in root.shards():
            sweep = functools.partial(root.sweep_shard, shard, catalog.names_file)
            swept += await self._store.run(sweep)
        _log.info("swept", backend=self.backend_id, files=swept)

    async def scrub(self) -> None:
        await self._scrub.run()

    async def stage(self, size_hint: int | None) -> Staging:
        self._store.require_writable()
        self._store.note_call()
        staging = FilesystemStaging(self._store, size_hint)
        try:
            await staging.prepare()
        except BaseException:
            await staging.abort()
            raise
        return staging

    async def open_object(
        self, digest: Digest, byte_range: tuple[int, int] | None = None
    ) -> StoredObject:
        self._store.note_call()
        copy, digests = await self._store.run(lambda: self._open(digest, byte_range))
        row = copy.row
        if copy.trouble is not None:
            close_copy(copy)
            await self._store.mark_rotten(row, copy.trouble)
            raise ObjectCorruptError(f"object {digest} {copy.trouble}")

        async def note_damage(reason: str) -> None:
            await self._store.mark_rotten(row, reason)

        if copy.fd is None:
            return SmallObject(
                status_of(row), byte_range, copy.content, digest=digests, on_damage=note_damage
            )
        status = os.fstat(copy.fd)
        is_unchanged = stamp_of(status) == row.stamp and status.st_size == row.size
        is_fresh = self._store.is_recent(row) and is_unchanged
        return FilesystemObject(
            status_of(row),
            byte_range,
            copy.fd,
            digests=digests,
            is_fresh=is_fresh,
            on_read=self._store.note_call,
            on_damage=note_damage,
            limiter=self._store.limiter,
        )

    async def verify(self, digest: Digest) -> Verification:
        return await verify(self._store, digest)

    async def delete(self, digest: Digest, if_generation: int | None) -> bool:
        self._store.require_writable()
        self._store.note_call()
        with self._store.translated():
            removed = await self._remove(
                lambda connection: changes.remove(connection, digest, if_generation)
            )
        return removed is not None

    async def stat(self, digests: Sequence[Digest]) -> tuple[ObjectStatus, ...]:
        find = self._store.catalog.find
        rows = await self._store.run(lambda: [find(digest) for digest in digests])
        return tuple(status_of(row) for row in rows if row is not None)

    async def list_page(self, after: Digest | None, limit: int) -> ObjectPage:
        start = b"" if after is None else bytes.fromhex(after.hex)
        rows = await self._store.run(lambda: self._store.catalog.page(start, limit + 1))
        return ObjectPage(
            objects=tuple(status_of(row) for row in rows[:limit]), more=len(rows) > limit
        )

    async def health(self) -> BackendStatus:
        root, catalog = self._store.root, self._store.catalog
        try:
            (free, total), (count, _) = await self._store.run(
                lambda: (root.probe(), catalog.totals())
            )
        except NoSpaceError as exc:
            return self._unwell(BackendState.DEGRADED, exc.message)
        except DataPlaneError as exc:
            return self._unwell(BackendState.DOWN, exc.message)
        reason = self._store.read_only_reason
        if reason is None and free < root.min_free_bytes:
            reason = f"{free} bytes are free, {root.min_free_bytes} stay free"
        return BackendStatus(
            backend_id=self.backend_id,
            state=BackendState.OK if reason is None else BackendState.DEGRADED,
            writable=reason is None,
            free_bytes=free,
            total_bytes=total,
            object_count=count,
            message=reason,
        )

    async def figures(self) -> Mapping[str, float]:
        _, stored = await self._store.run(self._store.catalog.totals)
        return {
            "stored_bytes": stored,
            "read_only": self._store.read_only_reason is not None,
            "min_free_bytes": self._store.root.min_free_bytes,
        }

    # Maintenance.

    async def scrub_status(self) -> ScrubStatus:
        return await self._scrub.status()

    async def start_scrub(self) -> None:
        await self._scrub.start()

    async def pause_scrub(self) -> None:
        await self._scrub.pause()

    async def list_quarantined(self, after: int, limit: int) -> Sequence[QuarantinedCopy]:
        entries = await self._store.run(lambda: self._store.catalog.quarantined(after, limit))
        return await self._store.run(lambda: list(map(self._describe, entries)))

    async def restore(self, number: int) -> Verification:
        entry = await self._store.run(lambda: self._entry(number))
        row = await self._store.run(lambda: self._store.find(entry.digest))
        if not (row.is_rotten and entry.is_copy_of(row)):
            raise ConflictError(f"object {entry.digest} has another copy by now")
        return await verify(self._store, entry.digest)

    async def purge(self, number: int) -> None:
        self._store.require_writable()
        with self._store.translated():
            removed = await self._remove(lambda connection: changes.purge(connection, number))
        if removed is None:
            raise ObjectNotFoundError(f"no copy {number} in quarantine")

    async def back_up(self) -> str:
        self._store.require_writable()
        return await self._store.run(self._back_up)

    def _unwell(self, state: BackendState, message: str) -> BackendStatus:
        return BackendStatus(
            backend_id=self.backend_id, state=state, writable=False, message=message
        )

    async def _remove(self, change: Change[changes.Removed | None]) -> changes.Removed | None:
        """Commit a removal, on a full disk too, and then unlink what it leaves."""
        try:
            removed = await self._store.commit(change)
        except (NoSpaceError, sqlite3.Error) as exc:
            if isinstance(exc, sqlite3.Error) and not is_full(exc):
                raise
            await self._store.run(self._store.root.give_reserve)
            self._has_given_reserve = True
            # The WAL grows with every delete; what was freed so far is used again after this.
            await self._store.run(self._store.catalog.fold)
            removed = await self._store.commit(change)
        # Shielded: the sweep leaves this run's files alone, so that nobody else removes them.
        with trio.CancelScope(shield=True):
            if removed is not None and removed.garbage:
                await self._store.run(lambda: self._store.root.remove_files(removed.garbage))
            if self._has_given_reserve:
                self._has_given_reserve = not await self._store.run(self._store.root.take_reserve)
        return removed

    # What follows runs in worker threads.

    def _open(self, digest: Digest, byte_range: tuple[int, int] | None) -> tuple[Copy, bytes]:
        """Open a copy, with the digests of the blocks that a range touches."""
        version = self._store.catalog.hot.read_version()
        copy = open_to_serve(self._store, digest)
        if copy.trouble is not None:
            return copy, b""
        try:
            digests = block_digests(self._store, copy.row, byte_range)
            if len(digests) <= MOST_QUICK_BLOCKS * DIGEST_SIZE:
                self._keep_open(copy.row, version)
        except BaseException:
            close_copy(copy)
            raise
        return copy, digests

    def _keep_open(self, row: Row, version: bytes) -> None:
        """Keep a file open: whoever reads a little of it reads more of it soon."""
        if row.file is None:
            return
        # Not the same description: that one may be given away.
        with contextlib.suppress(OSError, NotAFileError):
            fd = self._store.root.open_file(row.file)
            hot = HotObject(row, file=HotFile(fd, os.fstat(fd)))
            self._store.catalog.hot.keep(hot, version)

    def _entry(self, number: int) -> Quarantined:
        entries = self._store.catalog.quarantined(number - 1, 1)
        if not entries or entries[0].number != number:
            raise ObjectNotFoundError(f"no copy {number} in quarantine")
        return entries[0]

    def _describe(self, entry: Quarantined) -> QuarantinedCopy:
        row = self._store.catalog.find(entry.digest)
        return QuarantinedCopy(
            number=entry.number,
            content_address=ContentAddress.from_digest(entry.digest),
            size_bytes=entry.size,
            reason=entry.reason,
            found_at=moment(entry.found_at_ms),
            is_only_copy=row is not None and bool(row.is_rotten) and entry.is_copy_of(row),
        )

    def _back_up(self) -> str:
        root = self._store.root
        name = root.new_name()
        try:
            self._store.catalog.backup(root.staged_path(name))
            root.adopt_backup(name)
        except BaseException:
            root.discard_staged(name)
            raise
        return root.backup_path
