"""Worker threads, with a limiter for each purpose, and what comes back from them.

One limiter for everything would let the slowest purpose starve the others: trio's default
has 40 tokens, and 40 reads from a stuck disk hold them all, also after they were abandoned.
"""

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar, cast
from weakref import WeakSet

import structlog
import trio

T = TypeVar("T")

_log = structlog.get_logger(__name__)

#: Threads that hash for ingests. More than the cores only adds waiting.
HASH_THREADS: Final = 8

#: Large bodies, of either direction, that threads of their own look after at a time.
LARGE_BODIES: Final = 6

#: Threads of one backend that wait for its disk.
DISK_THREADS: Final = 32


_limiters: Final[dict[str, WeakSet[trio.CapacityLimiter]]] = {}


def make_limiter(purpose: str, threads: int) -> trio.CapacityLimiter:
    """Make a limiter that is known by what it is for."""
    limiter = trio.CapacityLimiter(threads)
    _limiters.setdefault(purpose, WeakSet()).add(limiter)
    return limiter


def limiters() -> dict[str, list[trio.CapacityLimiter]]:
    """Give every limiter that is in use, by what it is for."""
    return {purpose: list(several) for purpose, several in _limiters.items()}


async def run_in_thread(function: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    """Run a blocking function to its end. A cancellation waits for it."""
    return await trio.to_thread.run_sync(function, limiter=limiter)


async def to_the_end(operation: Callable[[], Awaitable[T]]) -> T:
    """Do what must not stop half-way. A cancellation waits for it."""
    results: list[T] = []
    with trio.CancelScope(shield=True):
        results.append(await operation())
    return results[0]


async def wait_for(future: "Future[T]") -> T:
    """Give what another thread puts into a future. A cancellation waits for it."""
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()
    future.add_done_callback(lambda _: token.run_sync_soon(done.set))
    with trio.CancelScope(shield=True):
        await done.wait()
    return future.result()


class Mailbox:
    """Calls from other threads, made on the event loop in the order in which they came.

    The loop is woken once for all that come while it is busy, and not once for each.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._is_announced = False
        self._token: trio.lowlevel.TrioToken | None = None

    def open(self) -> None:
        """Have the calls made on the event loop that this is called on."""
        self._token = trio.lowlevel.current_trio_token()

    def post(self, function: Callable[[T], object], argument: T) -> None:
        """Have a function called; not at all once the loop has ended. What it raises is logged."""
        self._calls.append((function, argument))
        # In this order, and the other way round in `_empty`, so that no call is left behind.
        if not self._is_announced and self._token is not None:
            self._is_announced = True
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._empty)

    def _empty(self) -> None:
        self._is_announced = False
        while self._calls:
            function, argument = self._calls.popleft()
            try:
                function(argument)
            except Exception as exc:  # noqa: BLE001 - it would end the event loop
                _log.error("posted_call_failed", exc_info=exc)


@asynccontextmanager
async def open_plain_nursery() -> AsyncGenerator[trio.Nursery]:
    """Open a nursery that raises an error itself and not a group around it.

    A group is what callers of a data plane cannot be asked to catch. When several tasks fail
    at once the first error is raised, with a note of the others.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        errors = [error for error in _leaves(group) if not isinstance(error, trio.Cancelled)]
        if not errors or not all(isinstance(error, Exception) for error in errors):
            raise
        first, *others = errors
        for other in others:
            first.add_note(f"at the same time: {other!r}")
        raise first from first.__cause__


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error
