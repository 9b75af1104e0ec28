import sqlite3
import threading
from concurrent.futures import Future
from contextlib import closing, contextmanager

import pytest

from dataplaned.backends.filesystem import writer as writer_module
from dataplaned.backends.filesystem.schema import connect
from dataplaned.backends.filesystem.writer import Writer


class OursError(Exception):
    pass


class Ledger:
    """A database with one table of numbers, a writer for it, and what the writer did.

    Attributes:
        statements: BEGIN, COMMIT and ROLLBACK, as they were executed.
    """

    def __init__(self, path):
        self.path = path
        self.connection = connect(path)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("CREATE TABLE numbers (number INTEGER UNIQUE, filler BLOB)")
        self.statements = []
        self.connection.set_trace_callback(self._note)
        self.writer = Writer(self.connection)

    def submit(self, change):
        """Submit a change, and give a future of its result."""
        future = Future()

        def done(result, error):
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.writer.submit(change, done)
        return future

    def add(self, number):
        """Submit a number; its future gives the number back."""
        return self.submit(lambda connection: insert(connection, number))

    def committed(self):
        """Give the numbers that another connection sees, in the order of their insertion."""
        with closing(sqlite3.connect(self.path)) as other:
            rows = other.execute("SELECT number FROM numbers ORDER BY rowid").fetchall()
        return [number for (number,) in rows]

    def _note(self, statement):
        word = statement.split()[0]
        if word in ("BEGIN", "COMMIT") or statement == "ROLLBACK":
            self.statements.append(word)

    @contextmanager
    def held(self):
        """Keep the writer busy with one change until the end; that is committed alone."""
        has_begun, may_end = threading.Event(), threading.Event()

        def wait(_):
            has_begun.set()
            assert may_end.wait(10)

        future = self.submit(wait)
        assert has_begun.wait(10)
        try:
            yield
        finally:
            may_end.set()
        future.result(10)


def insert(connection, number, filler=b""):
    connection.execute("INSERT INTO numbers VALUES (?, ?)", (number, filler))
    return number


def failing(error):
    """Give a change that inserts 13, then fails."""

    def change(connection):
        insert(connection, 13)
        raise error

    return change


def catalog_error(name, text="what it says"):
    error = sqlite3.OperationalError(text)
    error.sqlite_errorname = name
    return error


def error_of(future):
    error = future.exception(10)
    assert error is not None
    return error


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(str(tmp_path / "ledger"))
    yield ledger
    if ledger.writer._thread.is_alive():
        ledger.writer.close()
    ledger.connection.close()


# Groups.


def test_a_lone_change_is_committed_at_once(ledger):
    assert ledger.add(1).result(10) == 1
    assert ledger.statements == ["BEGIN", "COMMIT"]
    assert ledger.committed() == [1]


def test_changes_that_come_one_by_one_are_committed_one_by_one(ledger):
    for number in range(3):
        ledger.add(number).result(10)
        assert ledger.committed() == list(range(number + 1))
    assert ledger.statements == ["BEGIN", "COMMIT"] * 3


def test_what_queues_up_while_a_transaction_runs_goes_into_the_next(ledger):
    with ledger.held():
        futures = [ledger.add(number) for number in range(100)]
        assert not any(future.done() for future in futures)
    assert [future.result(10) for future in futures] == list(range(100))
    assert ledger.statements == ["BEGIN", "COMMIT"] * 2
    assert ledger.committed() == list(range(100))


def test_a_result_comes_only_when_it_is_on_disk(ledger):
    seen = []
    with ledger.held():
        for number in range(3):
            ledger.add(number).add_done_callback(lambda _: seen.append(ledger.committed()))
    ledger.add(3).result(10)
    assert seen == [[0, 1, 2]] * 3


def test_a_group_has_a_limit(ledger, monkeypatch):
    monkeypatch.setattr(writer_module, "_MAX_GROUP", 10)
    with ledger.held():
        futures = [ledger.add(number) for number in range(25)]
    assert [future.result(10) for future in futures] == list(range(25))
    assert ledger.statements == ["BEGIN", "COMMIT"] * 4
    assert ledger.committed() == list(range(25))


def test_changes_are_made_in_the_order_in_which_they_came(ledger):
    numbers = [(number * 37) % 101 for number in range(101)]
    with ledger.held():
        futures = [ledger.add(number) for number in numbers]
    futures[-1].result(10)
    assert ledger.committed() == numbers


def test_a_change_sees_those_before_it(ledger):
    def count(connection):
        return connection.execute("SELECT count(*) FROM numbers").fetchone()[0]

    with ledger.held():
        ledger.add(1)
        one = ledger.submit(count)
        ledger.add(2)
        two = ledger.submit(count)
    assert (one.result(10), two.result(10)) == (1, 2)


def test_many_threads_may_submit_at_once(ledger):
    def submit(first):
        for number in range(first, first + 25):
            ledger.add(number).result(10)

    threads = [threading.Thread(target=submit, args=(25 * each,)) for each in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ledger.committed()) == list(range(200))
    assert ledger.statements.count("COMMIT") <= 200


# Failures.


def test_what_a_change_raises_undoes_that_change_alone(ledger):
    error = OursError("refused")
    with ledger.held():
        before = ledger.add(1)
        failed = ledger.submit(failing(error))
        after = ledger.add(2)
    assert error_of(failed) is error
    assert (before.result(10), after.result(10)) == (1, 2)
    assert ledger.committed() == [1, 2]
    assert ledger.statements == ["BEGIN", "COMMIT"] * 2


