"""Whether an engine is asked at all: after failures in a row it is left alone for a while.

Callers then get their error at once and not after a timeout each, and an engine that comes
back is not met by all of them.
"""

import math
from collections.abc import Callable
from typing import Final

from dataplane_protocol import BackendState

#: Failures in a row after which the engine counts as down.
_PATIENCE: Final = 5

#: Seconds for which it is left alone, at first and at most.
_SHORTEST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0

#: Seconds for which a failure makes the state `degraded`.
_MEMORY: Final = 60.0


class Circuit:
    """Failures of one engine. Used by one thread.

    Args:
        clock: Gives seconds, never fewer than before.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._last_failure = -math.inf
        self._open_until = -math.inf
        self._pause = _SHORTEST_PAUSE
        self.reason: str | None = None

    @property
    def state(self) -> BackendState:
        """`down` while the engine is left alone or failed when it was last asked."""
        if self._failures >= _PATIENCE:
            return BackendState.DOWN
        if self._clock() - self._last_failure < _MEMORY:
            return BackendState.DEGRADED
        return BackendState.OK

    def lets_through(self) -> bool:
        """Whether a request may be made now; of a pause that has ended, one finds out."""
        if self._failures < _PATIENCE:
            return True
        now = self._clock()
        if now < self._open_until:
            return False
        self._open_until = now + self._pause
        return True

    def note_success(self) -> None:
        """Close it."""
        self._failures = 0
        self._pause = _SHORTEST_PAUSE

    def note_failure(self, reason: str) -> None:
        """Count a request that the engine did not answer, or not as an engine should."""
        self.reason = reason
        self._failures += 1
        self._last_failure = self._clock()
        if self._failures > _PATIENCE:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if self._failures >= _PATIENCE:
            self._open_until = self._last_failure + self._pause
