"""Group commit: one thread owns the connection that writes.

Whatever has queued up while one transaction was being synced goes into the next, so that one
sync acknowledges many changes. A change that comes alone is committed at once: nobody waits
for company.
"""

import copy
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, TypeAlias, TypeVar

from ...metrics import StoreMeasures
from .errors import leaves_no_doubt
from .hot import HotObject, HotObjects

T = TypeVar("T")

Change: TypeAlias = Callable[[sqlite3.Connection], T]

#: Told the result, or the error.
Done: TypeAlias = Callable[[T | None, Exception | None], None]

#: Changes in one transaction. With more, the first would wait long for the last.
_MAX_GROUP: Final = 256


@dataclass(frozen=True, slots=True)
class _Job:
    change: Change[Any]
    done: Done[Any]
    keep: Callable[[Any], HotObject] | None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a change went: what it gave or raised, and the objects whose rows it touched."""

    result: Any = None
    error: Exception | None = None
    touched: tuple[bytes, ...] = ()


class Writer:
    """Commits changes in groups, in the order in which they came.

    Args:
        connection: For this alone. Closed by whoever opened it, after `close`.
        hot: Told of every transaction before anybody else is, if the connection is a catalog's.

    Attributes:
        measures: What transactions are counted in; may be set.
    """

    def __init__(self, connection: sqlite3.Connection, hot: HotObjects | None = None) -> None:
        self._connection = connection
        self._hot = hot
        self._touched: list[bytes] = []
        self._data_version = 0
        if hot is not None:
            self._watch()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._doubt: sqlite3.Error | None = None
        self.measures = StoreMeasures()
        self._thread = threading.Thread(target=self._run, name="catalog-writer", daemon=True)
        self._thread.start()

    def submit(
        self, change: Change[T], done: Done[T], keep: Callable[[T], HotObject] | None = None
    ) -> None:
        """Have a change made and committed.

        Args:
            change: Runs in the writer's thread, inside a transaction that others share. It
                may run again if the group that it was in did not fit the disk. What it raises
                undoes its own statements only. If its class has a method `together`, that is
                called with several of it instead (small.py).
            done: Called in the writer's thread, with the result once it is on disk; with what
                `change` raised, or with `sqlite3.Error`. After one that leaves doubt about
                what is on disk every later change fails the same way.
            keep: Gives what is to be kept in memory of the object, once that is on disk.
        """
        self._jobs.put(_Job(change, done, keep))

    def close(self) -> None:
        """Commit what was submitted, and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs = [first]
            is_last = False
            while not is_last and len(jobs) < _MAX_GROUP:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    is_last = True
                else:
                    jobs.append(job)
            self._commit(jobs)
            if is_last:
                return

    def _commit(self, jobs: list[_Job]) -> None:
        if self._doubt is not None:
            _fail(jobs, self._doubt)
            return
        began = time.perf_counter()
        try:
            outcomes = self._transact(jobs)
        except sqlite3.Error as exc:
            if not leaves_no_doubt(exc):
                self._doubt = exc
                _fail(jobs, exc)
            elif len(jobs) == 1:
                _fail(jobs, exc)
            else:
                # Nothing of the group is there. One that needs no room, such as a delete,
                # must not fail because of those that do.
                for job in jobs:
                    self._commit([job])
            return
        self.measures.add_commit(time.perf_counter() - began, len(jobs))
        self._tell_hot(jobs, outcomes)
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.done(outcome.result, outcome.error)

    def _tell_hot(self, jobs: list[_Job], outcomes: list[_Outcome]) -> None:
        if self._hot is None:
            return
        kept = [
            job.keep(outcome.result) if job.keep is not None and outcome.error is None else None
            for job, outcome in zip(jobs, outcomes, strict=True)
        ]
        self._hot.commit(zip((outcome.touched for outcome in outcomes), kept, strict=True))

    def _transact(self, jobs: list[_Job]) -> list[_Outcome]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._look_for_others()
            if len(jobs) == 1:
                outcomes = [self._attempt(jobs[0].change, "ROLLBACK")]
            else:
                outcomes = list(self._apply_all([job.change for job in jobs]))
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return outcomes

    def _look_for_others(self) -> None:
        """Forget everything if another connection has written: nobody said what."""
        if self._hot is None:
            return
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            self._data_version = version
            self._hot.clear()

    def _apply_all(self, changes: list[Change[Any]]) -> Iterator[_Outcome]:
        for kind, run in groupby(changes, type):
            some = list(run)
            yield from self._apply_together(kind, some) or map(self._apply, some)

    def _apply_together(self, kind: type, some: list[Change[Any]]) -> list[_Outcome] | None:
        together = getattr(kind, "together", None)
        if together is None or len(some) == 1:
            return None
        self._touched.clear()
        try:
            results = together(self._connection, some)
        except sqlite3.Error:
            raise
        except Exception:  # noqa: BLE001 - raised before anything was changed; one of them may fit
            return None
        if results is None:
            return None
        # Nothing of them is kept that another one of them touches: all are told first.
        touched = (tuple(self._touched), *[()] * (len(some) - 1))
        return [_Outcome(*each) for each in zip(results, [None] * len(some), touched, strict=True)]

    def _apply(self, change: Change[Any]) -> _Outcome:
        self._connection.execute("SAVEPOINT change")
        outcome = self._attempt(change, "ROLLBACK TO change")
        self._connection.execute("RELEASE change")
        return outcome

    def _attempt(self, change: Change[Any], undo: str) -> _Outcome:
        self._touched.clear()
        try:
            result = change(self._connection)
        except sqlite3.Error:
            raise  # the group's trouble, and perhaps the end of its transaction
        except Exception as exc:  # noqa: BLE001 - whoever submitted it gets it
            self._connection.execute(undo)
            return _Outcome(error=exc)
        return _Outcome(result, touched=tuple(self._touched))

    def _watch(self) -> None:
        """Have the connection itself say which rows it changes, whoever writes the statement.

        A row that is new is none of them: what is not there is not kept either.
        """
        self._connection.create_function("note_touched", 1, self._touched.append)
        # So that a row which another one replaces is noted too.
        self._connection.execute("PRAGMA recursive_triggers = ON")
        for event in ("UPDATE", "DELETE"):
            self._connection.execute(
                f"CREATE TEMP TRIGGER touched_by_{event} AFTER {event} ON main.objects "
                "BEGIN SELECT note_touched(OLD.blake3); END"
            )


def _fail(jobs: list[_Job], error: sqlite3.Error) -> None:
    for job in jobs:
        # Each caller raises its own, or their tracebacks would grow into one another.
        job.done(None, copy.copy(error))
