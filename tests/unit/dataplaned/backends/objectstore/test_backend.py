"""What is particular to a bucket, above all with several daemons: backends of one bucket."""

import contextlib
import json
import os
import random

import pytest
import trio

from dataplane_protocol import (
    ConflictError,
    DataPlaneError,
    Digest,
    IngestOutcome,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectState,
    UnavailableError,
)
from dataplaned.backends.base import BackendError
from dataplaned.backends.objectstore import names
from dataplaned.backends.objectstore.bucket import FORMAT
from dataplaned.backends.suite import digests_of, names_of, publish

pytestmark = pytest.mark.trio

SMALL = os.urandom(5_000)
LARGE = os.urandom(300_000)  # five parts
BOTH = pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])


async def read(backend, data):
    async with await backend.open_object(names_of(data)[0]) as stored:
        return await stored.read(0, 1000)


async def keys_of(backend, folder):
    return [entry.key for entry in await backend._bucket.engine.list_all(folder)]


async def all_keys(backend):
    folders = (names.OBJECTS, names.PARTS, names.SHA256_NAMES, names.PROBES)
    return [key for folder in folders for key in await keys_of(backend, folder)]


class Pause:
    """Holds the next call of one of an engine's requests up, on its way there."""

    def __init__(self, backend, request):
        self._engine = backend._bucket.engine
        self._request = request
        self._original = getattr(self._engine, request)
        self.is_reached = trio.Event()
        self.go_on = trio.Event()
        setattr(self._engine, request, self._call)

    async def _call(self, *args):
        setattr(self._engine, self._request, self._original)
        self.is_reached.set()
        await self.go_on.wait()
        return await self._original(*args)


@BOTH
async def test_another_daemon_sees_everything_without_local_state(open_backend, data):
    first = await open_backend()
    await publish(first, data)
    second = await open_backend()
    for name in names_of(data):
        (status,) = await second.stat([name])
        assert status == (await first.stat([name]))[0]
        async with await second.open_object(name) as stored:
            assert await stored.read(0, 1000) == data
    assert await second.delete(names_of(data)[1], None)
    for backend in (first, second):
        assert await backend.stat(names_of(data)) == ()
        with pytest.raises(ObjectNotFoundError):
            await backend.open_object(names_of(data)[0])


@BOTH
async def test_the_same_bytes_are_not_sent_again(open_backend, data):
    first, second = await open_backend(), await open_backend()
    await publish(first, data)
    parts = await keys_of(first, names.PARTS)
    assert (await publish(second, data)).outcome == IngestOutcome.EXISTED
    assert await keys_of(first, names.PARTS) == parts
    assert len(await keys_of(first, names.OBJECTS)) == 1
    assert await read(first, data) == data


@BOTH
async def test_a_conditional_delete_spares_what_another_daemon_ingests_meanwhile(
    open_backend, data
):
    first, second = await open_backend(), await open_backend()
    generation = (await publish(first, data)).generation
    pause = Pause(first, "delete")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.delete, names_of(data)[0], generation)
        await pause.is_reached.wait()
        again = await publish(second, data)
        pause.go_on.set()
    for backend in (first, second):
        (status,) = await backend.stat([names_of(data)[0]])
        assert status.generation == again.generation
        assert await read(backend, data) == data
        assert (await backend.verify(names_of(data)[0])).mismatch is None
    with pytest.raises(ConflictError):
        await second.delete(names_of(data)[0], generation)


@BOTH
async def test_an_ingest_that_found_an_object_keeps_it_when_it_is_deleted_meanwhile(
    open_backend, data
):
    first, second = await open_backend(), await open_backend(reclaim_after_s=0.0)
    await publish(first, data)
    pause = Pause(first, "put")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish, first, data)
        await pause.is_reached.wait()
        assert await second.delete(names_of(data)[0], None)
        assert await second.stat(names_of(data)) == ()
        pause.go_on.set()
    # It has its record now, so that the bytes are not reclaimed.
    await second._reclaimer.remove_waiting()
    for _ in range(2):
        await second._reclaimer.search()
    for backend in (first, second):
        assert await read(backend, data) == data
        assert len(await backend.stat(names_of(data))) == 2


