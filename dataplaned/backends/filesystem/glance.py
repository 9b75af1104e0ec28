"""A look at the disk that takes a moment or is given up.

What is in the kernel's cache is read faster than a task can be put to sleep and woken. So the
event loop lends a thread its own time, a very short one: if the answer is not there by then,
the disk is at work, and the ordinary way waits for it without holding up anybody.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Seconds that the event loop gives a glance: some ten times what one takes without a disk.
_PATIENCE_S: Final = 0.0005

#: Seconds without a glance after one that took too long, and after many in a row: one may
#: have met a busy core, many have met a busy disk.
_FIRST_PAUSE_S: Final = 0.002
_LONGEST_PAUSE_S: Final = 1.0


class _Look:
    """One function to be called, and its result."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.result: Any = None
        self.is_done = threading.Lock()
        self.is_done.acquire()


class Glance:
    """One thread that looks for the event loop."""

    def __init__(self) -> None:
        self._looks: queue.SimpleQueue[_Look | None] = queue.SimpleQueue()
        self._late: _Look | None = None
        self._not_before = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._thread = threading.Thread(target=self._run, name="glance", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; it finishes what it is at."""
        self._looks.put(None)
        self._thread.join()

    def take(self, function: Callable[[], T]) -> tuple[T] | None:
        """Call a function in the thread, if that takes no time.

        Args:
            function: What it gives is dropped if it is late, and so is what it raises.

        Returns:
            The result, in a tuple; `None` when there is none: late, failed, not even tried.
        """
        if self._late is not None and not self._may_try_again(self._late):
            return None
        look = _Look(function)
        self._looks.put(look)
        if look.is_done.acquire(timeout=_PATIENCE_S):
            self._pause_s = _FIRST_PAUSE_S
            result: tuple[T] | None = look.result
            return result
        self._late = look
        self._not_before = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return None

    def _may_try_again(self, late: _Look) -> bool:
        # While the thread is still at it, everything after it would be late too.
        if time.monotonic() < self._not_before or late.is_done.locked():
            return False
        self._late = None
        return True

    def _run(self) -> None:
        while (look := self._looks.get()) is not None:
            try:
                look.result = (look.function(),)
            except Exception:  # noqa: BLE001 - the ordinary way will raise it again
                look.result = None
            finally:
                look.is_done.release()
            del look
