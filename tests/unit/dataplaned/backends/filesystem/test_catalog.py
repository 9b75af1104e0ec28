import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest
import trio

from dataplane_protocol import Digest
from dataplaned.backends.base import BackendError
from dataplaned.backends.filesystem import catalog as catalog_module, changes, schema
from dataplaned.backends.filesystem.catalog import Catalog, ScrubRecord
from dataplaned.backends.filesystem.changes import NewFile
from dataplaned.digests import BLOCK_SIZE, DIGEST_SIZE, ObjectDigests


def open_catalog(path, run="run", last_run=""):
    return closing(Catalog(path, run=run, last_run=last_run))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "catalog.sqlite3")


@pytest.fixture
def catalog(path):
    with open_catalog(path) as catalog:
        yield catalog


def digests_of(number, size=10, blocks=b""):
    """Digests as an object could have them, in the order of their numbers."""
    return ObjectDigests(
        blake3=number.to_bytes(2, "big") * 16,
        sha256=(0xFFFF - number).to_bytes(2, "big") * 16,
        size=size,
        blocks=blocks,
    )


def blake3_of(number):
    return digests_of(number).named("blake3")


def sha256_of(number):
    return digests_of(number).named("sha256")


def add(catalog, number, fresh=b"content", **digests):
    """Store an object, as a file if `fresh` is the name of one; give its row."""
    if isinstance(fresh, str):
        fresh = NewFile(name=fresh, stamp="stamp")
    change = lambda c: changes.store(c, digests_of(number, **digests), fresh, lambda _: True)  # noqa: E731
    return catalog.commit(change).result(10).row


def mark_rotten(catalog, row, reason="differs"):
    assert catalog.commit(lambda c: changes.mark_rotten(c, row, reason)).result(10)


def execute(catalog, statement, *values):
    catalog.commit(lambda c: c.execute(statement, values) and None).result(10)


# Finding.


def test_an_object_is_found_by_either_digest(catalog):
    row = add(catalog, 1)
    assert catalog.find(blake3_of(1)) == row
    assert catalog.find(sha256_of(1)) == row
    assert catalog.find(blake3_of(2)) is None


def test_a_digest_of_one_kind_is_not_the_name_of_the_other(catalog):
    add(catalog, 1)
    assert catalog.find(Digest("sha256", blake3_of(1).hex)) is None


def test_pages_are_in_order_and_start_after_a_value(catalog):
    for number in (5, 3, 9, 1):
        add(catalog, number)
    every = [digests_of(number).blake3 for number in (1, 3, 5, 9)]
    assert [row.blake3 for row in catalog.page(b"", 10)] == every
    assert [row.blake3 for row in catalog.page(b"", 2)] == every[:2]
    assert [row.blake3 for row in catalog.page(every[1], 10)] == every[2:]
    assert [row.blake3 for row in catalog.page(digests_of(4).blake3, 1)] == every[2:3]
    assert catalog.page(every[3], 10) == []


def test_a_file_is_named_by_a_row_only_under_its_own_object(catalog):
    file = f"{digests_of(1).blake3.hex()}.0123456789abcdef-0"
    row = add(catalog, 1, file)
    assert catalog.names_file(file)
    assert not catalog.names_file(file + "1")
    mark_rotten(catalog, row)
    execute(catalog, "UPDATE objects SET file = 'healed'")
    assert catalog.names_file(file)  # it is in quarantine
    assert not catalog.names_file(f"{digests_of(2).blake3.hex()}.0123456789abcdef-0")


# Generations.


def test_generations_only_grow_over_deletes_and_openings(path):
    generations = []
    for _ in range(3):
        with open_catalog(path) as catalog:
            generations += [add(catalog, number).generation for number in (1, 2, 1)]
            for number in (1, 2):
                catalog.commit(
                    lambda c, number=number: changes.remove(c, blake3_of(number), None)
                ).result(10)
    assert generations == sorted(set(generations))


# Block digests.


def test_blocks_are_given_across_the_border_of_two_rows(catalog):
    count = 2 * 4096 + 5
    blocks = b"".join(index.to_bytes(DIGEST_SIZE, "big") for index in range(count))
    add(catalog, 1, "file", size=count * BLOCK_SIZE - 1, blocks=blocks)
    blake3 = digests_of(1).blake3
    for first, wanted in (
        (0, 1), (0, count), (4095, 1), (4095, 2), (4096, 1), (4094, 4),
        (4090, 4200), (8191, 3), (count - 1, 1),
    ):  # fmt: skip
        part = blocks[first * DIGEST_SIZE : (first + wanted) * DIGEST_SIZE]
        assert catalog.block_digests(blake3, first, wanted) == part
    assert catalog.block_digests(blake3, count - 1, 4) == blocks[-DIGEST_SIZE:]
    assert catalog.block_digests(digests_of(2).blake3, 0, 4) == b""


