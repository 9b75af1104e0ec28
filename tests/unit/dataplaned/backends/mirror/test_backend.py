"""What two sides are for: rot, outages, deletions, and catching up."""

import os
import sqlite3
from datetime import timedelta

import pytest
import trio

from dataplane_protocol import (
    ConflictError,
    IngestOutcome,
    ObjectCorruptError,
    ObjectNotFoundError,
    RangeNotSatisfiableError,
    UnavailableError,
)
from dataplaned.backends.base import BackendError
from dataplaned.backends.mirror.journal import Pending, Task
from dataplaned.backends.suite import BLOCK_SIZE, names_of, publish

pytestmark = pytest.mark.trio

CONTENT = os.urandom(5 * BLOCK_SIZE + 100)
OTHER = os.urandom(3 * BLOCK_SIZE)
NAME, SHA256_NAME = names_of(CONTENT)

only_both = pytest.mark.parametrize("acknowledge", ["both"], indirect=True)
only_first = pytest.mark.parametrize("acknowledge", ["first"], indirect=True)


async def store(mirror, data=CONTENT):
    """Ingest, and have both sides have it."""
    published = await publish(mirror, data)
    await mend(mirror)
    return published


async def mend(mirror):
    for side in (0, 1):
        await mirror.mender.drain(side)


async def read(mirror, name=NAME):
    async with await mirror.open_object(name) as stored:
        return await stored.read(0, 100)


async def whole(mirror, data=CONTENT):
    return await mirror.first.has(data), await mirror.second.has(data)


async def listed(mirror):
    return [status.content_address.to_digest() for status in await mirror.list_page(None, 10)]


async def test_both_sides_have_what_was_ingested(mirror):
    await store(mirror)
    assert await whole(mirror) == (True, True)
    assert (await mirror.health()).message is None


@only_both
async def test_an_ingest_is_on_both_sides_when_it_is_acknowledged(mirror):
    await publish(mirror, CONTENT)
    assert await whole(mirror) == (True, True)


@only_first
async def test_an_ingest_is_on_the_first_side_and_in_the_journal(mirror, open_mirror, monkeypatch):
    await publish(mirror, CONTENT)
    assert await whole(mirror) == (True, False)
    with monkeypatch.context() as patched:
        patched.setattr("dataplaned.backends.mirror.backend._USUAL_DELAY", timedelta(seconds=30))
        assert (await mirror.health()).state == "ok"  # it is given it in a moment
    health = await mirror.health()
    assert (health.state, health.writable) == ("degraded", True)
    assert health.message.startswith("second is 1 objects behind since 20")
    await open_mirror.close(mirror)
    mirror = await open_mirror()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mirror.scrub)
        with trio.fail_after(60):
            while not await mirror.second.has(CONTENT):
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await mend(mirror)
    assert (await mirror.health()).state == "ok"


@pytest.mark.parametrize("at", [0, 2 * BLOCK_SIZE, 5 * BLOCK_SIZE + 50])
async def test_rot_on_the_first_side_is_not_noticed_by_readers_and_healed(mirror, at):
    await store(mirror)
    mirror.first.damage(CONTENT, at)
    async with await mirror.open_object(NAME) as stored:
        pieces = [await stored.read(block, 1) for block in range(6)]
    assert b"".join(pieces) == CONTENT
    assert await whole(mirror) == (False, True)
    assert "first is 1 objects behind" in (await mirror.health()).message
    await mend(mirror)
    assert await whole(mirror) == (True, True)
    mirror.second.is_away = True
    assert await read(mirror) == CONTENT


async def test_rot_in_a_range_is_not_noticed_either(mirror):
    await store(mirror)
    mirror.first.damage(CONTENT, 3 * BLOCK_SIZE + 5)
    async with await mirror.open_object(
        SHA256_NAME, (3 * BLOCK_SIZE, 3 * BLOCK_SIZE + 9)
    ) as stored:
        assert (stored.offset, stored.length) == (3 * BLOCK_SIZE, 10)
        assert await stored.read(3, 1) == CONTENT[3 * BLOCK_SIZE : 4 * BLOCK_SIZE]
    await mend(mirror)
    assert await whole(mirror) == (True, True)


