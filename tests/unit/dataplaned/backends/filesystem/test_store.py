import contextlib
import errno
import os
import shutil
import sqlite3
import threading

import pytest
import trio
import trio.testing

from dataplane_protocol import NoSpaceError, ObjectNotFoundError, UnavailableError
from dataplaned.backends.base import BackendError
from dataplaned.backends.filesystem import changes, store as store_module
from dataplaned.backends.filesystem.store import Store

LARGE = b"0123456789abcdef" * 20_000  # almost five blocks
SMALL = b"a small object"
BOTH = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])


def catalog_error(name):
    error = sqlite3.OperationalError("what it says")
    error.sqlite_errorname = name
    return error


def failing(error):
    def change(_):
        raise error

    return change


def put(store, place, content):
    """Store an object without an ingest; give its row."""
    digests = place.digests_of(content)
    fresh = content
    if content is LARGE:
        staged = store.root.stage()
        staged.write([content])
        name = staged.publish(digests.blake3)
        fresh = changes.NewFile(name=name, stamp=store.root.stamp(name))
    change = lambda c: changes.store(c, digests, fresh, store.is_trusted)  # noqa: E731
    return store.catalog.commit(change).result(10).row


# Opening.


@pytest.mark.trio
async def test_the_lock_and_the_catalog_name_the_same_run(place):
    async with place.opened_store() as store:
        run = store.root.run
        assert store.catalog._read("SELECT run, previous_run FROM store") == [(run, "")]
        assert (place.path / "lock").read_text() == f"{os.getpid():10} {run}\n"
    async with place.opened_store() as store:
        last = store.root.last_run
        assert last != run
        assert store.catalog._read("SELECT run, previous_run FROM store") == [
            (store.root.run, last)
        ]


@pytest.mark.trio
async def test_a_catalog_that_was_copied_while_it_was_open_is_older_once_it_is_closed(place):
    async with place.opened_store() as store:
        put(store, place, LARGE)
        store.catalog.fold()
        copy = (place.path / "catalog.sqlite3").read_bytes()
    (place.path / "catalog.sqlite3").write_bytes(copy)
    with pytest.raises(BackendError, match="older than its store"):
        Store("b", place.config()).open()


@pytest.mark.trio
async def test_a_catalog_without_tables_is_no_new_one_where_there_was_one(place):
    async with place.opened_store() as store:
        put(store, place, LARGE)
    with contextlib.closing(sqlite3.connect(place.path / "empty")) as empty:
        empty.execute("PRAGMA user_version = 7")
        empty.commit()
    (place.path / "empty").replace(place.path / "catalog.sqlite3")
    with pytest.raises(BackendError, match="is empty"):
        Store("b", place.config()).open()
    assert len(place.object_files()) == 1


