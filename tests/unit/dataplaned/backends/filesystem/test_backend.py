import os
from contextlib import contextmanager

import pytest
import trio

from dataplane_protocol import (
    ConflictError,
    ObjectCorruptError,
    ObjectNotFoundError,
    RangeNotSatisfiableError,
    UnavailableError,
)
from dataplaned.backends.base import BackendError

CONTENT = b"0123456789abcdef" * 20_000  # almost five blocks
SMALL = b"a small object"


def flip_first_byte(file):
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])


def grow(file):
    file.write_bytes(file.read_bytes() + b"more")


def unlink(file):
    file.unlink()


# Reading while things change.


@pytest.mark.trio
async def test_an_object_stays_readable_when_it_is_deleted_meanwhile(place):
    async with place.opened() as backend:
        await place.ingest(backend, CONTENT)
        async with await backend.open_object(place.name_of(CONTENT)) as stored:
            first = await stored.read(0, 2)
            assert await backend.delete(place.name_of(CONTENT), None)
            assert first + await stored.read(2, 4) == CONTENT
        with pytest.raises(ObjectNotFoundError):
            await place.read(backend, CONTENT)
        assert not await backend.delete(place.name_of(CONTENT), None)


@pytest.mark.trio
async def test_damage_of_an_old_copy_is_not_held_against_the_healed_one(place):
    async with place.opened() as backend:
        await place.ingest(backend, CONTENT)
        place.damage(flip_first_byte)
        async with await backend.open_object(place.name_of(CONTENT)) as old:
            with pytest.raises(ObjectCorruptError):
                await place.read(backend, CONTENT)
            await place.ingest(backend, CONTENT)
            with pytest.raises(ObjectCorruptError):
                await old.read(0, 1)
            assert await place.state(backend, CONTENT) == "ok"
            assert await place.read(backend, CONTENT) == CONTENT


@pytest.mark.trio
async def test_a_file_that_is_gone_is_damage_and_a_second_look_says_so_too(place):
    async with place.opened() as backend:
        await place.ingest(backend, CONTENT)
        place.damage(unlink)
        with pytest.raises(ObjectCorruptError, match="its bytes are gone"):
            await place.read(backend, CONTENT)
        assert await place.state(backend, CONTENT) == "quarantined"


@contextmanager
def before_the_next_opening(backend, change):
    """Do something between the look at a row and the opening of its file."""
    open_file = backend._store.root.open_file

    def change_and_open(name):
        backend._store.root.open_file = open_file
        change()
        return open_file(name)

    backend._store.root.open_file = change_and_open
    yield


@pytest.mark.trio
async def test_an_object_deleted_between_its_row_and_its_file_is_not_found(place):
    async with place.opened() as backend:
        delete = lambda: trio.from_thread.run(backend.delete, place.name_of(CONTENT), None)  # noqa: E731
        await place.ingest(backend, CONTENT)
        with before_the_next_opening(backend, delete), pytest.raises(ObjectNotFoundError):
            await place.read(backend, CONTENT)
        await place.ingest(backend, CONTENT)
        with before_the_next_opening(backend, delete), pytest.raises(ObjectNotFoundError):
            await backend.verify(place.name_of(CONTENT))


@pytest.mark.trio
@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["small", "large"])
async def test_an_object_replaced_between_its_row_and_its_bytes_is_read_from_the_new_copy(
    place, content
):
    async with place.opened() as backend:

        async def replace_it():
            await backend.delete(place.name_of(content), None)
            await place.ingest(backend, content)

        def replace():
            trio.from_thread.run(replace_it)

        await place.ingest(backend, content)
        before = before_the_next_opening if content is CONTENT else before_the_next_content
        with before(backend, replace):
            assert await place.read(backend, content) == content
        with before(backend, replace):
            assert (await backend.verify(place.name_of(content))).mismatch is None
        assert await place.state(backend, content) == "ok"


@pytest.mark.trio
async def test_a_small_object_deleted_between_its_row_and_its_bytes_is_not_found(place):
    async with place.opened() as backend:
        delete = lambda: trio.from_thread.run(backend.delete, place.name_of(SMALL), None)  # noqa: E731
        await place.ingest(backend, SMALL)
        with before_the_next_content(backend, delete), pytest.raises(ObjectNotFoundError):
            await place.read(backend, SMALL)


@contextmanager
def before_the_next_content(backend, change):
    """Do something between the look at a row and that at its bytes in the catalog."""
    catalog = backend._store.catalog
    content = catalog.content

    def change_and_look(row, *, from_disk=False):
        catalog.content = content
        change()
        return content(row, from_disk=from_disk)

    catalog.content = change_and_look
    yield