async def test_a_thread_that_meets_rot_leaves_the_rest_to_the_other_side(mirror):
    await store(mirror)
    mirror.first.damage(CONTENT, 2 * BLOCK_SIZE)
    async with await mirror.open_object(NAME) as stored:
        buffer = bytearray(4 * BLOCK_SIZE)
        count = await trio.to_thread.run_sync(stored.read_into, 0, memoryview(buffer))
        assert count == 2 * BLOCK_SIZE
        assert bytes(buffer[:count]) == CONTENT[:count]
        assert await stored.read(2, 1) == CONTENT[2 * BLOCK_SIZE : 3 * BLOCK_SIZE]
        count = await trio.to_thread.run_sync(stored.read_into, 3, memoryview(buffer)[:BLOCK_SIZE])
        assert bytes(buffer[:count]) == CONTENT[3 * BLOCK_SIZE : 4 * BLOCK_SIZE]


async def test_rot_on_the_second_side_is_healed_by_a_verify(mirror):
    await store(mirror)
    mirror.second.damage(CONTENT)
    assert (await mirror.verify(NAME)).mismatch is None
    assert await whole(mirror) == (True, True)


async def test_rot_on_the_first_side_is_healed_by_a_verify(mirror):
    await store(mirror)
    mirror.first.damage(CONTENT)
    assert (await mirror.verify(SHA256_NAME)).mismatch is None
    assert await whole(mirror) == (True, True)
    assert (await mirror.health()).state == "ok"


async def test_rot_on_both_sides_is_told_and_healed_by_the_next_ingest(mirror):
    await store(mirror)
    for side in (mirror.first, mirror.second):
        side.damage(CONTENT, BLOCK_SIZE)
    assert (await mirror.verify(NAME)).mismatch == (
        "content differs, first between bytes 65536 and 131071"
    )
    with pytest.raises(ObjectCorruptError):
        await read(mirror)
    assert (await mirror.stat([NAME]))[0].state == "quarantined"
    assert (await store(mirror)).outcome == IngestOutcome.HEALED
    assert await whole(mirror) == (True, True)
    assert (await mirror.stat([NAME]))[0].state == "ok"


async def test_different_rot_on_both_sides_is_still_served(mirror):
    await store(mirror)
    mirror.first.damage(CONTENT, 0)
    mirror.second.damage(CONTENT, 5 * BLOCK_SIZE)
    async with await mirror.open_object(NAME) as stored:
        pieces = [await stored.read(block, 1) for block in range(5)]
        assert b"".join(pieces) == CONTENT[: 5 * BLOCK_SIZE]
        with pytest.raises(ObjectCorruptError):
            await stored.read(5, 1)


@pytest.mark.parametrize("number", [0, 1])
async def test_a_comparison_finds_what_a_side_has_lost_or_let_rot(mirror, number):
    await store(mirror)
    await store(mirror, OTHER)
    side = (mirror.first, mirror.second)[number]
    side.damage(CONTENT)
    assert (await side.inner.verify(NAME)).mismatch  # as its scrub would
    await side.inner.delete(names_of(OTHER)[0], None)
    assert await mirror.mender.compare() == 2
    assert "2 objects behind" in (await mirror.health()).message
    await mend(mirror)
    assert await mirror.mender.compare() == 0
    assert await whole(mirror) == await whole(mirror, OTHER) == (True, True)


async def test_a_comparison_of_different_sides_meets_every_object(mirror):
    contents = [b"%d" % number for number in range(30)]
    for number, data in enumerate(contents):
        await publish((mirror.first, mirror.second)[number % 2].inner, data)
    assert await mirror.mender.compare() == 30
    await mend(mirror)
    assert {await whole(mirror, data) == (True, True) for data in contents} == {True}


async def test_what_the_first_side_has_lost_is_served_and_given_back(mirror):
    await store(mirror)
    await mirror.first.inner.delete(NAME, None)
    assert await read(mirror) == CONTENT
    assert (await mirror.stat([NAME]))[0].size_bytes == len(CONTENT)
    await mend(mirror)
    assert await whole(mirror) == (True, True)


