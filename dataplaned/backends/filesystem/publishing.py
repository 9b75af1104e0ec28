"""Ingests: the order in which bytes, names and rows become durable.

    small    commit the row with its bytes, answer
    large    write the file, fsync, rename into the shard, fsync the shard, commit the row, answer
    heal     as either; the commit points the row to the new copy, then the old file goes

A crash between any two steps leaves a file without a row, which nobody sees and the next run
sweeps. From the first fsync on, an ingest goes on to its end, cancelled or not.
"""

import sqlite3
from collections.abc import Callable, Sequence

import trio

from dataplane_protocol import BLAKE3, NoSpaceError

from ...digests import ObjectDigests
from ...threads import to_the_end
from ..base import Published, Staging
from . import changes
from .changes import NewFile, Stored
from .errors import leaves_no_doubt
from .small import StoreSmall
from .staged import StagedFile
from .status import published
from .store import Store


class FilesystemStaging(Staging):
    """One ingest: in memory while it may be small, then in a file.

    Args:
        store: Where it goes.
        size_hint: Bytes that will probably come.
    """

    def __init__(self, store: Store, size_hint: int | None) -> None:
        self._store = store
        self._hint = size_hint or 0
        self._pieces: list[bytes] = []
        self._size = 0
        self._file: StagedFile | None = None

    async def prepare(self) -> None:
        """Set room aside for an object that will probably be large.

        Raises:
            NoSpaceError: There is not so much.
        """
        if self._hint > self._store.config.small_object_size:
            await self._store.run(self._spill)

    async def write(self, pieces: Sequence[bytes]) -> None:
        self._store.note_call()
        self._size += sum(map(len, pieces))
        self._pieces += pieces
        if max(self._size, self._hint) > self._store.config.small_object_size:
            await self._store.run(self._spill)

    def blocking_writer(self) -> Callable[[memoryview], None] | None:
        return self._write_area

    async def publish(self, digests: ObjectDigests) -> Published:
        self._store.require_writable()
        # A cancellation between the first fsync and the commit would leave the outcome open.
        await trio.lowlevel.checkpoint_if_cancelled()
        return published(await to_the_end(lambda: self._publish(digests)))

    async def abort(self) -> None:
        self._pieces.clear()
        file, self._file = self._file, None
        if file is not None:
            with trio.CancelScope(shield=True):
                await self._store.run(file.discard)

    async def _publish(self, digests: ObjectDigests) -> Stored:
        file, self._file = self._file, None
        with self._store.translated():
            if file is None:
                return await self._publish_small(digests)
            return await self._publish_file(file, digests)

    def _spill(self) -> None:
        """Write what is held in memory to the file. Blocks."""
        pieces, self._pieces = self._pieces, []
        self._write(lambda file: file.write(pieces), sum(map(len, pieces)))

    def _write(self, write: Callable[[StagedFile], None], size: int) -> None:
        """Write so many bytes to the file, made if there is none, while there is room."""
        root = self._store.root
        if self._file is None:
            root.require_room(self._hint)
            self._file = root.stage()
            if self._hint:
                self._file.allocate(self._hint)
        # What was allocated is counted as used already.
        root.require_room(size if self._size > self._hint else 0)
        write(self._file)

    def _write_area(self, area: memoryview) -> None:
        """Append to the file. Blocks."""
        self._store.note_call()
        with self._store.translated():
            self._size += len(area)
            self._write(lambda file: file.write_area(area), len(area))

    async def _publish_small(self, digests: ObjectDigests) -> Stored:
        content = b"".join(self._pieces)
        self._pieces.clear()
        store = self._store
        change = StoreSmall(digests, content, store.is_trusted, store.root.require_room)
        stored = await store.commit(change)
        await self._remove(stored.garbage)
        return stored

    async def _publish_file(self, file: StagedFile, digests: ObjectDigests) -> Stored:
        try:
            name = await self._store.run(lambda: self._name(file, digests))
            if name is None:
                renewed = await self._renew(digests)
                if renewed is not None:
                    return renewed
                # The copy that was there a moment ago is gone or found to be bad.
                name = await self._store.run(lambda: self._name_durably(file, digests))
        finally:
            await self._store.run(file.discard)
        return await self._store_file(name, digests)

    async def _renew(self, digests: ObjectDigests) -> Stored | None:
        store = self._store
        row = await store.commit(
            lambda connection: changes.renew(connection, digests, store.is_trusted)
        )
        return None if row is None else changes.kept(row)

    async def _store_file(self, name: str, digests: ObjectDigests) -> Stored:
        store = self._store
        stamp = await store.run(lambda: store.root.stamp(name) or "")
        fresh = NewFile(name=name, stamp=stamp)
        try:
            stored = await store.commit(
                lambda connection: changes.store(connection, digests, fresh, store.is_trusted)
            )
        except (NoSpaceError, sqlite3.Error) as exc:
            if isinstance(exc, NoSpaceError) or leaves_no_doubt(exc):
                # No row will ever name it, and the sweep leaves this run's files alone.
                await self._remove([name])
            raise
        await self._remove(stored.garbage)
        return stored

    def _name(self, file: StagedFile, digests: ObjectDigests) -> str | None:
        """Name the file, unless a copy that is there makes it garbage. Blocks."""
        present = self._store.catalog.find(digests.named(BLAKE3))
        if present is not None and self._store.is_trusted(present):
            return None
        return self._name_durably(file, digests)

    def _name_durably(self, file: StagedFile, digests: ObjectDigests) -> str:
        try:
            return file.publish(digests.blake3)
        except OSError as exc:
            self._store.doubt(exc, "an object's file could not be synced")
            raise

    async def _remove(self, files: Sequence[str]) -> None:
        if files:
            await self._store.run(lambda: self._store.root.remove_files(files))