@pytest.mark.trio
async def test_a_refused_opening_leaves_no_descriptor_behind(place):
    async with place.opened() as backend:
        await place.ingest(backend, CONTENT)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(RangeNotSatisfiableError):
            await backend.open_object(place.name_of(CONTENT), (len(CONTENT), len(CONTENT)))
        await backend._store.mark_rotten(place.row(backend, CONTENT), "bad")
        with pytest.raises(ObjectCorruptError):
            await backend.open_object(place.name_of(CONTENT))
        assert len(os.listdir("/proc/self/fd")) == before


async def descriptor_of(place, backend, content):
    async with await backend.open_object(place.name_of(content)) as stored:
        fd = stored.take_descriptor()
    if fd is not None:
        os.close(fd)
    return fd


@pytest.mark.trio
async def test_a_descriptor_is_of_a_file_that_was_seen_to_be_right_lately(place):
    async with place.opened() as backend:
        await place.ingest(backend, CONTENT)
        assert await descriptor_of(place, backend, CONTENT) is not None
        await place.execute(backend, "UPDATE objects SET verified_at_ms = 0")
        assert await descriptor_of(place, backend, CONTENT) is None
        await backend.verify(place.name_of(CONTENT))
        assert await descriptor_of(place, backend, CONTENT) is not None
        place.damage(grow)
        assert await descriptor_of(place, backend, CONTENT) is None


@pytest.mark.trio
async def test_a_small_object_has_no_descriptor(place):
    async with place.opened() as backend:
        await place.ingest(backend, SMALL)
        assert await descriptor_of(place, backend, SMALL) is None


@pytest.mark.trio
async def test_no_descriptor_is_given_of_what_was_verified_in_the_future(place):
    async with place.opened() as backend:
        await place.ingest(backend, CONTENT)
        await place.execute(backend, "UPDATE objects SET verified_at_ms = verified_at_ms + 3600000")
        assert await descriptor_of(place, backend, CONTENT) is None


@pytest.mark.trio
async def test_a_small_object_stays_readable_when_it_is_deleted_meanwhile(place):
    async with place.opened() as backend:
        await place.ingest(backend, SMALL)
        async with await backend.open_object(place.name_of(SMALL)) as stored:
            assert await backend.delete(place.name_of(SMALL), None)
            assert await stored.read(0, 1) == SMALL
        with pytest.raises(ObjectNotFoundError):
            await place.read(backend, SMALL)


@pytest.mark.trio
async def test_small_bytes_that_are_wrong_or_gone_are_never_given_out_and_mark_the_object(place):
    wrong, gone = b"wrong", b"gone"
    async with place.opened() as backend:
        for content in (wrong, gone):
            await place.ingest(backend, content)
        await place.rot_small(backend, wrong)
        await place.lose_small(backend, gone)
        with pytest.raises(ObjectCorruptError, match="damaged"):
            await place.read(backend, wrong)
        with pytest.raises(ObjectCorruptError, match="its bytes are gone"):
            await place.read(backend, gone)
        for content in (wrong, gone):
            assert await place.state(backend, content) == "quarantined"
            with pytest.raises(ObjectCorruptError, match="quarantined"):
                await place.read(backend, content)
            assert (await place.ingest(backend, content)).outcome == "healed"
            assert await place.read(backend, content) == content


# Deleting.


@pytest.mark.trio
async def test_a_delete_takes_the_file_and_a_conflict_leaves_it(place):
    async with place.opened() as backend:
        old = await place.ingest(backend, CONTENT)
        new = await place.ingest(backend, CONTENT)
        with pytest.raises(ConflictError):
            await backend.delete(place.name_of(CONTENT), old.generation)
        assert len(place.object_files()) == 1
        assert await backend.delete(place.name_of(CONTENT, "sha256"), new.generation)
        assert place.object_files() == []
    async with place.opened() as backend:
        assert await backend.stat([place.name_of(CONTENT)]) == ()


@pytest.mark.trio
async def test_a_delete_takes_the_bytes_of_a_small_object_and_of_its_bad_copies(place):
    async with place.opened() as backend:
        await place.ingest(backend, SMALL)
        await place.rot_small(backend, SMALL)
        await backend.verify(place.name_of(SMALL))
        await place.ingest(backend, SMALL)
        count = "SELECT (SELECT count(*) FROM contents), (SELECT count(*) FROM quarantine)"
        assert backend._store.catalog._read(count) == [(2, 1)]
        assert await backend.delete(place.name_of(SMALL), None)
        assert backend._store.catalog._read(count) == [(0, 0)]


