import os
import sqlite3

import pytest
import trio

from dataplane_protocol import ObjectCorruptError, ObjectNotFoundError
from dataplaned.backends.filesystem.verifying import open_copy, verify_copy
from dataplaned.digests import BLOCK_SIZE

LARGE = b"0123456789abcdef" * 20_000  # almost five blocks
SMALL = b"a small object"
BOTH = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])


def flip_first_byte(file):
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])


def grow(file):
    file.write_bytes(file.read_bytes() + b"more")


def truncate(file):
    os.truncate(file, 100)


def unlink(file):
    file.unlink()


async def rot(place, backend, content):
    """Change the first byte of an object as it is stored."""
    if content is SMALL:
        await place.rot_small(backend, content)
    else:
        place.rot(backend, content)


async def lose(place, backend, content):
    """Take the bytes of an object away."""
    if content is SMALL:
        await place.lose_small(backend, content)
    else:
        place.damage(unlink)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("change", "mismatch"),
    [
        (unlink, "its bytes are gone"),
        (truncate, f"size is 100 bytes, must be {len(LARGE)}"),
        (grow, f"size is {len(LARGE) + 4} bytes, must be {len(LARGE)}"),
        (flip_first_byte, f"content differs, first between bytes 0 and {BLOCK_SIZE - 1}"),
    ],
)
async def test_a_verify_says_what_is_wrong_and_marks_the_object(place, change, mismatch):
    async with place.opened() as backend:
        await place.ingest(backend, LARGE)
        place.damage(change)
        verification = await backend.verify(place.name_of(LARGE, "sha256"))
        assert verification.mismatch == mismatch
        assert verification.actual != place.digests_of(LARGE)
        assert await place.state(backend, LARGE) == "quarantined"


@pytest.mark.trio
async def test_a_verify_of_a_small_object_says_what_is_wrong_and_marks_it(place):
    async with place.opened() as backend:
        await place.ingest(backend, SMALL)
        await place.rot_small(backend, SMALL)
        verification = await backend.verify(place.name_of(SMALL, "sha256"))
        last = len(SMALL) - 1
        assert verification.mismatch == f"content differs, first between bytes 0 and {last}"
        assert verification.actual.size == len(SMALL)
        assert await place.state(backend, SMALL) == "quarantined"
        await place.lose_small(backend, SMALL)
        verification = await backend.verify(place.name_of(SMALL))
        assert verification.mismatch == "its bytes are gone"
        assert verification.actual == place.digests_of(b"")


