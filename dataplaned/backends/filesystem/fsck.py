"""A stopped store checked as a whole, and repaired.

The order matters: the catalog first, since without one nothing else can be judged; rows before
files, so that an object whose file is gone can be healed by one that no row names; totals last.
Every repair is a change that a second run finds made or makes again, in a transaction with
others; files go only after the transaction. A catalog that does not know all objects is marked
as a backup until everything was gone through, so that a crash on the way leaves a store that no
daemon opens and that the next repair treats the same.
"""

import contextlib
import dataclasses
import itertools
import os
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final

from ..base import BackendError
from . import schema
from .examining import Examination
from .findings import Finding, Kind
from .leftovers import Leftovers
from .rebuilding import generation_floor, is_backup_sound, rebuild
from .root import BACKUP_NAME, CATALOG_NAME, LOCK_NAME, NEXT_CATALOG_NAME
from .stopped import StoppedStore, damage_of, hold, is_backup, is_older, look_at

#: Repairs in one transaction.
_BATCH: Final = 256


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What is in a store, when it has been gone through.

    Attributes:
        objects: Objects, the bad ones included.
        size: Their bytes.
        quarantined: Copies in quarantine.
    """

    objects: int
    size: int
    quarantined: int


class NotOwnerError(BackendError):
    """Files made by this process would not be its daemon's."""


