"""Group commit: one thread owns the connection that writes.

Whatever has queued up while one transaction was being synced goes into the next, so that one
sync acknowledges many changes. A change that comes alone is committed at once: nobody waits
for company.
"""

import copy
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from .errors import leaves_no_doubt

T = TypeVar("T")

Change = Callable[[sqlite3.Connection], T]

#: Changes in one transaction. With more, the first would wait long for the last.
_MAX_GROUP: Final = 256


@dataclass(frozen=True, slots=True)
class _Job:
    change: Change[Any]
    future: "Future[Any]"


class Writer:
    """Commits changes in groups, in the order in which they came.

    Args:
        connection: For this alone. Closed by whoever opened it, after `close`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._doubt: sqlite3.Error | None = None
        self._thread = threading.Thread(target=self._run, name="catalog-writer", daemon=True)
        self._thread.start()

    def submit(self, change: Change[T]) -> "Future[T]":
        """Have a change made and committed; the result comes when it is on disk.

        Args:
            change: Runs in the writer's thread, inside a transaction that others share. It
                may run again if the group that it was in did not fit the disk. What it raises
                undoes its own statements only.

        Returns:
            A future. It fails with what `change` raised, or with `sqlite3.Error`. After one
            that leaves doubt about what is on disk every later change fails the same way.
        """
        future: Future[T] = Future()
        self._jobs.put(_Job(change, future))
        return future

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
        for job, (result, error) in zip(jobs, outcomes, strict=True):
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)

    def _transact(self, jobs: list[_Job]) -> list[tuple[Any, Exception | None]]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            outcomes = [self._apply(job.change) for job in jobs]
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return outcomes

    def _apply(self, change: Change[Any]) -> tuple[Any, Exception | None]:
        self._connection.execute("SAVEPOINT change")
        try:
            result = change(self._connection)
        except sqlite3.Error:
            raise  # the group's trouble, and perhaps the end of its transaction
        except Exception as exc:  # noqa: BLE001 - whoever submitted it gets it
            self._connection.execute("ROLLBACK TO change")
            self._connection.execute("RELEASE change")
            return None, exc
        self._connection.execute("RELEASE change")
        return result, None


def _fail(jobs: list[_Job], error: sqlite3.Error) -> None:
    for job in jobs:
        # Each caller raises its own, or their tracebacks would grow into one another.
        job.future.set_exception(copy.copy(error))
