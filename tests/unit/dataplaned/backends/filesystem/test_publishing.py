import os

import pytest
import trio

from dataplane_protocol import NoSpaceError, ObjectCorruptError, UnavailableError
from dataplaned.backends.filesystem import changes
from dataplaned.config import FilesystemConfig

LARGE = b"0123456789abcdef" * 20_000  # almost five blocks
SMALL = b"a small object"
LARGE_HINT = 1_000_000
LIMIT = FilesystemConfig(root="/").small_object_size


def flip_first_byte(file):
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])


def grow(file):
    file.write_bytes(file.read_bytes() + b"more")


def truncate(file):
    os.truncate(file, 100)


def unlink(file):
    file.unlink()


@pytest.mark.trio
async def test_what_was_acknowledged_is_there_after_opening_again(place):
    async with place.opened() as backend:
        first = await place.ingest(backend, LARGE)
    async with place.opened() as backend:
        assert await place.read(backend, LARGE) == LARGE
        assert (await place.ingest(backend, LARGE)).outcome == "existed"
        assert (await place.ingest(backend, LARGE)).generation > first.generation
    assert len(place.object_files()) == 1
    assert place.staged_files() == []


@pytest.mark.trio
@pytest.mark.parametrize("change", [unlink, truncate, grow])
async def test_a_copy_of_the_wrong_size_is_healed_by_an_ingest(place, change):
    async with place.opened() as backend:
        await place.ingest(backend, LARGE)
        place.damage(change)
        assert (await place.ingest(backend, LARGE)).outcome == "healed"
        assert await place.read(backend, LARGE) == LARGE
        assert (await backend.verify(place.name_of(LARGE))).mismatch is None
    assert len(place.object_files()) == 1


@pytest.mark.trio
async def test_a_quarantined_copy_is_healed_by_an_ingest(place):
    async with place.opened() as backend:
        await place.ingest(backend, LARGE)
        place.damage(flip_first_byte)
        with pytest.raises(ObjectCorruptError, match="damaged"):
            await place.read(backend, LARGE)
        assert await place.state(backend, LARGE) == "quarantined"
        with pytest.raises(ObjectCorruptError, match="quarantined"):
            await place.read(backend, LARGE)
        assert (await place.ingest(backend, LARGE)).outcome == "healed"
        assert await place.state(backend, LARGE) == "ok"
        assert await place.read(backend, LARGE) == LARGE
        assert len(place.object_files()) == 2
        (bad,) = await backend.list_quarantined(0, 10)
        await backend.purge(bad.number)
        assert await place.read(backend, LARGE) == LARGE
    assert len(place.object_files()) == 1


@pytest.mark.trio
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_the_same_bytes_often_at_once_are_one_object_and_all_are_acknowledged(place, content):
    published = []

    async def publish(staging):
        published.append(await staging.publish(place.digests_of(content)))
        await staging.abort()

    async with place.opened() as backend:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                staging = await backend.stage(None)
                await staging.write([content])
                nursery.start_soon(publish, staging)
        assert sorted(each.outcome for each in published) == ["created"] + ["existed"] * 99
        assert len({each.generation for each in published}) == 100
        assert (await backend.health()).object_count == 1
        assert await place.read(backend, content) == content
        assert backend._store.catalog._read("SELECT count(*) FROM contents") == [
            (content is SMALL,)
        ]
    assert len(place.object_files()) == (content is LARGE)
    assert place.staged_files() == []


@pytest.mark.trio
async def test_an_ingest_that_loses_the_race_for_the_row_leaves_no_file(place):
    async with place.opened() as backend:
        root = backend._store.root
        move = root.adopt

        def lose_the_race(*names):
            root.adopt = move
            other = trio.from_thread.run(place.ingest, backend, LARGE)
            assert other.outcome == "created"
            move(*names)

        root.adopt = lose_the_race
        assert (await place.ingest(backend, LARGE)).outcome == "existed"
        assert await place.read(backend, LARGE) == LARGE
    assert len(place.object_files()) == 1


