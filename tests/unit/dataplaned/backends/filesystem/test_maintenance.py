"""What an operator may ask of a filesystem backend; `backends/maintenance.py` promises it."""

import os
import shutil

import pytest
import structlog.testing

from dataplane_protocol import ConflictError, ObjectCorruptError, ObjectNotFoundError
from dataplaned.backends.base import BackendError
from dataplaned.backends.maintenance import Maintained
from dataplaned.backends.memory import MemoryBackend

LARGE = b"0123456789abcdef" * 20_000  # almost five blocks
SMALL = b"a small object"
BOTH = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])


async def rot(place, backend, content):
    """Change the first byte of an object as it is stored, and have it found."""
    if content is SMALL:
        await place.rot_small(backend, content)
    else:
        place.rot(backend, content)
    assert (await backend.verify(place.name_of(content))).mismatch is not None


async def lose(place, backend, content):
    """Take the bytes of an object away, and have that found."""
    if content is SMALL:
        await place.lose_small(backend, content)
    else:
        place.damage(lambda file: file.unlink())
    assert (await backend.verify(place.name_of(content))).mismatch is not None


async def make_right(place, backend, content):
    """Give a rotten copy its right bytes back, as a disk that was cured would."""
    if content is SMALL:
        row = place.row(backend, content)
        await place.execute(
            backend, "UPDATE contents SET bytes = ? WHERE id = ?", content, row.content
        )
    else:
        place.damage(lambda file: file.write_bytes(content))


def test_a_disk_is_looked_after_and_memory_is_not(place):
    assert isinstance(place.backend(), Maintained)
    assert not isinstance(MemoryBackend("m"), Maintained)


# Listing.


@pytest.mark.trio
async def test_nothing_is_in_the_quarantine_of_a_good_store(place):
    async with place.opened() as backend:
        await place.ingest(backend, SMALL)
        assert list(await backend.list_quarantined(0, 10)) == []


