import asyncio
import threading

import pytest
import trio

from dataplaned.backends.objectstore.bridge import Bridge

pytestmark = pytest.mark.trio


@pytest.fixture
async def bridge():
    bridge = Bridge("test")
    yield bridge
    await bridge.aclose()


async def give(value):
    await asyncio.sleep(0)
    return value


async def fail():
    await asyncio.sleep(0)
    raise KeyError("no")


class Endless:
    """Waits over there until it is ended, and tells what has happened to it."""

    def __init__(self):
        self.has_begun = threading.Event()
        self.has_ended = threading.Event()

    async def __call__(self):
        self.has_begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            self.has_ended.set()


async def begun(endless):
    assert await trio.to_thread.run_sync(endless.has_begun.wait, 10)


async def test_results_and_errors_come_back(bridge):
    assert await bridge.call(lambda: give(7), 10) == 7
    with pytest.raises(KeyError):
        await bridge.call(fail, 10)


async def test_many_calls_run_at_the_same_time(bridge):
    barrier = asyncio.Barrier(50)

    async def wait_for_the_others():
        await barrier.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(bridge.call, wait_for_the_others, 10)


async def test_a_cancelled_call_has_ended_over_there_when_it_ends_here(bridge):
    endless = Endless()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.call, endless, 3600)
        await begun(endless)
        nursery.cancel_scope.cancel()
    assert endless.has_ended.is_set()


async def test_a_call_that_is_cancelled_at_once_ends_too(bridge):
    with trio.CancelScope() as scope:
        scope.cancel()
        await bridge.call(lambda: give(1), 10)
    assert scope.cancelled_caught


async def test_time_is_limited(bridge):
    endless = Endless()
    with pytest.raises(TimeoutError):
        await bridge.call(endless, 0)
    assert endless.has_ended.is_set() or not endless.has_begun.is_set()


async def test_a_call_nobody_waits_for_can_be_let_go(bridge):
    endless = Endless()
    call = bridge.start(endless, 3600)
    await begun(endless)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.result()
    assert endless.has_ended.is_set()
    call.cancel()


async def test_closing_ends_what_runs():
    bridge = Bridge("test")
    endless = Endless()
    call = bridge.start(endless, 3600)
    await begun(endless)
    await bridge.aclose()
    assert endless.has_ended.is_set()
    call.cancel()