async def test_reads_go_on_with_either_side_away(mirror):
    await store(mirror)
    generation = (await mirror.stat([NAME]))[0].generation
    assert generation % 2 == 0
    for side in (mirror.first, mirror.second):
        side.is_away = True
        assert await read(mirror) == CONTENT
        assert await listed(mirror) == [NAME]
        (status,) = await mirror.stat([SHA256_NAME])
        assert status.generation % 2 == (side is mirror.first)
        assert (await mirror.verify(NAME)).mismatch is None
        health = await mirror.health()
        assert health.state == "degraded"
        assert "is down: side is away" in health.message
        side.is_away = False
    assert (await mirror.health()).state == "ok"


async def test_a_first_side_that_goes_away_while_it_is_read_is_replaced(mirror):
    await store(mirror)
    async with await mirror.open_object(NAME) as stored:
        inner = stored._stored

        async def fail(first_block, count):
            raise UnavailableError("side is away")

        assert await stored.read(0, 1) == CONTENT[:BLOCK_SIZE]
        inner.read = fail
        assert await stored.read(1, 2) == CONTENT[BLOCK_SIZE : 3 * BLOCK_SIZE]
    assert (await mirror.health()).state == "ok"


async def test_nothing_is_read_with_both_sides_away(mirror):
    await store(mirror)
    mirror.first.is_away = mirror.second.is_away = True
    for call in (
        lambda: read(mirror),
        lambda: mirror.stat([NAME]),
        lambda: mirror.verify(NAME),
        lambda: mirror.list_page(None, 1),
        lambda: mirror.delete(NAME, None),
        lambda: publish(mirror, OTHER),
    ):
        with pytest.raises(UnavailableError):
            await call()
    assert (await mirror.health()).state == "down"
    mirror.first.is_away = mirror.second.is_away = False
    assert await read(mirror) == CONTENT


async def test_an_object_is_missing_only_if_that_is_certain(mirror):
    missing = names_of(b"missing")[0]
    with pytest.raises(ObjectNotFoundError):
        await mirror.open_object(missing)
    mirror.second.is_away = True
    with pytest.raises(ObjectNotFoundError):
        await mirror.open_object(missing)
    mirror.first.is_away, mirror.second.is_away = True, False
    with pytest.raises(UnavailableError):
        await mirror.open_object(missing)
    # The first side is known to lack something.
    mirror.first.is_away, mirror.second.is_away = False, True
    await mirror.mender.want_copy(0, bytes.fromhex(NAME.hex))
    with pytest.raises(UnavailableError):
        await mirror.open_object(missing)


async def test_a_range_beyond_the_end_is_said_by_the_first_side(mirror):
    await store(mirror)
    with pytest.raises(RangeNotSatisfiableError):
        await mirror.open_object(NAME, (len(CONTENT), len(CONTENT)))


@only_both
async def test_an_ingest_needs_both_sides_if_both_are_wanted(mirror):
    for side in (mirror.first, mirror.second):
        side.is_away = True
        assert not (await mirror.health()).writable
        with pytest.raises(UnavailableError):
            await publish(mirror, CONTENT)
        side.is_away = False
    assert await mirror.stat([NAME]) == ()
    await publish(mirror, CONTENT)


@only_both
async def test_a_side_that_goes_away_in_mid_ingest_gets_it_later(mirror):
    staging = await mirror.stage(None)
    await staging.write([CONTENT])
    second = staging._stagings[1]

    async def fail(digests):
        raise UnavailableError("side is away")

    second.publish = fail
    from dataplaned.backends.suite import digests_of

    with pytest.raises(UnavailableError):
        await staging.publish(digests_of(CONTENT))
    await staging.abort()
    assert await whole(mirror) == (True, False)
    await mend(mirror)
    assert await whole(mirror) == (True, True)


@only_first
async def test_an_ingest_needs_the_first_side_alone_if_so_configured(mirror, open_mirror):
    mirror.second.is_away = True
    assert (await mirror.health()).writable
    await publish(mirror, CONTENT)
    await publish(mirror, OTHER)
    with pytest.raises(UnavailableError):
        await mirror.mender.drain(1)
    mirror.first.is_away = True
    with pytest.raises(UnavailableError):
        await publish(mirror, b"more")
    # The outage lasts longer than the daemon.
    await open_mirror.close(mirror)
    mirror = await open_mirror()
    assert "second is 2 objects behind" in (await mirror.health()).message
    await mend(mirror)
    assert await whole(mirror) == await whole(mirror, OTHER) == (True, True)