def test_a_change_that_fails_alone_leaves_nothing(ledger):
    assert isinstance(error_of(ledger.submit(failing(OursError()))), OursError)
    assert ledger.committed() == []
    assert ledger.add(1).result(10) == 1


def test_a_group_that_does_not_fit_is_tried_again_one_by_one(ledger):
    (pages,) = ledger.connection.execute("PRAGMA page_count").fetchone()
    ledger.add(0).result(10)
    ledger.connection.execute(f"PRAGMA max_page_count = {pages}")
    before = ledger.statements.copy()
    with ledger.held():
        large = [
            ledger.submit(lambda connection, n=n: insert(connection, n, bytes(100_000)))
            for n in (1, 2)
        ]
        deletion = ledger.submit(lambda connection: bool(connection.execute("DELETE FROM numbers")))
        small = ledger.add(3)
    assert deletion.result(10) is True
    assert small.result(10) == 3
    for future in large:
        assert error_of(future).sqlite_errorname == "SQLITE_FULL"
    assert ledger.committed() == [3]
    once, again = ["BEGIN", "COMMIT"], ["BEGIN"]
    statements = [word for word in ledger.statements[len(before) :] if word != "ROLLBACK"]
    assert statements == once + again + again * 2 + once * 2
    ledger.connection.execute("PRAGMA max_page_count = 100000")
    assert ledger.submit(lambda c: insert(c, 4, bytes(100_000))).result(10) == 4


def test_a_constraint_fails_the_one_that_broke_it(ledger):
    ledger.add(1).result(10)
    with ledger.held():
        futures = [ledger.add(number) for number in (2, 1, 3)]
    assert (futures[0].result(10), futures[2].result(10)) == (2, 3)
    assert isinstance(error_of(futures[1]), sqlite3.IntegrityError)
    assert ledger.committed() == [1, 2, 3]


def test_after_an_error_that_leaves_doubt_everything_fails_and_nothing_is_committed(ledger):
    ledger.add(1).result(10)
    with ledger.held():
        futures = [
            ledger.add(2),
            ledger.submit(failing(catalog_error("SQLITE_IOERR_FSYNC"))),
            ledger.add(3),
        ]
    futures += [ledger.add(4), ledger.submit(lambda _: None)]
    for future in futures:
        assert error_of(future).sqlite_errorname == "SQLITE_IOERR_FSYNC"
    assert ledger.committed() == [1]
    assert ledger.statements.count("COMMIT") == 2


def test_doubt_in_the_middle_of_a_second_attempt_keeps_what_was_committed_before(ledger):
    errors = iter([catalog_error("SQLITE_FULL"), catalog_error("SQLITE_IOERR_FSYNC")])

    def change(_):
        raise next(errors)

    with ledger.held():
        futures = [ledger.add(1), ledger.submit(change), ledger.add(2)]
    assert futures[0].result(10) == 1
    for future in futures[1:]:
        assert error_of(future).sqlite_errorname == "SQLITE_IOERR_FSYNC"
    assert ledger.committed() == [1]


def test_a_commit_that_fails_without_doubt_is_rolled_back_and_tried_again(ledger):
    # Deferred constraints are looked at by COMMIT: the only error that it has for the asking.
    ledger.connection.execute("PRAGMA foreign_keys = ON")
    ledger.connection.execute(
        "CREATE TABLE links (number REFERENCES numbers (number) DEFERRABLE INITIALLY DEFERRED)"
    )
    with ledger.held():
        good = ledger.add(1)
        bad = ledger.submit(lambda c: c.execute("INSERT INTO links VALUES (7)"))
    assert good.result(10) == 1
    assert isinstance(error_of(bad), sqlite3.IntegrityError)
    assert ledger.committed() == [1]
    assert not ledger.connection.in_transaction


def test_each_caller_gets_an_error_of_its_own(ledger):
    with ledger.held():
        futures = [ledger.submit(failing(catalog_error("SQLITE_CORRUPT", "bad page")))]
        futures += [ledger.add(number) for number in range(3)]
    futures.append(ledger.add(9))
    errors = [error_of(future) for future in futures]
    assert len({id(error) for error in errors}) == len(errors)
    for error in errors:
        assert type(error) is sqlite3.OperationalError
        assert (str(error), error.sqlite_errorname) == ("bad page", "SQLITE_CORRUPT")
        assert error.__traceback__ is None


def test_a_catalog_that_somebody_else_writes_to_is_tried_again_later(ledger):
    ledger.connection.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for future in [ledger.add(number) for number in range(3)]:
            assert error_of(future).sqlite_errorname == "SQLITE_BUSY"
    assert ledger.add(1).result(10) == 1


# Closing.


def test_closing_commits_what_was_submitted(ledger):
    may_begin = threading.Event()
    first = ledger.submit(lambda _: may_begin.wait(10))
    futures = [ledger.add(number) for number in range(10)]
    closing_thread = threading.Thread(target=ledger.writer.close)
    closing_thread.start()
    may_begin.set()
    closing_thread.join(10)
    assert first.result(0)
    assert [future.result(0) for future in futures] == list(range(10))
    assert ledger.committed() == list(range(10))
    assert not ledger.writer._thread.is_alive()


def test_an_idle_writer_closes_at_once(ledger):
    ledger.writer.close()
    assert not ledger.writer._thread.is_alive()
    assert ledger.statements == []


def test_a_writer_in_doubt_can_be_closed(ledger):
    error_of(ledger.submit(failing(catalog_error("SQLITE_IOERR_FSYNC"))))
    late = ledger.add(1)
    ledger.writer.close()
    assert error_of(late).sqlite_errorname == "SQLITE_IOERR_FSYNC"
    assert ledger.committed() == []