# What is on disk.


def test_every_commit_is_synced(catalog):
    for connection in catalog._connections:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("name", ["_reading", "_disk"])
def test_the_reading_connections_cannot_write(catalog, name):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        getattr(catalog, name).execute("DELETE FROM objects")


def test_nothing_is_left_of_a_transaction_that_fails(catalog):
    before = add(catalog, 1)
    broken = ObjectDigests(blake3=bytes(32), sha256=b"too short", size=1, blocks=b"")
    with pytest.raises(sqlite3.IntegrityError):
        catalog.commit(lambda c: changes.store(c, broken, b"bytes", lambda _: True)).result(10)
    assert catalog.page(b"", 10) == [before]
    assert catalog.totals() == (1, 10)
    assert add(catalog, 2).generation == before.generation + 1


@pytest.mark.parametrize("fresh", ["file", bytes(320_000)], ids=["file", "content"])
def test_a_full_disk_changes_nothing(catalog, fresh):
    before = add(catalog, 1)
    writing = catalog._writer._connection
    (pages,) = writing.execute("PRAGMA page_count").fetchone()
    writing.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError) as caught:
        add(catalog, 2, fresh, size=10**9, blocks=bytes(DIGEST_SIZE * 10_000))
    assert caught.value.sqlite_errorname == "SQLITE_FULL"
    assert catalog.find(blake3_of(2)) is None
    assert catalog.totals() == (1, 10)
    writing.execute("PRAGMA max_page_count = 1000000")
    assert add(catalog, 2).generation == before.generation + 1


def as_killed(path, aside):
    """Give a copy of the files as they would be if the process was killed now."""
    aside.mkdir()
    for name in ("catalog.sqlite3", "catalog.sqlite3-wal"):
        shutil.copy(f"{os.path.dirname(path)}/{name}", aside)
    return str(aside / "catalog.sqlite3")


def test_rows_that_a_killed_process_left_in_the_wal_are_on_disk_before_they_are_seen(
    catalog, path, tmp_path
):
    add(catalog, 1)
    path = as_killed(path, tmp_path / "killed")
    size = os.path.getsize(f"{path}-wal")
    assert rows_of_main_file(path) == 0
    with open_catalog(path) as catalog:
        assert os.path.getsize(f"{path}-wal") < size  # no more than that it was opened
        assert rows_of_main_file(path) == 1
        assert catalog.find(blake3_of(1)) is not None


def rows_of_main_file(path):
    """Count the rows that are there without the WAL."""
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        return connection.execute("SELECT count(*) FROM objects").fetchone()[0]


def test_a_catalog_that_nobody_wrote_to_is_complete_without_its_wal(catalog, path, tmp_path):
    # An object is stored only after this: a catalog of no bytes never had objects.
    path = as_killed(path, tmp_path / "killed")
    os.unlink(f"{path}-wal")
    with open_catalog(path) as catalog:
        assert add(catalog, 1).content is not None
        assert catalog.totals() == (1, 10)


def test_closing_folds_the_wal_into_the_file(path):
    with open_catalog(path) as catalog:
        add(catalog, 1)
    assert os.listdir(os.path.dirname(path)) == ["catalog.sqlite3"]
    assert rows_of_main_file(path) == 1


# Bytes in the catalog.