@pytest.mark.parametrize("name", [NAME, SHA256_NAME], ids=["blake3", "sha256"])
async def test_a_delete_while_the_second_side_is_away_is_final(mirror, open_mirror, name):
    await store(mirror)
    await store(mirror, OTHER)
    mirror.second.is_away = True
    assert await mirror.delete(name, None)
    mirror.second.is_away = False

    async def check():
        assert await mirror.stat([NAME, SHA256_NAME]) == ()
        assert await listed(mirror) == [names_of(OTHER)[0]]
        with pytest.raises(ObjectNotFoundError):
            await read(mirror)
        with pytest.raises(ObjectNotFoundError):
            await mirror.verify(NAME)
        assert await mirror.mender.compare() == 0

    assert await mirror.second.has(CONTENT)
    await check()
    await open_mirror.close(mirror)
    mirror = await open_mirror()
    assert await mirror.second.has(CONTENT)
    await check()
    mirror.first.is_away = True
    assert await listed(mirror) == [names_of(OTHER)[0]]
    mirror.first.is_away = False
    await mend(mirror)
    assert await whole(mirror) == (False, False)
    await check()
    assert (await mirror.health()).state == "ok"


async def test_a_delete_while_the_first_side_is_away_is_final(mirror):
    await store(mirror)
    mirror.first.is_away = True
    assert await mirror.delete(NAME, None)
    mirror.first.is_away = False
    assert await mirror.first.has(CONTENT)
    with pytest.raises(ObjectNotFoundError):
        await read(mirror)
    assert await mirror.stat([NAME]) == ()
    assert await mirror.mender.compare() == 0
    await mend(mirror)
    assert await whole(mirror) == (False, False)


async def test_what_one_side_has_lost_is_deleted_on_the_one_that_is_away(mirror):
    await store(mirror)
    await mirror.first.inner.delete(NAME, None)
    mirror.second.is_away = True
    assert not await mirror.delete(NAME, None)
    mirror.second.is_away = False
    with pytest.raises(ObjectNotFoundError):
        await read(mirror)
    await mend(mirror)
    assert await whole(mirror) == (False, False)


async def test_an_ingest_takes_the_place_of_a_delete_that_waits(mirror):
    await store(mirror)
    mirror.second.is_away = True
    await mirror.delete(NAME, None)
    mirror.second.is_away = False
    assert (await publish(mirror, CONTENT)).outcome == IngestOutcome.CREATED
    assert await read(mirror) == CONTENT
    await mend(mirror)
    assert await whole(mirror) == (True, True)
    assert await mirror.delete(NAME, None)
    assert await whole(mirror) == (False, False)


async def test_a_delete_that_was_begun_by_a_daemon_that_was_killed_is_finished(mirror, open_mirror):
    await store(mirror)
    blake3 = bytes.fromhex(NAME.hex)
    await mirror._journal.change(add=[Pending(side, blake3, Task.DELETE) for side in (0, 1)])
    await open_mirror.close(mirror)
    mirror = await open_mirror()
    assert await whole(mirror) == (True, True)
    assert await mirror.stat([NAME]) == ()
    with pytest.raises(ObjectNotFoundError):
        await read(mirror)
    await mend(mirror)
    assert await whole(mirror) == (False, False)


async def test_a_delete_that_neither_side_takes_leaves_everything(mirror):
    await store(mirror)

    async def fail(digest, if_generation):
        raise UnavailableError("side is away")

    originals = [side.delete for side in (mirror.first, mirror.second)]
    mirror.first.delete = mirror.second.delete = fail
    with pytest.raises(UnavailableError):
        await mirror.delete(NAME, None)
    mirror.first.delete, mirror.second.delete = originals
    assert await read(mirror) == CONTENT
    assert (await mirror.health()).state == "ok"