@pytest.mark.trio
async def test_a_copy_found_rotten_during_an_ingest_is_healed_by_it(place, monkeypatch):
    async with place.opened() as backend:
        await place.ingest(backend, LARGE)
        row = place.row(backend, LARGE)
        renew = changes.renew

        def find_damage_first(connection, blake3, is_trusted):
            monkeypatch.setattr(changes, "renew", renew)
            assert changes.mark_rotten(connection, row, "bad")
            return renew(connection, blake3, is_trusted)

        monkeypatch.setattr(changes, "renew", find_damage_first)
        assert (await place.ingest(backend, LARGE)).outcome == "healed"
        assert await place.read(backend, LARGE) == LARGE
        assert await place.state(backend, LARGE) == "ok"
    assert place.staged_files() == []


@pytest.mark.trio
@pytest.mark.parametrize(("content", "files"), [(SMALL, 0), (LARGE, 1)], ids=["small", "large"])
async def test_an_ingest_given_up_leaves_nothing(place, content, files):
    async with place.opened() as backend:
        staging = await backend.stage(None)
        await staging.write([content])
        assert len(place.staged_files()) == files
        await staging.abort()
        await staging.abort()
        assert place.staged_files() == []
        assert await backend.stat([place.name_of(content)]) == ()


@pytest.mark.trio
async def test_an_ingest_cancelled_before_its_publish_leaves_nothing(place):
    async with place.opened() as backend:
        with trio.CancelScope() as scope:
            staging = await backend.stage(None)
            try:
                await staging.write([LARGE])
                scope.cancel()
                await staging.publish(place.digests_of(LARGE))
            finally:
                await staging.abort()
        assert scope.cancelled_caught
        assert await backend.stat([place.name_of(LARGE)]) == ()
    assert place.staged_files() == place.object_files() == []


@pytest.mark.trio
async def test_a_publish_that_has_begun_is_not_cancelled(place):
    async with place.opened() as backend:
        move = backend._store.root.adopt

        def cancel_and_move(*names):
            trio.from_thread.run_sync(scope.cancel)
            move(*names)

        backend._store.root.adopt = cancel_and_move
        with trio.CancelScope() as scope:
            published = await place.ingest(backend, LARGE)
            assert published.outcome == "created"
        assert await place.read(backend, LARGE) == LARGE


@pytest.mark.trio
async def test_a_publish_of_a_small_object_that_has_begun_is_not_cancelled(place, monkeypatch):
    async with place.opened() as backend:
        store = changes.store

        def cancel_and_store(*arguments):
            backend_token.run_sync_soon(scope.cancel)
            return store(*arguments)

        backend_token = trio.lowlevel.current_trio_token()
        monkeypatch.setattr(changes, "store", cancel_and_store)
        with trio.CancelScope() as scope:
            published = await place.ingest(backend, SMALL)
            assert published.outcome == "created"
        assert scope.cancel_called
        assert await place.read(backend, SMALL) == SMALL


@pytest.mark.trio
@pytest.mark.parametrize("small_object_size", [0, 32 * 1024])
async def test_an_empty_object_is_small_whatever_the_threshold_and_heals_like_any_other(
    place, small_object_size
):
    async with place.opened(small_object_size=small_object_size) as backend:
        assert (await place.ingest(backend, b"")).outcome == "created"
        assert await place.read(backend, b"") == b""
        assert (await backend.verify(place.name_of(b""))).mismatch is None
        assert place.object_files() == []
        await place.lose_small(backend, b"")
        assert (await backend.verify(place.name_of(b""))).mismatch == "its bytes are gone"
        assert (await place.ingest(backend, b"")).outcome == "healed"
        assert (await backend.verify(place.name_of(b""))).mismatch is None


# In memory or in a file.


@pytest.mark.trio
@pytest.mark.parametrize(
    ("size", "files"), [(LIMIT - 1, 0), (LIMIT, 0), (LIMIT + 1, 1), (2 * LIMIT, 1)]
)
@pytest.mark.parametrize("is_hinted", [False, True])
async def test_an_object_above_the_threshold_has_a_file_and_another_has_none(
    place, size, files, is_hinted
):
    content = bytes(size)
    async with place.opened() as backend:
        await place.ingest(backend, content, size if is_hinted else None)
        assert len(place.object_files()) == files
        row = place.row(backend, content)
        assert (row.file is not None) is (row.content is None) is bool(files)
        assert await place.read(backend, content) == content