# Health.


@pytest.mark.trio
async def test_health_counts_and_measures(place):
    async with place.opened() as backend:
        await place.ingest(backend, CONTENT)
        health = await backend.health()
        assert (health.state, health.writable, health.object_count) == ("ok", True, 1)
        assert health.message is None
        assert health.free_bytes is not None
        assert health.total_bytes is not None
        assert 0 < health.free_bytes < health.total_bytes
    assert place.staged_files() == []


@pytest.mark.trio
async def test_a_root_that_was_replaced_is_down_and_named_without_its_path(place):
    async with place.opened() as backend:
        place.path.rename(place.path.with_name("moved"))
        place.path.mkdir()
        health = await backend.health()
        assert (health.state, health.writable) == ("down", False)
        assert health.message == "backend b failed: directory was replaced"
    assert list(place.path.iterdir()) == []


@pytest.mark.trio
async def test_a_disk_that_has_less_than_stays_free_is_degraded_and_takes_nothing(place):
    async with place.opened(min_free_bytes=2**53) as backend:
        health = await backend.health()
        assert (health.state, health.writable) == ("degraded", False)
        assert health.message is not None
        assert health.message.endswith(f"bytes are free, {2**53} stay free")


@pytest.mark.trio
async def test_a_store_that_takes_no_writes_says_why_and_goes_on_reading(place):
    async with place.opened() as backend:
        await place.ingest(backend, CONTENT)
        backend._store.stop_writing("the test asked for it")
        reason = "backend b is read-only since the test asked for it"
        for call in (
            lambda: place.ingest(backend, SMALL),
            lambda: backend.delete(place.name_of(CONTENT), None),
            lambda: backend.purge(1),
            backend.back_up,
            backend.start_scrub,
            backend.pause_scrub,
        ):
            with pytest.raises(UnavailableError, match=reason) as caught:
                await call()
            assert not caught.value.retry
        assert await place.read(backend, CONTENT) == CONTENT
        health = await backend.health()
        assert (health.state, health.writable) == ("degraded", False)
        assert health.message == "read-only since the test asked for it"


# Opening.


@pytest.mark.trio
async def test_files_without_a_row_are_swept_by_the_next_run_only(place):
    async with place.opened() as backend:
        await place.ingest(backend, CONTENT)
        await place.ingest(backend, SMALL)
        kept = place.object_files()
        root = backend._store.root
        root.stage().publish(place.digests_of(b"").blake3)
        root.stage().write([b"half"])
        await backend.sweep()
        assert len(place.object_files()) == 2
        assert len(place.staged_files()) == 1
    async with place.opened() as backend:
        await backend.sweep()
        assert place.object_files() == kept
        assert place.staged_files() == []
        assert await place.read(backend, CONTENT) == CONTENT
        assert await place.read(backend, SMALL) == SMALL


@pytest.mark.trio
async def test_a_copy_in_quarantine_is_not_swept(place):
    async with place.opened() as backend:
        await place.ingest(backend, CONTENT)
        place.rot(backend, CONTENT)
        await backend.verify(place.name_of(CONTENT))
        await place.ingest(backend, CONTENT)
        kept = sorted(place.object_files())
        assert len(kept) == 2
    async with place.opened() as backend:
        await backend.sweep()
        assert sorted(place.object_files()) == kept


@pytest.mark.trio
async def test_a_store_in_use_is_refused(place):
    async with place.opened():
        with pytest.raises(BackendError, match="in use by process"):
            await place.backend().open()


@pytest.mark.trio
async def test_a_catalog_that_cannot_be_read_is_named_and_the_store_is_let_go(place):
    async with place.opened() as backend:
        await place.ingest(backend, CONTENT)
    catalog = place.path / "catalog.sqlite3"
    good = catalog.read_bytes()
    catalog.write_bytes(b"certainly not SQLite" * 1000)
    with pytest.raises(BackendError, match=r"catalog .*/catalog\.sqlite3 cannot be opened"):
        await place.backend().open()
    catalog.write_bytes(good)
    async with place.opened() as backend:
        assert await place.read(backend, CONTENT) == CONTENT


@pytest.mark.trio
async def test_a_place_that_cannot_be_a_directory_is_named(place):
    place.path.write_text("")
    with pytest.raises(BackendError, match=f"store {place.path} cannot be opened"):
        await place.backend().open()
