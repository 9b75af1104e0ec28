import contextlib
import sqlite3

import pytest
import structlog.testing
import trio
import trio.testing

from dataplane_protocol import NoSpaceError, ObjectCorruptError, UnavailableError
from dataplaned.backends.filesystem import scrub as scrub_module, store as store_module
from dataplaned.backends.maintenance import ScrubState

#: Most of them read a whole store again, from a real disk.
pytestmark = pytest.mark.slow


DAY_S = 86_400.0
LARGE = b"0123456789abcdef" * 20_000  # almost five blocks
SMALL = b"a small object"


def content(number, size=100):
    """Give the bytes of an object; a file from 32 KiB on."""
    return number.to_bytes(4, "big") * (size // 4)


class TimeOfTrio:
    """The module `time`, with the clock of the test."""

    @staticmethod
    def monotonic():
        return trio.current_time()


@pytest.fixture(autouse=True)
def time_of_trio(monkeypatch):
    for module in (scrub_module, store_module):
        monkeypatch.setattr(module, "time", TimeOfTrio)


class Watch:
    """Keeps which objects the scrub verifies and when, and may have something done before."""

    def __init__(self, monkeypatch):
        self.digests = []
        self.times = []
        self.before = None
        self._wanted = 0
        self._enough = trio.Event()
        verify_copy = scrub_module.verify_copy

        async def watched(store, copy, pace):
            before, self.before = self.before, None
            if before is not None:
                await before()
            verification = await verify_copy(store, copy, pace)
            self.digests.append(copy.row.digest)
            self.times.append(trio.current_time())
            if len(self.digests) >= self._wanted:
                self._enough.set()
            return verification

        monkeypatch.setattr(scrub_module, "verify_copy", watched)

    async def saw(self, count):
        """Wait until so many objects were verified."""
        self._wanted = count
        self._enough = trio.Event()
        if len(self.digests) < count:
            await self._enough.wait()


@pytest.fixture
def watch(monkeypatch):
    return Watch(monkeypatch)


@contextlib.asynccontextmanager
async def scrubbing(backend):
    """Run the scrub of a backend beside the test."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.scrub)
        yield
        nursery.cancel_scope.cancel()


async def fill(place, backend, clock, contents):
    """Ingest objects, a second apart."""
    for each in contents:
        await place.ingest(backend, each)
        clock.pass_s(1)


# What is due.


@pytest.mark.trio
@pytest.mark.parametrize("size", [100, 40_000], ids=["small", "large"])
async def test_an_object_is_due_once_its_last_verification_is_too_long_ago(
    place, clock, watch, autojump_clock, size
):
    async with place.opened(scrub_interval_s=DAY_S) as backend:
        await place.ingest(backend, content(1, size))
        clock.pass_s(DAY_S)
        await backend._scrub._pass()
        assert watch.digests == []
        clock.pass_s(0.001)
        await backend._scrub._pass()
        assert watch.digests == [place.name_of(content(1, size))]
        assert place.row(backend, content(1, size)).verified_at_ms == clock.now_ms
        await backend._scrub._pass()
        assert len(watch.digests) == 1


@pytest.mark.trio
async def test_the_longest_unverified_comes_first(place, clock, watch, autojump_clock, monkeypatch):
    monkeypatch.setattr(scrub_module, "_BATCH", 2)
    contents = [content(number, 40_000) for number in range(5)]
    async with place.opened(scrub_interval_s=DAY_S) as backend:
        await fill(place, backend, clock, contents)
        await backend.verify(place.name_of(contents[0]))
        clock.pass_s(DAY_S + 1)
        await backend._scrub._pass()
    assert watch.digests == [place.name_of(contents[number]) for number in (1, 2, 3, 4, 0)]


@pytest.mark.trio
async def test_what_was_verified_is_not_verified_again_after_a_restart(
    place, clock, watch, autojump_clock
):
    contents = [content(number, 40_000) for number in range(5)]
    async with place.opened(scrub_interval_s=DAY_S) as backend:
        await fill(place, backend, clock, contents)
        clock.pass_s(DAY_S + 1)
        async with scrubbing(backend):
            await watch.saw(2)
    seen = len(watch.digests)
    assert 2 <= seen < 5
    async with place.opened(scrub_interval_s=DAY_S) as backend:
        assert (await backend.scrub_status()).due_objects == 5 - seen
        await backend._scrub._pass()
    assert watch.digests == list(map(place.name_of, contents))


@pytest.mark.trio
async def test_an_operator_makes_everything_due(place, clock, watch, autojump_clock):
    async with place.opened() as backend:
        await fill(place, backend, clock, [SMALL, LARGE])
        assert (await backend.scrub_status()).due_objects == 0
        await backend.start_scrub()
        status = await backend.scrub_status()
        assert (status.due_objects, status.due_bytes) == (2, len(SMALL) + len(LARGE))
    async with place.opened() as backend:
        assert (await backend.scrub_status()).due_objects == 2
        clock.pass_s(1)
        await backend._scrub._pass()
        assert (await backend.scrub_status()).due_objects == 0
    assert sorted(watch.digests) == sorted([place.name_of(SMALL), place.name_of(LARGE)])


@pytest.mark.trio
async def test_a_scrub_that_is_told_to_start_does_so_at_once(place, clock, watch, mock_clock):
    # Nobody moves the clock: it is the word alone that has it look again, also one that comes
    # while a pass is coming to its end.
    mock_clock.jump(1000)
    async with place.opened() as backend:
        backend._store.wait_idle = trio.lowlevel.checkpoint
        await fill(place, backend, clock, [SMALL])
        due = backend._store.catalog.due

        def start_at_the_end(*asked):
            rows = due(*asked)
            backend._store.catalog.due = due
            trio.from_thread.run(backend.start_scrub)
            return rows

        backend._store.catalog.due = start_at_the_end
        async with scrubbing(backend):
            await watch.saw(1)
            clock.pass_s(1)
            await backend.start_scrub()
            await watch.saw(2)
    assert watch.times == [1000.0, 1000.0]


@pytest.mark.trio
async def test_a_scrub_looks_again_every_minute(place, autojump_clock):
    passes = []
    enough = trio.Event()

    async def note_pass():
        passes.append(trio.current_time())
        if len(passes) == 4:
            enough.set()

    async with place.opened() as backend:
        backend._scrub._pass = note_pass
        async with scrubbing(backend):
            await enough.wait()
    assert [time - passes[0] for time in passes] == [0, 60, 120, 180]


@pytest.mark.trio
async def test_a_rate_of_nothing_turns_it_off(place, clock, watch, autojump_clock):
    async with place.opened(scrub_rate=0) as backend:
        await fill(place, backend, clock, [SMALL, LARGE])
        await backend.start_scrub()
        await backend._scrub._pass()
        status = await backend.scrub_status()
        assert (status.state, status.rate, status.due_objects) == (ScrubState.OFF, 0, 2)
    assert watch.digests == []


# Its pace.


@pytest.mark.trio
async def test_no_more_bytes_are_read_than_the_rate_allows(place, clock, watch, autojump_clock):
    size, rate = 1024 * 1024, 512 * 1024
    contents = [content(number, size) for number in range(4)]
    async with place.opened(scrub_rate=rate, small_object_size=0) as backend:
        await fill(place, backend, clock, contents)
        await backend.start_scrub()
        await trio.sleep(1000)
        begun = trio.current_time()
        await backend._scrub._pass()
    # One mebibyte may be read at once after a pause; each object costs some pages more.
    elapsed = watch.times[-1] - begun
    expected = (4 * (size + 16 * 1024) - 1024 * 1024) / rate
    assert expected <= elapsed <= expected + 0.3


@pytest.mark.trio
async def test_small_objects_count_for_the_pages_that_they_take(
    place, clock, watch, autojump_clock
):
    contents = [content(number) for number in range(80)]
    async with place.opened(scrub_rate=16 * 1024) as backend:
        async with trio.open_nursery() as nursery:
            for each in contents:
                nursery.start_soon(place.ingest, backend, each)
        clock.pass_s(1)
        await backend.start_scrub()
        await trio.sleep(1000)
        begun = trio.current_time()
        await backend._scrub._pass()
    assert len(watch.digests) == 80
    # The first of two batches waits until no call has come for a moment.
    assert 16 <= watch.times[-1] - begun <= 16.5


@pytest.mark.trio
async def test_small_objects_are_verified_in_few_commits(place, clock, watch, autojump_clock):
    async with place.opened() as backend:
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(place.ingest, backend, content(number))
        clock.pass_s(1)
        await backend.start_scrub()
        commits = []
        backend._store.catalog._writer._connection.set_trace_callback(
            lambda statement: commits.append(1) if statement == "COMMIT" else None
        )
        await backend._scrub._pass()
    assert len(watch.digests) == 40
    assert len(commits) < 40


@pytest.mark.trio
async def test_callers_go_first_but_not_for_ever(place, clock, watch, mock_clock):
    steps, step = trio.open_memory_channel(100)

    async def never_idle():
        steps.send_nowait(trio.current_time())
        await trio.sleep_forever()

    contents = [content(number, 40_000) for number in range(2)]
    mock_clock.jump(1000)
    async with place.opened() as backend:
        await fill(place, backend, clock, contents)
        await backend.start_scrub()
        backend._store.wait_idle = never_idle
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend._scrub._pass)
            # The catalog, the small objects, and for each file the look at it and its bytes.
            for number in range(6):
                assert await step.receive() == 1000 + 10 * number
                assert (await backend.scrub_status()).state == ScrubState.YIELDING
                mock_clock.jump(9.5)
                await trio.testing.wait_all_tasks_blocked()
                assert backend._scrub._state == ScrubState.YIELDING
                mock_clock.jump(0.5)
    assert watch.digests == list(map(place.name_of, contents))
    assert watch.times == [1040.0, 1060.0]


@pytest.mark.trio
async def test_a_call_holds_the_next_step_up_for_a_moment(place, clock, watch, autojump_clock):
    async with place.opened() as backend:
        await fill(place, backend, clock, [LARGE])
        await backend.start_scrub()
        await trio.sleep(100)
        backend._store.note_call()
        begun = trio.current_time()
        await backend._scrub._pass()
    assert 0.2 <= watch.times[0] - begun < 0.3


# Pausing.


class Held:
    """Notes when a paused scrub asks for leave to read, and whether it got it."""

    def __init__(self, scrub):
        self._scrub, self._pace = scrub, scrub._pace
        self.asked, self.passed = trio.Event(), trio.Event()
        scrub._pace = self

    async def __call__(self, size):
        is_paused = self._scrub._is_paused
        if is_paused:
            self.asked.set()
        await self._pace(size)
        if is_paused:
            self.passed.set()


@pytest.mark.trio
async def test_a_pause_holds_until_it_is_started_also_over_restarts(
    place, clock, watch, autojump_clock
):
    async with place.opened(scrub_interval_s=DAY_S) as backend:
        await fill(place, backend, clock, [SMALL, LARGE])
        await backend.pause_scrub()
        assert (await backend.scrub_status()).state == ScrubState.PAUSED
    clock.pass_s(2 * DAY_S)
    async with place.opened(scrub_interval_s=DAY_S) as backend:
        held = Held(backend._scrub)
        async with scrubbing(backend):
            await held.asked.wait()
            await trio.sleep(1000)
            assert not held.passed.is_set()
            status = await backend.scrub_status()
            assert (status.state, status.due_objects) == (ScrubState.PAUSED, 2)
            assert watch.digests == []
            await backend.start_scrub()
            await watch.saw(2)
    async with place.opened(scrub_interval_s=DAY_S) as backend:
        assert not backend._store.catalog.scrub_record().is_paused


@pytest.mark.trio
async def test_a_pause_ends_a_pass_after_the_step_under_way(place, clock, watch, autojump_clock):
    async with place.opened() as backend:
        await fill(place, backend, clock, [content(number, 40_000) for number in range(3)])
        await backend.start_scrub()
        watch.before = backend.pause_scrub
        held = Held(backend._scrub)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend._scrub._pass)
            await held.asked.wait()
            await trio.sleep(1000)
            assert not held.passed.is_set()
            assert watch.digests == []  # not even the bytes of the one under way
            await backend.start_scrub()
        assert len(watch.digests) == 3


# What it finds.


@pytest.mark.trio
async def test_what_is_rotten_is_found_put_into_quarantine_and_counted(
    place, clock, autojump_clock
):
    good, gone = b"good", content(2, 40_000)
    async with place.opened() as backend:
        await fill(place, backend, clock, [good, gone])
        for file in place.object_files():
            file.unlink()
        await fill(place, backend, clock, [SMALL, LARGE])
        await place.rot_small(backend, SMALL)
        place.rot(backend, LARGE)
        await backend.start_scrub()
        with structlog.testing.capture_logs() as logs:
            await backend._scrub._pass()
        status = await backend.scrub_status()
        assert (status.verified_objects, status.rotten_objects) == (4, 3)
        assert status.verified_bytes == len(good) + len(SMALL) + len(LARGE)
        assert (status.quarantined, status.due_objects) == (3, 0)
        states = [await place.state(backend, each) for each in (good, gone, SMALL, LARGE)]
        assert states == ["ok", "quarantined", "quarantined", "quarantined"]
        for each in (gone, SMALL, LARGE):
            with pytest.raises(ObjectCorruptError):
                await place.read(backend, each)
        # What is known to be rotten is not read again and again.
        clock.pass_s(1)
        await backend.start_scrub()
        assert (await backend.scrub_status()).due_objects == 1
    (said,) = [line for line in logs if line["event"] == "scrubbed"]
    assert (said["objects"], said["rotten"]) == (4, 3)
    assert len([line for line in logs if line["event"] == "rotten"]) == 3


@pytest.mark.trio
@pytest.mark.parametrize("each", [SMALL, LARGE], ids=["small", "large"])
async def test_an_object_deleted_before_it_is_opened_is_passed_over(
    place, clock, watch, autojump_clock, monkeypatch, each
):
    async with place.opened() as backend:
        await fill(place, backend, clock, [each])
        await backend.start_scrub()
        open_copy = scrub_module.open_copy

        def delete_and_open(store, digest, *, from_disk):
            trio.from_thread.run(backend.delete, digest, None)
            return open_copy(store, digest, from_disk=from_disk)

        monkeypatch.setattr(scrub_module, "open_copy", delete_and_open)
        await backend._scrub._pass()
        status = await backend.scrub_status()
        assert (status.verified_objects, status.rotten_objects, status.due_objects) == (0, 0, 0)
    assert watch.digests == []


@pytest.mark.trio
@pytest.mark.parametrize("each", [SMALL, LARGE], ids=["small", "large"])
async def test_an_object_deleted_while_it_is_verified_is_not_held_against_anything(
    place, clock, watch, autojump_clock, each
):
    async def delete():
        await backend.delete(place.name_of(each), None)

    async with place.opened() as backend:
        await fill(place, backend, clock, [each])
        await backend.start_scrub()
        watch.before = delete
        await backend._scrub._pass()
        assert (await backend.scrub_status()).quarantined == 0
        assert await backend.stat([place.name_of(each)]) == ()
        assert (await backend.health()).writable


@pytest.mark.trio
@pytest.mark.parametrize("each", [SMALL, LARGE], ids=["small", "large"])
async def test_a_bad_copy_healed_while_it_is_verified_is_not_held_against_the_new_one(
    place, clock, watch, autojump_clock, each
):
    async def heal():
        assert (await place.ingest(backend, each)).outcome == "healed"

    async with place.opened(max_verify_age_s=0) as backend:
        await fill(place, backend, clock, [each])
        if each is SMALL:
            await place.rot_small(backend, each)
        else:
            place.rot(backend, each)
        await backend.start_scrub()
        watch.before = heal
        await backend._scrub._pass()
        assert await place.state(backend, each) == "ok"
        assert (await backend.scrub_status()).quarantined == 0
        assert await place.read(backend, each) == each


# The catalog.


@pytest.mark.trio
async def test_the_catalog_is_checked_when_objects_would_be_due(place, clock, autojump_clock):
    async with place.opened(scrub_interval_s=DAY_S) as backend:
        catalog = backend._store.catalog
        checks = []
        check = catalog.check
        catalog.check = lambda: checks.append(1) or check()
        await backend._scrub._pass()
        assert catalog.scrub_record().catalog_checked_at_ms == clock.now_ms
        await backend._scrub._pass()
        assert len(checks) == 1
        clock.pass_s(DAY_S + 1)
        await backend._scrub._pass()
        assert len(checks) == 2
        await backend.start_scrub()
        await backend._scrub._pass()
        assert len(checks) == 3


@pytest.mark.trio
async def test_a_damaged_catalog_makes_the_store_read_only(place, clock, autojump_clock):
    async with place.opened() as backend:
        await fill(place, backend, clock, [SMALL, LARGE])
        await backend.start_scrub()
        backend._store.catalog.check = lambda: "row 7 missing from index"
        await backend._scrub._pass()
        health = await backend.health()
        reason = "read-only since the catalog is damaged: row 7 missing from index"
        assert (health.state, health.writable, health.message) == ("degraded", False, reason)
        with pytest.raises(UnavailableError, match=reason):
            await place.ingest(backend, b"new")
        for each in (SMALL, LARGE):
            assert await place.read(backend, each) == each
        assert backend._store.catalog.scrub_record().catalog_checked_at_ms == 0


# What goes wrong.


@pytest.mark.trio
@pytest.mark.parametrize("read", ["scrub_record", "due"])
@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), sqlite3.OperationalError("bad"), UnavailableError("gone")]
)
async def test_a_failure_does_not_end_it(place, clock, watch, autojump_clock, error, read):
    async with place.opened() as backend:
        await fill(place, backend, clock, [SMALL])
        await backend.start_scrub()
        catalog = backend._store.catalog
        works = getattr(catalog, read)

        def fail(*_):
            setattr(catalog, read, works)
            raise error

        setattr(catalog, read, fail)
        with structlog.testing.capture_logs() as logs:
            async with scrubbing(backend):
                await watch.saw(1)
        assert watch.times[0] >= 60.0
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["scrub_failed"]


@pytest.mark.trio
@pytest.mark.parametrize("was_paused", [True, False])
async def test_what_a_caller_says_while_it_starts_is_heard(
    place, clock, watch, autojump_clock, was_paused
):
    async with place.opened() as backend:
        await fill(place, backend, clock, [SMALL])
        await backend.start_scrub()
        if was_paused:
            await backend.pause_scrub()
        store = backend._store
        run, has_read, has_told = store.run, trio.Event(), trio.Event()

        async def run_slowly(work):
            found = await run(work)
            if work == store.catalog.scrub_record and not has_read.is_set():
                has_read.set()
                await has_told.wait()
            return found

        store.run = run_slowly
        async with scrubbing(backend):
            await has_read.wait()
            await (backend.start_scrub() if was_paused else backend.pause_scrub())
            has_told.set()
            if was_paused:
                await watch.saw(1)
            else:
                await trio.sleep(1000)
    assert bool(watch.times) == was_paused


@pytest.mark.trio
@pytest.mark.parametrize("each", [SMALL, LARGE], ids=["small", "large"])
async def test_a_pass_of_which_nothing_can_be_noted_ends(place, clock, watch, autojump_clock, each):
    async with place.opened() as backend:
        await backend._scrub._pass()  # the catalog
        await fill(place, backend, clock, [each])
        await place.execute(backend, "UPDATE objects SET verified_at_ms = 0")

        async def no_room(_):
            raise NoSpaceError("no room")

        backend._store.commit = no_room
        await backend._scrub._pass()
        assert (await backend.scrub_status()).due_objects == 1
    assert len(watch.digests) == 1


@pytest.mark.trio
async def test_a_store_that_takes_no_writes_is_not_scrubbed(place, clock, watch, autojump_clock):
    async with place.opened() as backend:
        await fill(place, backend, clock, [SMALL])
        await backend.start_scrub()
        backend._store.stop_writing("the test asked for it")
        await backend._scrub._pass()
    assert watch.digests == []


# Its status.


@pytest.mark.trio
async def test_the_status_of_an_empty_store_is_idle(place, clock):
    async with place.opened() as backend:
        status = await backend.scrub_status()
    assert (status.backend_id, status.state) == ("b", ScrubState.IDLE)
    assert (status.due_objects, status.due_bytes, status.quarantined) == (0, 0, 0)
    assert status.oldest_verification is None


@pytest.mark.trio
async def test_the_status_names_the_longest_unverified(place, clock):
    async with place.opened() as backend:
        first_ms = clock.now_ms
        await fill(place, backend, clock, [SMALL, LARGE])
        oldest = (await backend.scrub_status()).oldest_verification
        assert oldest is not None
        assert int(oldest.timestamp() * 1000) == first_ms
