"""An open store: its directory, its catalog, its threads, and whether it takes writes."""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Generator
from typing import Final, TypeVar

import structlog
import trio

from dataplane_protocol import (
    BLAKE3,
    Digest,
    NoSpaceError,
    ObjectNotFoundError,
    UnavailableError,
)

from ...config import FilesystemConfig
from ...digests import BLOCK_SIZE, ObjectDigests, count_blocks
from ...metrics import store_measures
from ...threads import DISK_THREADS, Mailbox, make_limiter, run_in_thread, wait_for
from . import changes, schema
from .catalog import Catalog
from .errors import describe, is_full, leaves_no_doubt, translated
from .hot import HotObject
from .root import Root, new_run
from .rows import Row
from .writer import Change

T = TypeVar("T")

#: Seconds without a call after which nobody is in the way of what works in the background.
_BUSY_S: Final = 0.2

_log = structlog.get_logger(__name__)


class Store:
    """What the rooms of a filesystem backend share.

    Methods that are not `async` block and are called in worker threads, but for the short
    ones that only look at values.

    Args:
        backend_id: For messages and logs.
        config: What its operator chose.

    Attributes:
        root: The directory; there is none before `open`.
        catalog: The catalog; likewise.
        limiter: For the threads that wait for its disk.
        mailbox: Where its own threads leave what is for the event loop.
        read_only_reason: Why it takes no writes; `None` while it does.
    """

    root: Root
    catalog: Catalog

    def __init__(self, backend_id: str, config: FilesystemConfig) -> None:
        self.backend_id = backend_id
        self.config = config
        self.limiter = make_limiter("disk", DISK_THREADS)
        self.mailbox = Mailbox()
        self.read_only_reason: str | None = None
        self.measures = store_measures(backend_id)
        self._condemned: set[str | int] = set()
        self._last_call = 0.0

    def reconfigure(self, config: FilesystemConfig) -> None:
        """Take over what can change while it is open."""
        self.config = config
        self.root.leave_free(config.min_free_bytes)

    def open(self) -> None:
        """Open the directory and the catalog. What is visible then is durable.

        Raises:
            BackendError, OSError, sqlite3.Error: As `Root` and `Catalog`.
        """
        root = Root(self.config.root, min_free_bytes=self.config.min_free_bytes)
        try:
            catalog = self._open_catalog(root)
            try:
                root.sync()  # the catalog's own name
                root.note_run()
                root.take_reserve()
            except BaseException:
                catalog.close()
                raise
        except BaseException:
            root.close()
            raise
        self.root = root
        self.catalog = catalog
        root.measures = self.measures
        catalog.count_in(self.measures)

    def close(self) -> None:
        """Commit what was submitted, and let go."""
        self._end_run()
        self.catalog.close()
        self.root.close()

    async def run(self, function: Callable[[], T]) -> T:
        """Run something in a thread, its errors turned into the contract's."""
        with self.translated():
            return await run_in_thread(function, self.limiter)

    @contextlib.contextmanager
    def translated(self) -> Generator[None]:
        """Turn foreign errors into the contract's; one that ended writing is not to be retried."""
        was_writable = self.read_only_reason is None
        with translated(self.backend_id):
            try:
                yield
            except (OSError, sqlite3.Error) as exc:
                if was_writable and self.read_only_reason is not None:
                    raise self._refusal() from exc
                raise

    async def commit(self, change: Change[T]) -> T:
        """Have the catalog changed, durably. Goes on to its end, cancelled or not.

        Raises:
            NoSpaceError: The quota has no room for it; nothing was changed.
            sqlite3.Error: As it came: see `leaves_no_doubt`.
            Exception: What `change` raised.
        """
        try:
            return await wait_for(self.catalog.commit(change))
        except sqlite3.Error as exc:
            # SQLite tells a quota from a broken disk as little as its number does.
            if describe(exc) == "SQLITE_IOERR_WRITE":
                if await self.run(self.root.is_out_of_room):
                    raise NoSpaceError(
                        f"backend {self.backend_id} has no space for its catalog"
                    ) from exc
                self.stop_writing(f"the catalog could not be written: {describe(exc)}")
            self.doubt(exc, "the catalog could not commit")
            raise

    def submit(
        self,
        change: Change[T],
        done: Callable[[T | None], None],
        keep: Callable[[T], HotObject] | None = None,
    ) -> None:
        """Have the catalog changed, durably, and not wait for it.

        Args:
            change: Made with whatever else is waiting.
            done: Called on the event loop with the result, or with `None` after any failure;
                what that means for the store, an ordinary `commit` finds out.
            keep: As for `Writer.submit`.
        """

        def finish(result: T | None, error: Exception | None) -> None:
            self.mailbox.post(done, None if error is not None else result)

        self.catalog.submit(change, finish, keep)

    def require_writable(self) -> None:
        """Refuse a write after a failure that left doubt.

        Raises:
            UnavailableError: There was one.
        """
        if self.read_only_reason is not None:
            raise self._refusal()

    def doubt(self, exc: OSError | sqlite3.Error, reason: str) -> None:
        """Take no more writes, unless the error leaves no doubt about what is on disk."""
        if not leaves_no_doubt(exc):
            self.stop_writing(f"{reason}: {describe(exc)}")

    def stop_writing(self, reason: str) -> None:
        """Take no more writes until the store is opened again; the first reason stays."""
        if self.read_only_reason is None:
            self.read_only_reason = f"read-only since {reason}"
            _log.error("read_only", backend=self.backend_id, reason=self.read_only_reason)

    def note_call(self) -> None:
        """Note that a caller wants something: whatever works in the background yields."""
        self._last_call = time.monotonic()

    async def wait_idle(self) -> None:
        """Wait until no caller has wanted anything for a moment."""
        # There is no event for nobody calling.
        while (wait_s := self._last_call + _BUSY_S - time.monotonic()) > 0:  # noqa: ASYNC110
            await trio.sleep(wait_s)

    def find(self, digest: Digest) -> Row:
        """Look an object up.

        Raises:
            ObjectNotFoundError: There is none.
        """
        row = self.catalog.find(digest)
        if row is None:
            raise ObjectNotFoundError(f"no object {digest}")
        return row

    def is_trusted(self, row: Row) -> bool:
        """Whether a copy may stand for fresh bytes: seen to be right lately, and unchanged."""
        return (
            not self.is_rotten(row)
            and self.is_recent(row)
            and (row.file is None or self.root.stamp(row.file) == row.stamp)
        )

    def is_recent(self, row: Row) -> bool:
        """Whether a copy was seen to be right not longer ago than its operator requires."""
        age_ms = changes.now_ms() - row.verified_at_ms
        return 0 <= age_ms < self.config.max_verify_age_s * 1000

    def is_rotten(self, row: Row) -> bool:
        """Whether a copy is known to be bad, also when the catalog could not note it."""
        return bool(row.is_rotten) or row.copy in self._condemned

    def expected(self, row: Row) -> ObjectDigests:
        """Give what an object's bytes must be."""
        blocks = b""
        if row.size > BLOCK_SIZE:
            blocks = self.catalog.block_digests(row.blake3, 0, count_blocks(row.size))
        return ObjectDigests(blake3=row.blake3, sha256=row.sha256, size=row.size, blocks=blocks)

    async def mark_good(self, row: Row, stamp: str) -> None:
        """Note that a copy was read and is right."""
        self._condemned.discard(row.copy)
        await self._note(lambda connection: changes.mark_good(connection, row, stamp))

    async def mark_rotten(self, row: Row, reason: str) -> None:
        """Put a copy into quarantine. A catalog that cannot note it changes nothing of that."""
        marked = await self._note(lambda connection: changes.mark_rotten(connection, row, reason))
        if marked is None:
            self._condemned.add(row.copy)
        if marked is not False:
            name = f"{BLAKE3}:{row.blake3.hex()}"
            self.measures.add_rotten()
            _log.error("rotten", backend=self.backend_id, object=name, reason=reason)

    async def _note(self, change: Change[T]) -> T | None:
        """Note what reading has shown; `None` when the catalog cannot, or must not be written."""
        if self.read_only_reason is not None:
            return None
        try:
            return await self.commit(change)
        except (sqlite3.Error, NoSpaceError):
            return None

    def _refusal(self) -> UnavailableError:
        return UnavailableError(
            f"backend {self.backend_id} is {self.read_only_reason}", retry=False
        )

    def _end_run(self) -> None:
        """Give the store another run's name, so that a catalog copied during this one is older."""
        if self.read_only_reason is not None:
            return
        run = new_run()
        with contextlib.suppress(OSError, sqlite3.Error):
            self.catalog.commit(
                lambda connection: schema.begin_run(connection, self.catalog.path, run, "")
            ).result()
            self.root.note_run(run)

    def _open_catalog(self, root: Root) -> Catalog:
        def attempt() -> Catalog:
            root.make_catalog()
            return Catalog(root.catalog_path, run=root.run, last_run=root.last_run)

        try:
            return attempt()
        except sqlite3.Error as exc:
            if not is_full(exc):
                raise
        # Nobody could delete anything from a store that does not open.
        root.give_reserve()
        return attempt()