async def test_many_of_both_daemons_leave_every_object_whole_or_absent(open_backend):
    backends = [await open_backend(), await open_backend()]
    contents = [SMALL, LARGE, b"", b"x"]

    async def work(backend, seed):
        choice = random.Random(seed)
        for _ in range(12):
            data = choice.choice(contents)
            action = choice.choice(["ingest", "ingest", "delete", "read", "list"])
            with contextlib.suppress(ObjectNotFoundError):
                if action == "ingest":
                    await publish(backend, data)
                elif action == "delete":
                    await backend.delete(names_of(data)[0], None)
                elif action == "read":
                    async with await backend.open_object(names_of(data)[1]) as stored:
                        assert not data or await stored.read(0, 1000) == data
                else:
                    page = await backend.list_page(None, 10)
                    assert {status.size_bytes for status in page} <= {*map(len, contents)}

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(work, backends[number % 2], number)
    first, second = [(await backend.list_page(None, 10)).objects for backend in backends]
    assert first == second
    for data in contents:
        await publish(backends[0], data)
        assert (await backends[1].verify(names_of(data)[0])).mismatch is None
    assert len((await backends[1].list_page(None, 10)).objects) == len(contents)


async def test_whoever_ends_last_has_the_last_generation(open_backend):
    first, second = await open_backend(), await open_backend()
    given = []

    async def ingest():
        given.append(await publish(first, LARGE))

    pause = Pause(first, "put")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ingest)
        await pause.is_reached.wait()
        quick = await publish(second, LARGE)
        pause.go_on.set()
    (slow,) = given
    assert slow.generation > quick.generation
    assert slow.stored_at >= quick.stored_at
    for backend in (first, second):
        (status,) = await backend.stat([names_of(LARGE)[0]])
        assert status.generation == slow.generation
        assert await read(backend, LARGE) == LARGE


async def test_generations_grow_whatever_the_clocks_say(open_backend, monkeypatch):
    first, second = await open_backend(), await open_backend()
    one = await publish(first, SMALL)
    monkeypatch.setattr("dataplaned.backends.objectstore.bucket.time.time_ns", lambda: 10**18)
    two = await publish(second, SMALL)
    three = await publish(first, SMALL)
    assert one.generation < two.generation < three.generation
    (status,) = await second.stat([names_of(SMALL)[0]])
    assert status.generation == three.generation


async def test_a_part_that_is_gone_or_short_is_damage_and_ingest_heals(open_backend):
    backend = await open_backend()
    engine = backend._bucket.engine
    for harm in (
        lambda key: engine.delete([key]),
        lambda key: engine.put(key, b"short"),
    ):
        await publish(backend, LARGE)
        key = (await keys_of(backend, names.PARTS))[2]
        await harm(key)
        async with await backend.open_object(names_of(LARGE)[0]) as stored:
            assert await stored.read(0, 2) == LARGE[: 2 * 65_536]
            with pytest.raises(ObjectCorruptError, match="has lost bytes"):
                await stored.read(2, 1)
        (status,) = await backend.stat([names_of(LARGE)[0]])
        assert status.state == ObjectState.QUARANTINED
        verification = await backend.verify(names_of(LARGE)[0])
        assert verification.mismatch == f"size is {2 * 65_536} bytes, must be {len(LARGE)}"
        assert (await publish(backend, LARGE)).outcome == IngestOutcome.HEALED
        assert (await backend.verify(names_of(LARGE)[1])).mismatch is None
        await backend.delete(names_of(LARGE)[0], None)
        for key in await keys_of(backend, names.PARTS):
            await engine.delete([key])


async def test_an_object_without_a_part_is_not_believed_by_the_next_ingest(open_backend):
    backend = await open_backend()
    await publish(backend, LARGE)
    await backend._bucket.engine.delete([(await keys_of(backend, names.PARTS))[0]])
    assert (await publish(backend, LARGE)).outcome == IngestOutcome.HEALED
    assert await read(backend, LARGE) == LARGE


async def test_what_is_uploaded_is_what_was_digested(open_backend):
    backend = await open_backend()
    staging = await backend.stage(None)
    changed = bytearray(LARGE)
    changed[200_000] ^= 1
    await staging.write([bytes(changed)])
    with pytest.raises(UnavailableError, match="spool has given other bytes"):
        await staging.publish(digests_of(LARGE))
    await staging.abort()
    assert await backend.stat(names_of(LARGE)) == ()


