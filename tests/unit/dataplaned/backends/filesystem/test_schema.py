import os
import sqlite3
from contextlib import closing

import pytest

from dataplaned.backends.base import BackendError
from dataplaned.backends.filesystem import schema


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "catalog.sqlite3")


@pytest.fixture
def connection(path):
    with closing(schema.connect(path)) as connection:
        schema.prepare(connection, path)
        yield connection


def prepared(path):
    """Make a catalog, and prepare it again if it is there."""
    with closing(schema.connect(path)) as connection:
        schema.prepare(connection, path)


def content_of(path):
    with open(path, "rb") as file:
        return file.read()


# The file.


def test_every_commit_is_synced(connection):
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA mmap_size").fetchone() in ((0,), None)
    assert connection.execute("PRAGMA trusted_schema").fetchone() == (0,)


def test_an_empty_file_becomes_a_catalog_and_stays_one(path):
    for _ in range(2):
        prepared(path)
    with closing(schema.connect(path)) as connection:
        assert schema.check_identity(connection, path) > 0
        assert connection.execute("SELECT count(*) FROM objects").fetchone() == (0,)
        assert connection.execute("SELECT objects, bytes, run FROM store").fetchall() == [
            (0, 0, "")
        ]


def test_what_a_catalog_shows_is_in_its_file_already(connection, path):
    connection.execute("UPDATE store SET objects = 7")
    assert os.path.getsize(f"{path}-wal") > 0
    with closing(schema.connect(path)) as other:
        schema.prepare(other, path)
        assert os.path.getsize(f"{path}-wal") == 0
        with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as alone:
            assert alone.execute("SELECT objects FROM store").fetchone() == (7,)


def test_a_catalog_that_somebody_else_reads_is_in_use(connection, path):
    connection.execute("UPDATE store SET objects = 7")
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM store").fetchall()
    with closing(schema.connect(path)) as other:
        other.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(BackendError, match="is in use by another process"):
            schema.prepare(other, path)


@pytest.mark.parametrize("version", [1, 3])
def test_another_format_is_refused_and_left_as_it_is(path, version):
    prepared(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    before = content_of(path)
    with pytest.raises(BackendError, match=f"has format {version}, this version reads 2"):
        prepared(path)
    assert content_of(path) == before


def test_somebody_elses_database_is_refused_and_left_as_it_is(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE invoices (amount)")
    before = content_of(path)
    with pytest.raises(BackendError, match="is not a catalog"):
        prepared(path)
    assert content_of(path) == before
    assert os.listdir(os.path.dirname(path)) == ["catalog.sqlite3"]


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path):
    garbage = b"certainly not SQLite " * 1000
    with open(path, "wb") as file:
        file.write(garbage)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        prepared(path)
    assert content_of(path) == garbage


@pytest.mark.parametrize(
    "row",
    [
        "(zeroblob(31), zeroblob(32), 1, 'f', NULL, 1, 1, 1, '', 0)",
        "(zeroblob(32), zeroblob(33), 1, 'f', NULL, 1, 1, 1, '', 0)",
        "(zeroblob(32), zeroblob(32), -1, 'f', NULL, 1, 1, 1, '', 0)",
        "(zeroblob(32), zeroblob(32), 1, NULL, NULL, 1, 1, 1, '', 0)",
        "(zeroblob(32), zeroblob(32), 1, 'f', 5, 1, 1, 1, '', 0)",
        "(zeroblob(32), zeroblob(32), 1, 'f', NULL, 1, 1, 1, '', 2)",
    ],
    ids=["blake3", "sha256", "size", "no-copy", "two-copies", "state"],
)
def test_a_row_that_cannot_be_is_refused(connection, row):
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(f"INSERT INTO objects VALUES {row}")


# Runs.


def runs_of(connection):
    return connection.execute("SELECT run, previous_run FROM store").fetchone()


def test_a_new_catalog_is_the_one_of_any_store(connection, path):
    schema.begin_run(connection, path, "new", "whatever the lock says")
    assert runs_of(connection) == ("new", "whatever the lock says")


def test_each_opening_names_itself_and_the_one_before(connection, path):
    last_run = ""
    for run in ("first", "second", "third"):
        schema.begin_run(connection, path, run, last_run)
        last_run = run
    assert runs_of(connection) == ("third", "second")


def test_a_crash_between_the_catalog_s_note_and_the_lock_s_is_no_reason_to_refuse(connection, path):
    schema.begin_run(connection, path, "first", "")
    # Three times in a row the process dies before the lock names its run.
    for run in ("second", "third", "fourth"):
        schema.begin_run(connection, path, run, "first")
        assert runs_of(connection) == (run, "first")
    schema.begin_run(connection, path, "fifth", "fourth")
    assert runs_of(connection) == ("fifth", "fourth")


def test_a_catalog_older_than_its_store_is_refused_and_left_as_it_is(connection, path):
    schema.begin_run(connection, path, "first", "")
    schema.begin_run(connection, path, "second", "first")
    for later in ("third", "fourth"):
        with pytest.raises(BackendError, match=r"is older than its store: .* fsck --repair"):
            schema.begin_run(connection, path, "new", later)
        assert runs_of(connection) == ("second", "first")


def test_a_store_that_knows_no_run_believes_its_catalog(connection, path):
    schema.begin_run(connection, path, "first", "")
    schema.begin_run(connection, path, "second", "")
    assert runs_of(connection) == ("second", "first")


def test_a_backup_is_refused_whatever_the_lock_says(connection, path):
    schema.begin_run(connection, path, "first", "")
    connection.execute("UPDATE store SET is_backup = 1")
    for last_run in ("", "first"):
        with pytest.raises(BackendError, match="is a backup: objects that came since"):
            schema.begin_run(connection, path, "second", last_run)
    assert runs_of(connection) == ("first", "")
