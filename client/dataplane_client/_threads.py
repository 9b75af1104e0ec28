"""Waiting in a plain thread, and running coroutines that therefore never suspend."""

import math
import select
import socket
import time
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any, TypeVar

from dataplane_protocol import UnavailableError

T = TypeVar("T")


class ThreadTurn:
    """A place in a queue, of a thread. `SimpleQueue` is safe in finalizers; locks are not."""

    __slots__ = ("_grants",)

    def __init__(self) -> None:
        self._grants: SimpleQueue[None] = SimpleQueue()

    async def wait(self) -> None:
        """Wait as `Turn.wait` says."""
        self._grants.get()

    def grant(self) -> None:
        """Let the waiting thread go on."""
        self._grants.put(None)

    def soon(self, callback: Callable[[], object]) -> None:
        """Call it at once: threads are woken from anywhere."""
        callback()


class ThreadWaiting:
    """Blocks the calling thread.

    Args:
        stall_timeout: As `Waiting.stall_timeout`.
    """

    def __init__(self, stall_timeout: float) -> None:
        self.stall_timeout = stall_timeout

    async def check_cancelled(self) -> None:
        """Do nothing: threads are not cancelled."""

    async def step_aside(self) -> None:
        """Do nothing: threads run side by side."""

    async def readable(self, source: socket.socket, *, is_patient: bool) -> None:
        """Wait as `Waiting.readable` says."""
        self._poll(source, select.POLLIN, math.inf if is_patient else self.stall_timeout)

    async def writable(self, source: socket.socket) -> None:
        """Wait as `Waiting.writable` says."""
        self._poll(source, select.POLLOUT, self.stall_timeout)

    async def pause(self, seconds: float) -> None:
        """Wait for that long."""
        time.sleep(seconds)  # noqa: ASYNC251  # a thread is meant to block here

    def turn(self) -> ThreadTurn:
        """Give a place for the running thread."""
        return ThreadTurn()

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call it: this thread is meant to wait."""
        return function()

    def _poll(self, source: socket.socket, events: int, timeout: float) -> None:
        poll = select.poll()
        poll.register(source, events)
        if not poll.poll(None if timeout == math.inf else timeout * 1000):
            raise UnavailableError(f"the daemon made no progress for {timeout:g} s")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine whose every wait is a `ThreadWaiting`'s."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine of the blocking client suspended")