async def test_what_the_engine_stored_is_what_was_sent(open_backend):
    # Whoever signs bodies leaves it to the engine.
    backend = await open_backend(options={"unsigned_payload": "true"})
    assert backend._bucket.has_md5_tags
    engine = backend._bucket.engine
    original = engine.put

    async def put_wrong(key, data):
        is_bytes = key.startswith(names.PARTS) or len(data) == len(SMALL)
        return await original(key, data[:-1] + b"!" if is_bytes else data)

    engine.put = put_wrong
    for data in (SMALL, LARGE):
        with pytest.raises(UnavailableError, match="other bytes than were sent"):
            await publish(backend, data)
    engine.put = original
    for data in (SMALL, LARGE):
        assert (await publish(backend, data)).outcome in (
            IngestOutcome.CREATED,
            IngestOutcome.EXISTED,
            IngestOutcome.HEALED,
        )


async def test_superseded_records_are_ignored_and_removed(open_backend):
    first, second = await open_backend(), await open_backend()
    await publish(first, LARGE)
    pause = Pause(first, "delete")  # of what the next ingest supersedes
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish, first, LARGE)
        await pause.is_reached.wait()
        assert len(await keys_of(first, names.OBJECTS)) == 2
        assert len((await second.list_page(None, 10)).objects) == 1
        nursery.cancel_scope.cancel()
        pause.go_on.set()
    searcher = await open_backend(reclaim_after_s=0.0)
    await searcher._reclaimer.search()
    assert len(await keys_of(first, names.OBJECTS)) == 1
    assert await read(second, LARGE) == LARGE


async def test_leftovers_are_removed_once_they_are_old(open_backend):
    backend = await open_backend()
    await publish(backend, SMALL)
    kept = await all_keys(backend)
    await publish(backend, LARGE)
    record = (await backend._bucket.find(names_of(LARGE)[0])).record
    # As of a daemon that was killed: everything but the record.
    await backend._bucket.engine.delete([record.key])
    await backend._bucket.mark(record, is_good=True)
    await backend._bucket.engine.put(f"{names.PROBES}/{names.new_copy()}", b"")
    left = await all_keys(backend)
    assert len(left) == len(kept) + 5 + 1 + 1 + 1
    assert await backend._reclaimer.search() == 4
    assert await backend._reclaimer.search() == 4
    assert await all_keys(backend) == left
    backend._reclaimer._grace = 0.0
    assert await backend._reclaimer.search() == 0
    assert await all_keys(backend) == kept
    assert await read(backend, SMALL) == SMALL


async def test_parts_that_still_grow_are_not_old(open_backend):
    backend = await open_backend()
    await publish(backend, LARGE)
    record = (await backend._bucket.find(names_of(LARGE)[0])).record
    last = record.part_key(4)
    await backend._bucket.engine.delete([record.key, record.sha256_key, last])
    reclaimer = backend._reclaimer
    assert await reclaimer.search() == 1
    since = dict(reclaimer._suspects)
    assert await reclaimer.search() == 1
    assert reclaimer._suspects == since
    await backend._bucket.engine.put(last, LARGE[4 * 65_536 :])
    assert await reclaimer.search() == 1
    assert reclaimer._suspects != since
    # Its record comes before its time has.
    await backend._bucket.engine.put(record.key, digests_of(LARGE).blocks)
    reclaimer._grace = 0.0
    assert await reclaimer.search() == 0
    assert await read(backend, LARGE) == LARGE


async def test_what_was_deleted_is_reclaimed_when_its_time_has_come(open_backend):
    backend = await open_backend()
    await publish(backend, LARGE)
    await backend.delete(names_of(LARGE)[0], None)
    await backend._reclaimer.remove_waiting()
    assert len(await keys_of(backend, names.PARTS)) == 5
    backend._reclaimer._grace = 0.0
    await backend._reclaimer.remove_waiting()
    assert await all_keys(backend) == []


async def test_a_reader_goes_on_while_bytes_wait_to_be_reclaimed(open_backend):
    backend = await open_backend()
    await publish(backend, LARGE)
    async with await backend.open_object(names_of(LARGE)[0]) as stored:
        await backend.delete(names_of(LARGE)[0], None)
        assert await stored.read(0, 1000) == LARGE


@BOTH
async def test_one_request_is_enough_for_what_is_known(open_backend, proxied, data):
    backend = await open_backend(endpoint=proxied.endpoint)
    await publish(backend, data)
    asked = []
    engine = backend._bucket.engine
    start = engine._start
    engine._start = lambda operation, function: (
        asked.append(operation) or start(operation, function)
    )
    assert await read(backend, data) == data
    wanted = ["get"] if data == SMALL else ["head"] + ["get"] * 5
    assert asked == wanted