@pytest.mark.trio
async def test_a_store_without_small_objects_has_a_file_for_each(place):
    async with place.opened(small_object_size=0) as backend:
        await place.ingest(backend, SMALL)
        assert [file.read_bytes() for file in place.object_files()] == [SMALL]
        assert await place.read(backend, SMALL) == SMALL


@pytest.mark.trio
async def test_another_threshold_changes_nothing_of_what_is_stored(place):
    async with place.opened() as backend:
        await place.ingest(backend, SMALL)
    async with place.opened(small_object_size=0) as backend:
        assert (await place.ingest(backend, SMALL)).outcome == "existed"
        assert place.object_files() == place.staged_files() == []
        assert await place.read(backend, SMALL) == SMALL


@pytest.mark.trio
async def test_what_was_held_in_memory_spills_in_order_at_the_threshold(place):
    pieces = [bytes([number]) * (LIMIT // 4) for number in range(6)]
    async with place.opened() as backend:
        staging = await backend.stage(None)
        for number, piece in enumerate(pieces, 1):
            await staging.write([piece[:100], piece[100:]])
            (size,) = [file.stat().st_size for file in place.staged_files()] or [0]
            assert size == (number * (LIMIT // 4) if number > 4 else 0)
        await staging.publish(place.digests_of(b"".join(pieces)))
        assert await place.read(backend, b"".join(pieces)) == b"".join(pieces)


@pytest.mark.trio
async def test_a_hint_says_that_an_object_will_be_large_and_may_be_wrong(place):
    async with place.opened() as backend:
        assert (await place.ingest(backend, SMALL, LARGE_HINT)).outcome == "created"
        assert [file.read_bytes() for file in place.object_files()] == [SMALL]
        assert (await place.ingest(backend, LARGE, 1)).outcome == "created"
        for content in (SMALL, LARGE):
            assert await place.read(backend, content) == content
            assert (await backend.verify(place.name_of(content))).mismatch is None


# Room.


@pytest.mark.trio
@pytest.mark.parametrize("size", [LIMIT + 1, 200_000, 1_000_000, 1_500_000])
async def test_a_hint_sets_room_aside_and_what_is_not_needed_is_given_back(place, size):
    content = bytes(size)
    async with place.opened() as backend:
        staging = await backend.stage(LARGE_HINT)
        (staged,) = place.staged_files()
        assert staged.stat().st_blocks * 512 >= LARGE_HINT
        await staging.write([content])
        await staging.publish(place.digests_of(content))
        (file,) = place.object_files()
        assert file.stat().st_size == size
        assert file.stat().st_blocks * 512 < size + 64 * 1024
        assert await place.read(backend, content) == content


@pytest.mark.trio
async def test_a_hint_sets_nothing_aside_for_an_object_that_will_be_small(place):
    async with place.opened() as backend:
        staging = await backend.stage(LIMIT)
        assert place.staged_files() == []
        await staging.abort()


@pytest.mark.trio
@pytest.mark.parametrize("hint", [2**50, 2**62, 2**63, 2**80])
async def test_a_hint_larger_than_the_disk_is_no_space_before_any_byte_has_come(place, hint):
    async with place.opened() as backend:
        with pytest.raises(NoSpaceError, match=f"{hint} bytes do not fit"):
            await backend.stage(hint)
        assert place.staged_files() == []
        assert (await backend.health()).writable


@pytest.mark.trio
async def test_a_disk_that_cannot_allocate_is_no_space_and_leaves_no_file(place, limit_file_size):
    async with place.opened() as backend:
        with limit_file_size(100_000), pytest.raises(NoSpaceError, match="File too large"):
            await backend.stage(LARGE_HINT)
        assert place.staged_files() == []
        assert (await place.ingest(backend, LARGE, LARGE_HINT)).outcome == "created"


@pytest.mark.trio
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("is_hinted", [False, True])
async def test_some_bytes_of_the_disk_stay_free(place, content, is_hinted):
    async with place.opened(min_free_bytes=1_000_000) as backend:
        await place.ingest(backend, b"stored before")
        disk = Disk(backend, free=1_000_000 + len(content) - 1)
        with pytest.raises(NoSpaceError, match="1000000 stay free"):
            await place.ingest(backend, content, len(content) if is_hinted else None)
        assert place.staged_files() == place.object_files() == []
        assert await backend.stat([place.name_of(content)]) == ()
        assert await place.read(backend, b"stored before") == b"stored before"
        disk.free += 1
        assert (await place.ingest(backend, content)).outcome == "created"


@pytest.mark.trio
async def test_a_disk_that_fills_up_during_an_ingest_keeps_what_must_stay_free(place):
    async with place.opened(min_free_bytes=1_000_000) as backend:
        disk = Disk(backend, free=10_000_000)
        staging = await backend.stage(None)
        await staging.write([LARGE])
        disk.free = 1_000_000
        with pytest.raises(NoSpaceError):
            await staging.write([LARGE])
        await staging.abort()
        assert place.staged_files() == []


class Disk:
    """What a store is told of the room on its disk."""

    def __init__(self, backend, *, free):
        self.free = free
        backend._store.root.space = lambda: (self.free, 2**40)


# Which copies are believed.


@pytest.mark.trio
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_copy_is_believed_for_as_long_as_its_operator_says(place, clock, content):
    async with place.opened(max_verify_age_s=60) as backend:
        await place.ingest(backend, content)
        clock.pass_s(59.999)
        assert (await place.ingest(backend, content)).outcome == "existed"
        clock.pass_s(0.001)
        assert (await place.ingest(backend, content)).outcome == "healed"
        clock.pass_s(59.999)
        assert (await place.ingest(backend, content)).outcome == "existed"
        assert await place.read(backend, content) == content
        assert await backend.list_quarantined(0, 10) == []
        counted = "SELECT count(*) FROM contents"
        assert backend._store.catalog._read(counted) == [(content is SMALL,)]
    assert len(place.object_files()) == (content is LARGE)


@pytest.mark.trio
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_verification_makes_a_copy_believed_again(place, clock, content):
    async with place.opened(max_verify_age_s=60) as backend:
        await place.ingest(backend, content)
        clock.pass_s(100)
        await backend.verify(place.name_of(content))
        clock.pass_s(59)
        assert (await place.ingest(backend, content)).outcome == "existed"


@pytest.mark.trio
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_copy_verified_in_the_future_is_not_believed(place, clock, content):
    async with place.opened() as backend:
        await place.ingest(backend, content)
        clock.pass_s(-1)
        assert (await place.ingest(backend, content)).outcome == "healed"
        assert (await place.ingest(backend, content)).outcome == "existed"


@pytest.mark.trio
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_with_no_trust_at_all_every_ingest_replaces_what_is_there(place, content):
    async with place.opened(max_verify_age_s=0) as backend:
        assert (await place.ingest(backend, content)).outcome == "created"
        assert (await place.ingest(backend, content)).outcome == "healed"
        assert await place.read(backend, content) == content
        assert (await backend.health()).object_count == 1


@pytest.mark.trio
async def test_a_file_that_was_touched_is_not_believed_although_it_is_right(place):
    async with place.opened() as backend:
        await place.ingest(backend, LARGE)
        place.damage(lambda file: os.utime(file, ns=(1, 1)))
        assert (await place.ingest(backend, LARGE)).outcome == "healed"
        assert len(place.object_files()) == 1
        place.damage(lambda file: os.utime(file, ns=(1, 1)))
        assert (await backend.verify(place.name_of(LARGE))).mismatch is None
        assert (await place.ingest(backend, LARGE)).outcome == "existed"


# What goes wrong.


@pytest.mark.trio
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_nothing_is_published_once_the_store_takes_no_writes(place, content):
    async with place.opened() as backend:
        staging = await backend.stage(None)
        await staging.write([content])
        backend._store.stop_writing("the disk failed")
        with pytest.raises(UnavailableError, match="read-only since the disk failed"):
            await staging.publish(place.digests_of(content))
        await staging.abort()
        assert await backend.stat([place.name_of(content)]) == ()
        assert place.staged_files() == place.object_files() == []


@pytest.mark.trio
async def test_no_file_is_left_of_a_row_that_a_quota_has_no_room_for(place):
    async with place.opened() as backend:

        async def no_room(_):
            raise NoSpaceError("backend b has no space for its catalog")

        commit, backend._store.commit = backend._store.commit, no_room
        with pytest.raises(NoSpaceError):
            await place.ingest(backend, LARGE)
        assert place.staged_files() == place.object_files() == []
        backend._store.commit = commit
        assert (await place.ingest(backend, LARGE)).outcome == "created"
