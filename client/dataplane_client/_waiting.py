"""The one thing in which the async and the blocking client differ: how they wait.

Everything else is written once, as coroutines over a `Waiting`. On an event loop they
suspend (`_anyio.py`). In a plain thread every wait blocks instead, so that the coroutines
never suspend and are driven to their end by a single step (`_threads.py`).
"""

import socket
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Turn(Protocol):
    """The place of one waiter in a queue."""

    async def wait(self) -> None:
        """Return once `grant` was called; one waiter waits for it, once."""
        ...

    def grant(self) -> None:
        """Let the waiter go on. Called in the thread that its waiter's queue is used in."""
        ...

    def soon(self, callback: Callable[[], object]) -> None:
        """Have `callback` called where `grant` may be, soon.

        May itself be called anywhere, also by a finalizer in the middle of anything.
        """
        ...


class Waiting(Protocol):
    """A way of waiting.

    Attributes:
        stall_timeout: Seconds without progress after which `readable` and `writable` raise;
            infinite where callers bring their own deadlines.
    """

    @property
    def stall_timeout(self) -> float: ...

    async def check_cancelled(self) -> None:
        """Raise if the caller was cancelled; let nobody else run."""
        ...

    async def step_aside(self) -> None:
        """Let others run; never raise."""
        ...

    async def readable(self, source: socket.socket, *, is_patient: bool) -> None:
        """Wait until bytes, the end or an error can be read.

        Args:
            source: A connected socket.
            is_patient: Whether the peer may take as long as it likes.

        Raises:
            UnavailableError: The peer made no progress for `stall_timeout`.
        """
        ...

    async def writable(self, source: socket.socket) -> None:
        """Wait until the peer takes bytes, or until the connection breaks.

        Raises:
            UnavailableError: The peer made no progress for `stall_timeout`.
        """
        ...

    async def pause(self, seconds: float) -> None:
        """Wait for that long."""
        ...

    def turn(self) -> Turn:
        """Give a place for the caller to wait at."""
        ...

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call something that may wait for a disk, without making others wait."""
        ...