@pytest.mark.trio
@BOTH
async def test_a_verify_of_a_good_copy_renews_its_time_and_its_stamp(place, clock, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        before = place.row(backend, content)
        if content is LARGE:
            place.damage(lambda file: os.utime(file, ns=(1, 1)))
        clock.pass_s(5)
        verification = await backend.verify(place.name_of(content))
        assert verification.mismatch is None
        assert verification.actual == place.digests_of(content)
        after = place.row(backend, content)
        assert after.verified_at_ms == clock.now_ms
        assert (after.copy, after.generation) == (before.copy, before.generation)
        assert (after.stamp == before.stamp) is (content is SMALL)


@pytest.mark.trio
@BOTH
async def test_a_bad_copy_keeps_the_time_when_it_was_last_right(place, clock, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        await rot(place, backend, content)
        stored_at_ms = clock.now_ms
        clock.pass_s(5)
        await backend.verify(place.name_of(content))
        assert place.row(backend, content).verified_at_ms == stored_at_ms
        (entry,) = backend._store.catalog.quarantined(0, 10)
        assert entry.found_at_ms == clock.now_ms


@pytest.mark.trio
@BOTH
async def test_what_is_not_there_is_not_found(place, content):
    async with place.opened() as backend:
        with pytest.raises(ObjectNotFoundError):
            await backend.verify(place.name_of(content))


@pytest.mark.trio
@BOTH
async def test_a_copy_that_is_right_again_is_served_again_after_a_verify(place, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        await rot(place, backend, content)
        assert (await backend.verify(place.name_of(content))).mismatch is not None
        if content is SMALL:
            await place.execute(backend, "UPDATE contents SET bytes = ?", SMALL)
        else:
            place.damage(flip_first_byte)
        assert (await backend.verify(place.name_of(content))).mismatch is None
        assert await place.read(backend, content) == content
        assert backend._store.catalog.quarantined_count() == 0


@pytest.mark.trio
@BOTH
async def test_a_copy_that_is_gone_is_kept_nowhere_and_an_ingest_heals_it(place, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        await lose(place, backend, content)
        assert (await backend.verify(place.name_of(content))).mismatch == "its bytes are gone"
        (entry,) = backend._store.catalog.quarantined(0, 10)
        assert (entry.file, entry.content) == (None, None)
        assert (await place.ingest(backend, content)).outcome == "healed"
        assert backend._store.catalog.quarantined_count() == 0
        assert (await backend.verify(place.name_of(content))).mismatch is None


@pytest.mark.trio
@BOTH
async def test_a_copy_marked_bad_while_a_verify_found_it_right_leaves_the_quarantine(
    place, content
):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        row = place.row(backend, content)
        copy = await backend._store.run(
            lambda: open_copy(backend._store, row.digest, from_disk=True)
        )
        await backend._store.mark_rotten(row, "somebody's memory failed")
        assert (await verify_copy(backend._store, copy)).mismatch is None
        assert await place.state(backend, content) == "ok"
        assert backend._store.catalog.quarantined_count() == 0
        # The same damage again, a real one this time, is noted as the first was.
        await backend._store.mark_rotten(row, "bad")
        assert await place.state(backend, content) == "quarantined"
        assert backend._store.catalog.quarantined_count() == 1


@pytest.mark.trio
@BOTH
async def test_what_a_verify_finds_is_not_held_against_a_copy_that_came_meanwhile(place, content):
    async with place.opened(max_verify_age_s=0) as backend:
        await place.ingest(backend, content)
        await rot(place, backend, content)
        copy = await backend._store.run(
            lambda: open_copy(backend._store, place.name_of(content), from_disk=True)
        )
        await place.ingest(backend, content)
        assert (await verify_copy(backend._store, copy)).mismatch is not None
        assert await place.state(backend, content) == "ok"
        assert await place.read(backend, content) == content
        assert backend._store.catalog.quarantined_count() == 0


@pytest.mark.trio
async def test_a_file_that_changes_while_it_is_verified_is_not_believed(place):
    async with place.opened() as backend:
        await place.ingest(backend, LARGE)
        store = backend._store
        copy = await store.run(lambda: open_copy(store, place.name_of(LARGE)))

        async def touch(size):
            if size:
                place.damage(lambda file: os.utime(file, ns=(1, 1)))

        assert (await verify_copy(store, copy, touch)).mismatch is None
        assert not store.is_trusted(place.row(backend, LARGE))


@pytest.mark.trio
async def test_a_verify_waits_for_leave_to_read_every_byte(place):
    sizes = []

    async def pace(size):
        sizes.append(size)

    content = bytes(8 * 1024 * 1024 + 5)
    async with place.opened() as backend:
        await place.ingest(backend, content)
        copy = await backend._store.run(lambda: open_copy(backend._store, place.name_of(content)))
        await verify_copy(backend._store, copy, pace)
    assert sizes == [8 * 1024 * 1024, 5]


@pytest.mark.trio
async def test_a_verify_tells_what_it_found_when_the_catalog_cannot_note_it(place):
    async with place.opened() as backend:
        await place.ingest(backend, LARGE)
        await place.execute(backend, "PRAGMA query_only = ON")
        assert (await backend.verify(place.name_of(LARGE))).mismatch is None
        place.damage(flip_first_byte)
        assert (await backend.verify(place.name_of(LARGE))).mismatch is not None
        with pytest.raises(ObjectCorruptError):
            await place.read(backend, LARGE)


@pytest.mark.trio
async def test_a_cancelled_verify_closes_the_file(place):
    async with place.opened() as backend:
        await place.ingest(backend, LARGE)
        before = len(os.listdir("/proc/self/fd"))
        open_file = backend._store.root.open_file

        def cancel_and_open(name):
            trio.from_thread.run_sync(scope.cancel)
            return open_file(name)

        backend._store.root.open_file = cancel_and_open
        with trio.CancelScope() as scope:
            await backend.verify(place.name_of(LARGE))
        assert scope.cancelled_caught
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.trio
async def test_small_bytes_that_the_disk_cannot_read_are_told_as_damage(place):
    def cannot_read(row, *, from_disk=False):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_READ"
        raise error

    async with place.opened() as backend:
        await place.ingest(backend, SMALL)
        content = backend._store.catalog.content
        backend._store.catalog.content = cannot_read
        verification = await backend.verify(place.name_of(SMALL))
        assert verification.mismatch == "cannot be read: SQLITE_IOERR_READ"
        assert await place.state(backend, SMALL) == "quarantined"
        backend._store.catalog.content = content
        assert (await backend.verify(place.name_of(SMALL))).mismatch is None
        assert await place.read(backend, SMALL) == SMALL


@pytest.mark.trio
async def test_bytes_are_gone_only_when_a_second_look_says_so(place):
    async with place.opened() as backend:
        await place.ingest(backend, LARGE)
        place.damage(unlink)
        copy = await backend._store.run(lambda: open_copy(backend._store, place.name_of(LARGE)))
        assert (copy.fd, copy.content, copy.trouble) == (None, b"", "its bytes are gone")