async def test_a_bucket_of_another_format_is_refused(open_backend):
    backend = await open_backend()
    await backend._bucket.engine.put(names.FORMAT_KEY, json.dumps({"format": FORMAT + 1}).encode())
    with pytest.raises(BackendError, match=f"has format {FORMAT + 1}, this version knows {FORMAT}"):
        await open_backend()


async def test_an_engine_that_is_away_at_the_start_is_taken_up_later(open_backend, proxied):
    proxied.refuse()
    backend = await open_backend(endpoint=proxied.endpoint, retry_timeout_s=1.0)
    health = await backend.health()
    assert (health.state, health.writable) == ("down", False)
    assert "no connection" in health.message or "broken off" in health.message
    with pytest.raises(UnavailableError):
        await publish(backend, SMALL)
    proxied.pass_on()
    await publish(backend, SMALL)
    assert await read(backend, SMALL) == SMALL
    assert (await backend.health()).state == "degraded"


async def test_a_cancelled_ingest_leaves_nothing_that_can_be_seen(open_backend, proxied):
    backend = await open_backend(endpoint=proxied.endpoint)
    async with trio.open_nursery() as nursery:
        sent = proxied.sent
        nursery.start_soon(publish, backend, LARGE)
        await trio.to_thread.run_sync(proxied.wait_until, lambda: proxied.sent > sent + 100_000)
        nursery.cancel_scope.cancel()
    # Either it was past the point of no return, or there is nothing.
    statuses = await backend.stat(names_of(LARGE))
    if statuses:
        assert await read(backend, LARGE) == LARGE
    assert (await publish(backend, LARGE)).outcome in (
        IngestOutcome.CREATED,
        IngestOutcome.EXISTED,
    )
    assert backend._uploads.parts.borrowed_tokens == 0
    assert backend._spool._used == 0


async def test_readers_give_back_what_they_had_ahead(open_backend, proxied):
    backend = await open_backend(endpoint=proxied.endpoint)
    await publish(backend, LARGE)
    async with await backend.open_object(names_of(LARGE)[0]) as stored:
        assert await stored.read(0, 1) == LARGE[:65_536]
        assert backend._ahead.borrowed_tokens == 3
        # Anywhere else it begins anew.
        assert await stored.read(3, 1) == LARGE[3 * 65_536 : 4 * 65_536]
        assert await stored.read(1, 2) == LARGE[65_536 : 3 * 65_536]
        proxied.hold()
        with trio.CancelScope() as scope:
            scope.cancel()
            await stored.read(3, 2)
        proxied.pass_on()
        assert backend._ahead.borrowed_tokens == 0
        assert await stored.read(3, 2) == LARGE[3 * 65_536 :]
    assert backend._ahead.borrowed_tokens == 0


async def test_readers_beyond_the_limit_have_nothing_ahead_and_all_bytes(open_backend):
    backend = await open_backend()
    await publish(backend, LARGE)
    with contextlib.ExitStack() as stack:
        while backend._ahead.available_tokens:
            token = object()
            backend._ahead.acquire_on_behalf_of_nowait(token)
            stack.callback(backend._ahead.release_on_behalf_of, token)
        assert await read(backend, LARGE) == LARGE


async def test_a_record_that_makes_no_sense_is_nobodys(open_backend):
    backend = await open_backend()
    await publish(backend, SMALL)
    blake3 = names_of(SMALL)[0].hex
    await backend._bucket.engine.put(f"{names.OBJECTS}/{blake3}/notes.txt", b"?")
    await backend._bucket.engine.put(f"{names.OBJECTS}/{'f' * 64}/g1", b"?")
    assert len((await backend.list_page(None, 10)).objects) == 1
    backend._reclaimer._grace = 0.0
    await backend._reclaimer.search()
    assert f"{names.OBJECTS}/{blake3}/notes.txt" in await all_keys(backend)
    with pytest.raises(ObjectNotFoundError):
        await backend.verify(Digest("blake3", "f" * 64))


async def test_the_search_survives_an_engine_that_fails(open_backend, proxied):
    backend = await open_backend(
        endpoint=proxied.endpoint, retry_timeout_s=0.5, reclaim_after_s=0.01
    )
    await publish(backend, LARGE)
    await backend.delete(names_of(LARGE)[0], None)
    proxied.refuse()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.scrub)
        refused = proxied.refused
        await trio.to_thread.run_sync(proxied.wait_until, lambda: proxied.refused > refused + 3)
        proxied.pass_on()
        with trio.fail_after(60):
            while True:
                with contextlib.suppress(DataPlaneError):
                    if not await all_keys(backend):
                        break
        nursery.cancel_scope.cancel()