class Fsck:
    """One check of a stopped store. Blocks.

    Args:
        path: The directory of the store.
        is_repairing: Whether what is found is repaired. Nothing is changed otherwise.
        is_verifying: Whether all objects are read.
        is_adopting: Whether files that no row names become objects, whatever the catalog.
        on_read: Called with numbers of bytes that were read.

    Attributes:
        totals: What is there, once `run` has come to its end.
    """

    totals: Totals

    def __init__(
        self,
        path: str,
        *,
        is_repairing: bool = False,
        is_verifying: bool = False,
        is_adopting: bool = False,
        on_read: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._path = path
        self._is_repairing = is_repairing
        self._is_verifying = is_verifying
        self._is_adopting = is_adopting
        self._on_read = on_read
        self._changed: set[str] = set()

    def run(self) -> Iterator[Finding]:
        """Give what is found, each as soon as it is repaired, if it is.

        A repair is durable as a whole when this has come to its end.

        Raises:
            NotAStoreError, StoreInUseError: As `hold`.
            NotOwnerError: Another user's store is to be repaired.
            BackendError: Its catalog, or the backup that is needed, is of another format.
            OSError, sqlite3.Error: The disk or the catalog fails, or is full.
        """
        if self._is_repairing:
            _require_owner(self._path)
        with hold(self._path, is_changing=self._is_repairing) as store:
            reason = damage_of(store.catalog_path)
            if reason is not None:
                yield self._lost(store, reason)
            with self._open(store, is_lost=reason is not None) as connection:
                yield from self._foreseen(store, connection, is_lost=reason is not None)
                examination = Examination(
                    store, connection, is_verifying=self._is_verifying, on_read=self._on_read
                )
                leftovers = Leftovers(
                    store, connection, is_adopting=self._is_adopting, on_read=self._on_read
                )
                for findings in (
                    examination.findings(),
                    leftovers.findings(),
                    examination.totals(),
                ):
                    yield from self._settle(store, connection, findings)
                self._sum_up(connection)
                if self._is_repairing:
                    self._finish(store, connection)

    def _lost(self, store: StoppedStore, reason: str) -> Finding:
        """Replace a catalog that cannot be used, or say what would."""
        has_backup = is_backup_sound(store)
        backup = "sound, small objects since" if has_backup else "missing or damaged, small objects"
        hope = " unless they can still be read" if CATALOG_NAME in store.names() else ""
        return Finding(
            kind=Kind.CATALOG,
            subject=CATALOG_NAME,
            detail=f"{reason}; {BACKUP_NAME} is {backup} are lost{hope}",
            outcome=rebuild(store) if self._is_repairing else None,
        )

    @contextlib.contextmanager
    def _open(self, store: StoppedStore, *, is_lost: bool) -> Generator[sqlite3.Connection]:
        """Open the catalog, or for who only looks at a store without one what a repair would."""
        with contextlib.ExitStack() as stack:
            if self._is_repairing:
                connection = schema.connect(store.catalog_path)
                stack.callback(connection.close)
                schema.prepare(connection, store.catalog_path)
            elif not is_lost:
                connection = stack.enter_context(look_at(store.catalog_path))
            elif is_backup_sound(store):
                connection = stack.enter_context(look_at(store.backup_path))
            else:
                connection = schema.connect(":memory:")
                stack.callback(connection.close)
                schema.prepare(connection, ":memory:")
            yield connection

    def _foreseen(
        self, store: StoppedStore, connection: sqlite3.Connection, *, is_lost: bool
    ) -> Iterator[Finding]:
        """See whether the catalog knows all objects; mark it before anything else if not."""
        is_copy = is_backup(connection) or is_lost
        older = is_older(connection, store.last_run)
        detail = None
        if is_copy and not is_lost:
            detail = "is a backup, or its repair was not finished"
        elif older and not is_lost:
            detail = "is older than its store"
        elif not is_copy and not store.last_run and _run_of(connection):
            yield Finding(
                kind=Kind.RUN,
                subject=LOCK_NAME,
                detail="names no run: whether the catalog is the latest cannot be told",
                outcome="noted" if self._is_repairing else None,
            )
        self._is_adopting = self._is_adopting or is_copy or older
        if self._is_adopting and self._is_repairing:
            connection.execute(
                "UPDATE store SET is_backup = 1, generation = max(generation, ?)",
                (generation_floor(store),),
            )
        if detail is not None:
            yield Finding(
                kind=Kind.RUN,
                subject=CATALOG_NAME,
                detail=detail,
                outcome="files that no row names are adopted" if self._is_repairing else None,
            )

    def _settle(
        self, store: StoppedStore, connection: sqlite3.Connection, findings: Iterator[Finding]
    ) -> Iterator[Finding]:
        """Repair what is found, if that is wanted."""
        if not self._is_repairing:
            yield from (finding for finding in findings if finding.kind is not Kind.GOOD)
            return
        while batch := list(itertools.islice(findings, _BATCH)):
            settled = self._repair(store, connection, batch)
            yield from (finding for finding in settled if finding.kind is not Kind.GOOD)

    def _repair(
        self, store: StoppedStore, connection: sqlite3.Connection, batch: Iterable[Finding]
    ) -> list[Finding]:
        """Make a batch of repairs in one transaction; give the findings as they are then."""
        settled: list[Finding] = []
        garbage: list[str] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for finding in batch:
                outcome = None
                if finding.repair is not None:
                    repaired = finding.repair(connection)
                    garbage += repaired.garbage
                    outcome = repaired.outcome
                settled.append(dataclasses.replace(finding, outcome=outcome))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        # A crash before this leaves files that no row names, for the next sweep.
        for path in garbage:
            store.unlink(path)
            self._changed.add(os.path.dirname(path))
        return settled

    def _sum_up(self, connection: sqlite3.Connection) -> None:
        objects, size = connection.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM objects"
        ).fetchone()
        (quarantined,) = connection.execute("SELECT count(*) FROM quarantine").fetchone()
        self.totals = Totals(objects=objects, size=size, quarantined=quarantined)

    def _finish(self, store: StoppedStore, connection: sqlite3.Connection) -> None:
        """Make all of it durable, and the catalog the store's own."""
        root = store.root
        assert root is not None
        for directory in self._changed:
            store.sync(directory)
        store.unlink(NEXT_CATALOG_NAME)
        # As opening does: a crash between this and the note leaves a lock whose run is known.
        connection.execute(
            "UPDATE store SET run = ?, previous_run = ?, is_backup = 0",
            (root.run, store.last_run or _run_of(connection)),
        )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root.sync()
        root.note_run()


def _run_of(connection: sqlite3.Connection) -> str:
    (run,) = connection.execute("SELECT run FROM store").fetchone()
    return str(run)


def _require_owner(path: str) -> None:
    owner = os.stat(path).st_uid
    if owner != os.geteuid():
        raise NotOwnerError(f"store {path} is of user {owner}: only that user can repair it")
