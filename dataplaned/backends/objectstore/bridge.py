"""Asyncio-only code under trio: one asyncio event loop in a thread, and calls over to it.

A cancelled call ends what it had started over there, an HTTP request with its connection for
one, and waits until that has ended. A worker thread could do neither.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Bridge:
    """The thread and its event loop. Made and closed on trio's loop."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        """Await what a function gives, over there.

        Raises:
            TimeoutError: It took too long, and was ended.
        """
        return await self.start(function, timeout_s).result()

    def start(self, function: Callable[[], Awaitable[T]], timeout_s: float) -> "Call[T]":
        """Begin what `call` does. Whoever starts one asks for its result, or cancels it."""
        return Call(self._loop, function, timeout_s)

    async def aclose(self) -> None:
        """End the thread, and what still runs there."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)

    def _run(self) -> None:
        loop = self._loop
        loop.run_forever()
        loop.run_until_complete(_end_others())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _end_others() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Call(Generic[T]):
    """Something under way over there."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[[], Awaitable[T]],
        timeout_s: float,
    ) -> None:
        self._loop = loop
        self._function = function
        self._timeout_s = timeout_s
        self._task: asyncio.Task[T] | None = None
        self._done = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        loop.call_soon_threadsafe(self._begin)

    async def result(self) -> T:
        """Wait for the end; a cancellation is passed on, and waits until it has been obeyed."""
        try:
            await self._done.wait()
        except trio.Cancelled:
            self.cancel()
            with trio.CancelScope(shield=True):
                await self._done.wait()
            raise
        assert self._task is not None
        return self._task.result()

    def cancel(self) -> None:
        """End it, soon. Does nothing to what has ended."""
        with suppress(RuntimeError):  # the loop is closed, and everything on it has ended
            self._loop.call_soon_threadsafe(self._end)

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._note_end)

    async def _run(self) -> T:
        async with asyncio.timeout(self._timeout_s):
            return await self._function()

    def _end(self) -> None:
        assert self._task is not None  # `_begin` was queued first
        self._task.cancel()

    def _note_end(self, task: "asyncio.Task[T]") -> None:
        if not task.cancelled():
            task.exception()  # seen: nobody may ask for it any more
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._done.set)