async def test_conditions_are_the_first_sides(mirror):
    first = await store(mirror)
    (status,) = await mirror.stat([NAME])
    assert status.generation == first.generation
    assert first.generation % 2 == 0
    again = await store(mirror)
    assert again.generation > first.generation
    with pytest.raises(ConflictError) as caught:
        await mirror.delete(NAME, first.generation)
    assert caught.value.details == {"generation": again.generation}
    mirror.first.is_away = True
    (status,) = await mirror.stat([NAME])
    for generation in (again.generation, status.generation):
        with pytest.raises(UnavailableError):
            await mirror.delete(NAME, generation)
    mirror.first.is_away = False
    with pytest.raises(ConflictError):
        await mirror.delete(NAME, status.generation)
    assert await whole(mirror) == (True, True)
    assert await mirror.delete(NAME, again.generation)
    assert not await mirror.delete(NAME, again.generation)
    assert await whole(mirror) == (False, False)


async def test_a_condition_fails_at_the_last_moment_too(mirror):
    published = await store(mirror)
    original = mirror.first.delete

    async def raced(digest, if_generation):
        await publish(mirror.first.inner, CONTENT)
        return await original(digest, if_generation)

    mirror.first.delete = raced
    with pytest.raises(ConflictError):
        await mirror.delete(NAME, published.generation)
    mirror.first.delete = original
    assert await read(mirror) == CONTENT
    assert await whole(mirror) == (True, True)


async def test_a_copy_of_what_was_deleted_meanwhile_is_not_made(mirror):
    await store(mirror)
    await mirror.second.inner.delete(NAME, None)
    await mirror.mender.want_copy(1, bytes.fromhex(NAME.hex))
    await mirror.delete(NAME, None)
    await mend(mirror)
    assert await whole(mirror) == (False, False)
    assert (await mirror.health()).state == "ok"


async def test_a_copy_that_cannot_be_made_keeps_nothing_else_from_being_made(mirror):
    await store(mirror)
    await store(mirror, OTHER)
    for data in (CONTENT, OTHER):
        await mirror.second.inner.delete(names_of(data)[0], None)
        await mirror.mender.want_copy(1, bytes.fromhex(names_of(data)[0].hex))
    mirror.first.damage(CONTENT, 4 * BLOCK_SIZE)
    assert await mirror.mender.drain(1) == 1
    assert await whole(mirror, OTHER) == (True, True)
    assert await whole(mirror) == (False, False)
    assert "second is 1 objects behind" in (await mirror.health()).message
    await store(mirror)
    assert (await mirror.health()).state == "ok"


async def test_the_worker_waits_out_an_outage(mirror, monkeypatch):
    await store(mirror)
    await mirror.second.inner.delete(NAME, None)
    mirror.second.is_away = True
    pauses = []

    async def sleep(pause):
        pauses.append(pause)
        mirror.second.is_away = len(pauses) < 9
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr("dataplaned.backends.mirror.mending.trio.sleep", sleep)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mirror.mender.work, 1)
        await mirror.mender.want_copy(1, bytes.fromhex(NAME.hex))
        with trio.fail_after(60):
            while (await mirror.health()).state != "ok":
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert await whole(mirror) == (True, True)


async def test_a_journal_that_is_none_is_refused(open_mirror, directory):
    (directory / "journal.sqlite3").write_bytes(b"not a database, but longer than nothing" * 100)
    with pytest.raises(BackendError, match=r"journal .*journal.sqlite3 cannot be opened: file is"):
        await open_mirror()
    (directory / "journal.sqlite3").unlink()
    other = sqlite3.connect(directory / "journal.sqlite3")
    other.execute("PRAGMA user_version = 9")
    other.close()
    with pytest.raises(BackendError, match="not a journal of format 1"):
        await open_mirror()


async def test_a_journal_whose_disk_fails_costs_a_call_and_nothing_else(mirror):
    await store(mirror)
    mirror._journal._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(UnavailableError, match="journal of the mirror"):
        await mirror.delete(NAME, None)
    assert await read(mirror) == CONTENT
    mirror._journal._connection.execute("PRAGMA query_only = OFF")
    assert await mirror.delete(NAME, None)