@pytest.mark.parametrize("size", [0, 1, 1000, 32 * 1024, BLOCK_SIZE])
def test_bytes_are_given_as_they_were_stored_from_either_side_of_the_cache(catalog, size):
    data = bytes(range(256)) * (size // 256 + 1)
    row = add(catalog, 1, data[:size])
    for _ in range(2):
        assert catalog.content(row) == data[:size]
        assert catalog.content(row, from_disk=True) == data[:size]
        catalog.forget_cached()


def test_bytes_that_are_gone_are_none(catalog):
    row = add(catalog, 1)
    execute(catalog, "DELETE FROM contents")
    assert catalog.content(row) is None
    assert catalog.content(row, from_disk=True) is None


def test_bytes_that_changed_on_the_disk_are_seen_once_the_caches_are_forgotten(catalog, path):
    data = b"precious bytes" * 1000
    row = add(catalog, 1, data)
    catalog.fold()
    assert catalog.content(row, from_disk=True) == data
    with open(path, "r+b") as file:
        at = file.read().index(data[:100])
        file.seek(at)
        file.write(b"P")
    catalog.forget_cached()
    assert catalog.content(row, from_disk=True) == b"P" + data[1:]


def test_forgetting_has_the_kernel_forget_the_file_and_the_wal(catalog, path, monkeypatch):
    forgotten = []

    def note(fd, offset, size, advice):
        forgotten.append((os.readlink(f"/proc/self/fd/{fd}"), offset, size, advice))

    monkeypatch.setattr(os, "posix_fadvise", note)
    catalog.forget_cached()
    everything = (0, 0, os.POSIX_FADV_DONTNEED)
    assert forgotten == [(path, *everything), (f"{path}-wal", *everything)]


# What is due.


def test_what_is_due_comes_with_the_longest_unverified_first(catalog):
    for number, verified_at_ms in ((1, 300), (2, 100), (3, 200), (4, 400)):
        add(catalog, number, size=number)
        execute(
            catalog,
            "UPDATE objects SET verified_at_ms = ? WHERE blake3 = ?",
            verified_at_ms,
            digests_of(number).blake3,
        )
    due = [row.size for row in catalog.due(400, 10)]
    assert due == [2, 3, 1]
    assert [row.size for row in catalog.due(400, 2)] == [2, 3]
    assert catalog.due(100, 10) == []
    assert catalog.due_totals(400) == (3, 6, 100)
    assert catalog.due_totals(100) == (0, 0, None)


def test_what_is_rotten_is_not_due(catalog):
    row = add(catalog, 1)
    add(catalog, 2)
    mark_rotten(catalog, row)
    assert [row.blake3 for row in catalog.due(2**60, 10)] == [digests_of(2).blake3]
    assert catalog.due_totals(2**60)[:2] == (1, 10)


def test_a_new_catalog_knows_nothing_of_a_scrub(catalog):
    assert catalog.scrub_record() == ScrubRecord(0, 0, 0)


def test_the_quarantine_is_given_in_pages_of_its_numbers(catalog):
    for number in (3, 1, 2):
        mark_rotten(catalog, add(catalog, number), f"reason {number}")
    entries = catalog.quarantined(0, 10)
    assert [entry.reason for entry in entries] == ["reason 3", "reason 1", "reason 2"]
    assert catalog.quarantined(0, 2) == entries[:2]
    assert catalog.quarantined(entries[0].number, 10) == entries[1:]
    assert catalog.quarantined(entries[2].number, 10) == []
    assert catalog.quarantined_count() == 3


# Checking and copying the whole.


@pytest.mark.trio
async def test_a_check_finds_nothing_wrong_with_a_good_catalog(catalog):
    for number in range(50):
        add(catalog, number)
    assert await trio.to_thread.run_sync(catalog.check) is None


@pytest.mark.trio
@pytest.mark.parametrize("page", ["objects", "quarantine_by_object", "contents"])
async def test_a_check_finds_damage(catalog, path, page):
    for number in range(20):
        mark_rotten(catalog, add(catalog, number, b"content" * 20))
    ((root_page,),) = catalog._read("SELECT rootpage FROM sqlite_schema WHERE name = ?", page)
    ((page_size,),) = catalog._read("PRAGMA page_size")
    catalog.fold()
    with open(path, "r+b") as file:
        file.seek((root_page - 1) * page_size)
        file.write(os.urandom(200))
    assert await trio.to_thread.run_sync(catalog.check) is not None


@pytest.mark.trio
async def test_a_check_can_be_cancelled(catalog, monkeypatch):
    monkeypatch.setattr(catalog_module, "_CHECK_STEP", 1)
    add(catalog, 1)
    with trio.CancelScope() as scope:

        def check():
            trio.from_thread.run_sync(scope.cancel)
            return catalog.check()

        await trio.to_thread.run_sync(check)
    assert scope.cancelled_caught
    assert add(catalog, 2)


def test_a_backup_is_complete_and_marked_and_the_catalog_is_not(catalog, path, tmp_path):
    copy = str(tmp_path / "copy" / "backup")
    os.mkdir(tmp_path / "copy")
    rows = [add(catalog, number, b"bytes %d" % number) for number in range(10)]
    mark_rotten(catalog, rows[3])
    catalog.backup(copy)
    add(catalog, 11)
    assert os.listdir(tmp_path / "copy") == ["backup"]
    with closing(sqlite3.connect(copy)) as backup:
        for table in ("contents", "quarantine", "blocks"):
            assert backup.execute(f"SELECT count(*) FROM {table}").fetchall()
        assert backup.execute("SELECT count(*) FROM objects").fetchone() == (10,)
        assert backup.execute("SELECT bytes FROM contents ORDER BY id").fetchall() == [
            (b"bytes %d" % number,) for number in range(10)
        ]
        assert backup.execute("SELECT objects, is_backup FROM store").fetchone() == (10, 1)
        assert backup.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert catalog._read("SELECT is_backup FROM store") == [(0,)]


def test_a_backup_takes_no_place_that_is_taken(catalog, tmp_path):
    copy = tmp_path / "taken"
    copy.write_text("somebody's")
    with pytest.raises(sqlite3.Error):
        catalog.backup(str(copy))
    assert copy.read_text() == "somebody's"


def test_a_backup_is_refused_on_opening_and_left_as_it_is(catalog, tmp_path):
    copy = str(tmp_path / "backup")
    add(catalog, 1)
    catalog.backup(copy)
    for last_run in ("", "run"):
        with pytest.raises(BackendError, match="is a backup"):
            Catalog(copy, run="another", last_run=last_run)
    with closing(sqlite3.connect(copy)) as backup:
        assert backup.execute("SELECT run, is_backup FROM store").fetchone() == ("run", 1)


def test_folding_empties_the_wal(catalog, path):
    add(catalog, 1)
    assert os.path.getsize(f"{path}-wal") > 0
    catalog.fold()
    assert os.path.getsize(f"{path}-wal") == 0
    assert rows_of_main_file(path) == 1


def test_folding_is_given_up_while_somebody_writes(catalog, path, monkeypatch):
    connect = schema.connect

    def connect_in_haste(path):
        connection = connect(path)
        connection.execute("PRAGMA busy_timeout = 0")
        return connection

    monkeypatch.setattr(schema, "connect", connect_in_haste)
    add(catalog, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        catalog.fold()
    assert add(catalog, 2)


# Opening and closing.


@pytest.mark.parametrize("is_refused", [False, True])
def test_descriptors_are_closed_after_every_connection(path, monkeypatch, is_refused):
    # close(2) of any descriptor of a file takes all locks of the process on it (fcntl(2)).
    with open_catalog(path):
        pass
    catalogs = []
    close = os.close

    def close_last(fd):
        if os.readlink(f"/proc/self/fd/{fd}").startswith(path):
            for connection in catalogs[0]._connections:
                with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                    connection.execute("SELECT 1")
            catalogs.append(fd)
        close(fd)

    class Fake:
        """The module `os`, as the catalog sees it."""

        O_RDONLY, O_CLOEXEC = os.O_RDONLY, os.O_CLOEXEC
        close = staticmethod(close_last)

        @staticmethod
        def open(name, flags):
            if is_refused and name.endswith("-wal"):
                raise PermissionError(name)
            return os.open(name, flags)

    class Watched(Catalog):
        def __init__(self, *arguments, **keywords):
            catalogs.append(self)
            super().__init__(*arguments, **keywords)

    monkeypatch.setattr(catalog_module, "os", Fake)
    if is_refused:
        with pytest.raises(PermissionError):
            Watched(path, run="run", last_run="")
    else:
        Watched(path, run="run", last_run="").close()
    assert len(catalogs) == (2 if is_refused else 3)


def test_another_process_cannot_write_past_an_open_catalog(catalog, path):
    # What SQLite's locks are for: a second writer waits for the first.
    catalog.forget_cached()
    catalog.fold()
    writing = catalog._writer._connection
    writing.execute("BEGIN IMMEDIATE")
    program = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
    )
    second = subprocess.run(
        [sys.executable, "-c", program, path], check=False, capture_output=True, text=True
    )
    writing.execute("ROLLBACK")
    assert "database is locked" in second.stderr


@pytest.mark.parametrize("content", [b"certainly not SQLite " * 1000, None])
def test_a_refused_opening_leaves_no_descriptor_and_no_thread(path, content):
    if content is None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE invoices (amount)")
    else:
        with open(path, "wb") as file:
            file.write(content)
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    with pytest.raises((BackendError, sqlite3.DatabaseError)):
        Catalog(path, run="run", last_run="")
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_closing_commits_what_was_submitted_and_ends_the_thread(path):
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    catalog = Catalog(path, run="run", last_run="")
    futures = [
        catalog.commit(
            lambda c, n=n: changes.store(c, digests_of(n), b"bytes", lambda _: True).outcome
        )
        for n in range(20)
    ]
    catalog.close()
    assert [future.result(0) for future in futures] == ["created"] * 20
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
    with open_catalog(path, "second", "run") as catalog:
        assert catalog.totals() == (20, 200)
