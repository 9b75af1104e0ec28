"""Waiting on an event loop: trio, asyncio, uvloop."""

import math
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
from anyio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint_if_cancelled,
    current_token,
)

T = TypeVar("T")


class AnyioTurn:
    """A place in a queue, of a task."""

    __slots__ = ("_event", "_loop", "_thread")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._loop = current_token().native_token
        self._thread = threading.get_ident()

    async def wait(self) -> None:
        """Wait as `Turn.wait` says."""
        await self._event.wait()

    def grant(self) -> None:
        """Let the waiting task go on, also when it runs on another thread's event loop."""
        if threading.get_ident() == self._thread:
            self._event.set()
        else:
            self.soon(self._event.set)

    def soon(self, callback: Callable[[], object]) -> None:
        """Have the event loop call `callback`.

        anyio's own way into a loop from outside waits for the result, which a finalizer
        must not do. Both loops have one that does not, under different names.
        """
        loop = cast("Any", self._loop)
        call_soon = getattr(loop, "run_sync_soon", None) or loop.call_soon_threadsafe
        # A loop that has ended has no waiters left.
        with suppress(RuntimeError):
            call_soon(callback)


class AnyioWaiting:
    """Waits as long as it takes: tasks have deadlines and are cancelled."""

    stall_timeout = math.inf

    async def check_cancelled(self) -> None:
        """Raise if the task was cancelled."""
        await checkpoint_if_cancelled()

    async def step_aside(self) -> None:
        """Let other tasks run."""
        await cancel_shielded_checkpoint()

    async def readable(self, source: socket.socket, *, is_patient: bool) -> None:  # noqa: ARG002
        """Wait as `Waiting.readable` says; always patient."""
        await anyio.wait_readable(source)

    async def writable(self, source: socket.socket) -> None:
        """Wait as `Waiting.writable` says."""
        await anyio.wait_writable(source)

    async def pause(self, seconds: float) -> None:
        """Wait for that long."""
        await anyio.sleep(seconds)

    def turn(self) -> AnyioTurn:
        """Give a place for the running task."""
        return AnyioTurn()

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call it in a worker thread, and wait for its end even when cancelled."""
        return await anyio.to_thread.run_sync(function)