@pytest.mark.trio
@BOTH
async def test_a_bad_copy_is_listed_with_what_was_wrong_and_when(place, clock, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        clock.pass_s(5)
        await rot(place, backend, content)
        (copy,) = await backend.list_quarantined(0, 10)
        assert copy.content_address == place.digests_of(content).address
        assert copy.size_bytes == len(content)
        assert copy.reason.startswith("content differs, first between bytes 0 and ")
        assert int(copy.found_at.timestamp() * 1000) == clock.now_ms
        assert copy.is_only_copy


@pytest.mark.trio
@BOTH
async def test_a_bad_copy_stays_listed_after_its_object_was_healed_and_over_restarts(
    place, content
):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        await rot(place, backend, content)
        await place.ingest(backend, content)
        (copy,) = await backend.list_quarantined(0, 10)
        assert not copy.is_only_copy
    async with place.opened() as backend:
        await backend.sweep()
        assert list(await backend.list_quarantined(0, 10)) == [copy]
        await rot_again(place, backend, content)
        first, second = await backend.list_quarantined(0, 10)
        assert (first.is_only_copy, second.is_only_copy) == (False, True)


async def rot_again(place, backend, content):
    """Have the copy that an object has now found bad."""
    await backend._store.mark_rotten(place.row(backend, content), "bad again")


@pytest.mark.trio
async def test_bad_copies_are_listed_in_pages_in_the_order_of_their_numbers(place):
    contents = [b"object %d" % number for number in range(5)]
    async with place.opened() as backend:
        for content in contents:
            await place.ingest(backend, content)
            await rot_again(place, backend, content)
        every = list(await backend.list_quarantined(0, 10))
        numbers = [copy.number for copy in every]
        assert numbers == sorted(set(numbers))
        assert [copy.content_address for copy in every] == [
            place.digests_of(content).address for content in contents
        ]
        assert list(await backend.list_quarantined(0, 2)) == every[:2]
        assert list(await backend.list_quarantined(numbers[1], 2)) == every[2:4]
        assert list(await backend.list_quarantined(numbers[4], 2)) == []


# Restoring.


@pytest.mark.trio
@BOTH
async def test_a_copy_that_is_right_after_all_is_restored(place, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        await rot(place, backend, content)
        await make_right(place, backend, content)
        (copy,) = await backend.list_quarantined(0, 10)
        assert (await backend.restore(copy.number)).mismatch is None
        assert list(await backend.list_quarantined(0, 10)) == []
        assert await place.state(backend, content) == "ok"
        assert await place.read(backend, content) == content
        with pytest.raises(ObjectNotFoundError, match=f"no copy {copy.number} in quarantine"):
            await backend.restore(copy.number)


@pytest.mark.trio
@BOTH
async def test_a_copy_that_is_still_bad_stays_in_quarantine(place, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        await rot(place, backend, content)
        before = list(await backend.list_quarantined(0, 10))
        verification = await backend.restore(before[0].number)
        assert verification.mismatch is not None
        assert list(await backend.list_quarantined(0, 10)) == before
        with pytest.raises(ObjectCorruptError):
            await place.read(backend, content)


@pytest.mark.trio
async def test_a_file_that_was_missing_and_is_back_is_restored(place):
    async with place.opened() as backend:
        await place.ingest(backend, LARGE)
        (file,) = place.object_files()
        aside = place.path.with_name("aside")
        shutil.move(file, aside)
        assert (await backend.verify(place.name_of(LARGE))).mismatch == "its bytes are gone"
        shutil.move(aside, file)
        (copy,) = await backend.list_quarantined(0, 10)
        assert copy.is_only_copy
        assert (await backend.restore(copy.number)).mismatch is None
        assert list(await backend.list_quarantined(0, 10)) == []
        assert await place.read(backend, LARGE) == LARGE


@pytest.mark.trio
@BOTH
async def test_a_copy_whose_object_was_healed_cannot_be_restored(place, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        await rot(place, backend, content)
        (copy,) = await backend.list_quarantined(0, 10)
        await place.ingest(backend, content)
        with pytest.raises(ConflictError, match="has another copy by now"):
            await backend.restore(copy.number)
        await rot_again(place, backend, content)
        with pytest.raises(ConflictError, match="has another copy by now"):
            await backend.restore(copy.number)
        assert len(await backend.list_quarantined(0, 10)) == 2


@pytest.mark.trio
@pytest.mark.parametrize("number", [0, 1, 2, 99])
async def test_a_number_that_no_copy_has_is_not_found(place, number):
    async with place.opened() as backend:
        for content in (b"first", b"second", b"third"):
            await place.ingest(backend, content)
            await rot_again(place, backend, content)
        first, second, _ = await backend.list_quarantined(0, 10)
        await backend.purge(first.number)
        await backend.purge(second.number)
        for call in (backend.restore, backend.purge):
            with pytest.raises(ObjectNotFoundError, match=f"no copy {number} in quarantine"):
                await call(number)
        assert len(await backend.list_quarantined(0, 10)) == 1


# Purging.


@pytest.mark.trio
@BOTH
async def test_purging_the_only_copy_takes_the_object(place, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        await rot(place, backend, content)
        (copy,) = await backend.list_quarantined(0, 10)
        await backend.purge(copy.number)
        assert await backend.stat([place.name_of(content)]) == ()
        assert (await backend.health()).object_count == 0
        assert list(await backend.list_quarantined(0, 10)) == []
        assert place.object_files() == []
        assert (await place.ingest(backend, content)).outcome == "created"


@pytest.mark.trio
@BOTH
async def test_purging_an_old_copy_leaves_the_object_as_it_is(place, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        await rot(place, backend, content)
        await place.ingest(backend, content)
        (copy,) = await backend.list_quarantined(0, 10)
        await backend.purge(copy.number)
        assert await place.read(backend, content) == content
        assert (await backend.verify(place.name_of(content))).mismatch is None
        assert len(place.object_files()) == (content is LARGE)
        assert backend._store.catalog._read("SELECT count(*) FROM contents") == [
            (content is SMALL,)
        ]


@pytest.mark.trio
@BOTH
async def test_purging_what_is_missing_takes_the_object(place, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        await lose(place, backend, content)
        (copy,) = await backend.list_quarantined(0, 10)
        assert (copy.reason, copy.is_only_copy) == ("its bytes are gone", True)
        await backend.purge(copy.number)
        assert await backend.stat([place.name_of(content)]) == ()


@pytest.mark.trio
@BOTH
async def test_no_purge_takes_the_only_copy_of_a_good_object(place, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        row = place.row(backend, content)
        # A reader finds damage while a verify, begun before, finds none.
        await backend._store.mark_rotten(row, "somebody's memory failed")
        await backend._store.mark_good(row, row.stamp)
        for copy in await backend.list_quarantined(0, 10):
            await backend.purge(copy.number)
        assert await place.read(backend, content) == content


# Backing up.


@pytest.mark.trio
async def test_a_backup_is_beside_the_catalog_in_place_of_the_last_one(place):
    async with place.opened() as backend:
        for content in (SMALL, LARGE):
            await place.ingest(backend, content)
            path = await backend.back_up()
            assert path == str(place.path / "backup.sqlite3")
            assert place.staged_files() == []
        assert (await backend.health()).object_count == 2
    names = sorted(os.listdir(place.path))
    assert names == ["backup.sqlite3", "catalog.sqlite3", "lock", "objects", "reserve", "staging"]


@pytest.mark.trio
async def test_a_backup_in_place_of_the_catalog_is_refused_before_a_sweep(place):
    async with place.opened() as backend:
        await backend.back_up()
        await place.ingest(backend, LARGE)
    shutil.copy(place.path / "catalog.sqlite3", place.path.with_name("good"))
    shutil.copy(place.path / "backup.sqlite3", place.path / "catalog.sqlite3")
    with pytest.raises(BackendError, match=r"is a backup: .* fsck --repair"):
        await place.backend().open()
    assert len(place.object_files()) == 1
    shutil.copy(place.path.with_name("good"), place.path / "catalog.sqlite3")
    async with place.opened() as backend:
        assert await place.read(backend, LARGE) == LARGE


@pytest.mark.trio
async def test_a_backup_that_fails_leaves_the_last_one_and_nothing_else(place):
    async with place.opened() as backend:
        await backend.back_up()
        before = (place.path / "backup.sqlite3").read_bytes()
        await place.ingest(backend, SMALL)

        def fail(name):
            raise RuntimeError("the disk is gone")

        backend._store.root.adopt_backup = fail
        with pytest.raises(RuntimeError):
            await backend.back_up()
        assert place.staged_files() == []
    assert (place.path / "backup.sqlite3").read_bytes() == before


# The log.


@pytest.mark.trio
async def test_a_copy_that_is_found_bad_is_logged_once(place):
    async with place.opened() as backend:
        await place.ingest(backend, SMALL)
        await place.rot_small(backend, SMALL)
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await backend.verify(place.name_of(SMALL))
    (said,) = [line for line in logs if line["event"] == "rotten"]
    assert said["object"] == str(place.digests_of(SMALL).address)