@pytest.mark.trio
async def test_the_catalog_is_its_owners_alone(place):
    async with place.opened_store():
        for name in ("catalog.sqlite3", "catalog.sqlite3-wal", "catalog.sqlite3-shm"):
            assert (place.path / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.trio
async def test_a_store_whose_opening_died_half_way_opens_again(place, monkeypatch):
    async with place.opened_store() as store:
        put(store, place, LARGE)

    def die(root):
        raise OSError(errno.EIO, "Input/output error")

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(store_module.Root, "note_run", die)
            with pytest.raises(OSError, match="Input/output error"):
                Store("b", place.config()).open()
    async with place.opened_store() as store:
        assert store.find(place.name_of(LARGE))


@pytest.mark.trio
async def test_an_older_catalog_is_refused_and_no_file_is_swept(place):
    async with place.opened_store():
        pass
    shutil.copy(place.path / "catalog.sqlite3", place.path.with_name("old"))
    async with place.opened_store() as store:
        put(store, place, LARGE)
    shutil.copy(place.path.with_name("old"), place.path / "catalog.sqlite3")
    for _ in range(2):
        with pytest.raises(BackendError, match="is older than its store"):
            Store("b", place.config()).open()
    assert len(place.object_files()) == 1


@pytest.mark.trio
async def test_a_refused_opening_lets_go_of_everything(place):
    async with place.opened_store():
        pass
    good = (place.path / "catalog.sqlite3").read_bytes()
    (place.path / "catalog.sqlite3").write_bytes(b"certainly not SQLite" * 1000)
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    with pytest.raises(sqlite3.DatabaseError):
        Store("b", place.config()).open()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
    (place.path / "catalog.sqlite3").write_bytes(good)
    async with place.opened_store():
        pass


@pytest.mark.trio
async def test_a_full_disk_is_opened_with_the_room_that_was_set_aside(place, monkeypatch):
    async with place.opened_store():
        pass
    reserve = place.path / "reserve"
    seen = []

    class Catalog(store_module.Catalog):
        def __init__(self, *arguments, **keywords):
            seen.append(reserve.exists())
            if reserve.exists():
                raise catalog_error("SQLITE_FULL")
            super().__init__(*arguments, **keywords)

    monkeypatch.setattr(store_module, "Catalog", Catalog)
    async with place.opened_store() as store:
        assert put(store, place, SMALL)
    assert seen == [True, False]
    assert reserve.exists()


# Errors.


@pytest.mark.trio
async def test_foreign_errors_become_those_of_the_contract(place):
    async with place.opened_store() as store:
        for error, kind in (
            (OSError(errno.ENOSPC, "no space"), NoSpaceError),
            (OSError(errno.EIO, "broken"), UnavailableError),
            (catalog_error("SQLITE_FULL"), NoSpaceError),
            (catalog_error("SQLITE_BUSY"), UnavailableError),
        ):
            with pytest.raises(kind) as caught:
                await store.run(lambda error=error: failing(error)(None))
            assert caught.value.__cause__ is error
        assert store.read_only_reason is None


@pytest.mark.trio
async def test_the_error_that_ends_writing_is_not_to_be_tried_again(place):
    async with place.opened_store() as store:
        with pytest.raises(UnavailableError, match="read-only since") as caught:
            with store.translated():
                await store.commit(failing(catalog_error("SQLITE_IOERR_FSYNC")))
        assert not caught.value.retry
        reason = "read-only since the catalog could not commit: SQLITE_IOERR_FSYNC"
        assert store.read_only_reason == reason
        with pytest.raises(UnavailableError, match=reason) as caught:
            store.require_writable()
        assert not caught.value.retry


@pytest.mark.trio
async def test_the_first_reason_to_stop_writing_stays(place):
    async with place.opened_store() as store:
        store.require_writable()
        store.stop_writing("the first")
        store.stop_writing("the second")
        store.doubt(OSError(errno.EIO, "third"), "the third")
        assert store.read_only_reason == "read-only since the first"


@pytest.mark.trio
@pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_BUSY", "SQLITE_CONSTRAINT_UNIQUE"])
async def test_an_error_that_leaves_no_doubt_ends_nothing(place, name):
    async with place.opened_store() as store:
        with pytest.raises(sqlite3.OperationalError):
            await store.commit(failing(catalog_error(name)))
        assert store.read_only_reason is None
        assert put(store, place, SMALL)


@pytest.mark.trio
@pytest.mark.parametrize("is_full", [True, False])
async def test_a_catalog_that_cannot_be_written_is_full_or_broken(place, is_full):
    async with place.opened_store() as store:
        store.root.is_out_of_room = lambda: is_full
        kind = NoSpaceError if is_full else UnavailableError
        with pytest.raises(kind), store.translated():
            await store.commit(failing(catalog_error("SQLITE_IOERR_WRITE")))
        assert (store.read_only_reason is None) is is_full


@pytest.mark.trio
async def test_what_a_change_raises_comes_as_it_is(place):
    async with place.opened_store() as store:
        with pytest.raises(ZeroDivisionError):
            await store.commit(failing(ZeroDivisionError()))
        assert store.read_only_reason is None


@pytest.mark.trio
async def test_a_commit_that_has_begun_is_not_cancelled(place):
    token = trio.lowlevel.current_trio_token()
    async with place.opened_store() as store:

        def cancel_and_count(connection):
            token.run_sync_soon(scope.cancel)
            return connection.execute("UPDATE store SET objects = objects").rowcount

        with trio.CancelScope() as scope:
            assert await store.commit(cancel_and_count) == 1
        assert scope.cancel_called
        assert not scope.cancelled_caught


# Copies.


@pytest.mark.trio
@BOTH
async def test_a_copy_is_trusted_while_it_is_recent_unchanged_and_not_rotten(place, clock, content):
    async with place.opened_store(max_verify_age_s=60) as store:
        row = put(store, place, content)
        assert store.is_trusted(row)
        clock.pass_s(60)
        assert not store.is_recent(row)
        assert not store.is_trusted(row)
        await store.mark_good(row, row.stamp)
        assert store.is_trusted(store.find(row.digest))
        await store.mark_rotten(row, "bad")
        assert not store.is_trusted(store.find(row.digest))
        assert store.is_rotten(store.find(row.digest))


@pytest.mark.trio
async def test_a_file_that_changed_or_is_gone_is_not_trusted(place):
    async with place.opened_store() as store:
        row = put(store, place, LARGE)
        place.damage(lambda file: os.utime(file, ns=(1, 1)))
        assert not store.is_trusted(row)
        await store.mark_good(row, store.root.stamp(row.file))
        assert store.is_trusted(store.find(row.digest))
        place.damage(lambda file: file.unlink())
        assert not store.is_trusted(store.find(row.digest))


@pytest.mark.trio
@BOTH
async def test_a_copy_that_the_catalog_cannot_note_to_be_bad_is_bad_all_the_same(place, content):
    async with place.opened_store() as store:
        row = put(store, place, content)
        commit = store.catalog.commit
        store.catalog.commit = lambda _: commit(failing(catalog_error("SQLITE_FULL")))
        await store.mark_rotten(row, "bad")
        assert not store.find(row.digest).is_rotten
        assert store.is_rotten(store.find(row.digest))
        assert not store.is_trusted(row)
        # A copy that takes its place is another, and so is one that was seen to be right since.
        store.catalog.commit = commit
        healed = put(store, place, content)
        assert healed.copy != row.copy
        assert store.is_trusted(healed)
        await store.mark_good(row, row.stamp)
        assert not store.is_rotten(row)


@pytest.mark.trio
async def test_what_is_not_there_is_not_found_by_either_name(place):
    async with place.opened_store() as store:
        for algorithm in ("blake3", "sha256"):
            name = place.name_of(SMALL, algorithm)
            with pytest.raises(ObjectNotFoundError, match=f"no object {name}"):
                store.find(name)


@pytest.mark.trio
@BOTH
async def test_what_bytes_must_be_is_what_was_stored(place, content):
    async with place.opened_store() as store:
        assert store.expected(put(store, place, content)) == place.digests_of(content)


# Idleness.


@pytest.mark.trio
async def test_nobody_calling_for_a_moment_is_idle(place, monkeypatch, mock_clock):
    class Time:
        monotonic = staticmethod(trio.current_time)

    monkeypatch.setattr(store_module, "time", Time)
    store = Store("b", place.config())
    mock_clock.jump(100)
    waited = []

    async def wait():
        await store.wait_idle()
        waited.append(trio.current_time())

    await wait()
    assert waited == [100.0]
    store.note_call()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(0.125)
        store.note_call()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(0.125)
        await trio.testing.wait_all_tasks_blocked()
        assert len(waited) == 1
        mock_clock.jump(0.125)
    assert waited[1] == 100.375
