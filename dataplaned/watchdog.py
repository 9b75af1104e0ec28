"""Whether the daemon is well, as systemd is told: its loop turns, and its backends answer."""

from collections.abc import Callable, Mapping
from typing import Final

import structlog
import trio

from .backends.base import Backend
from .systemd import Notifier

#: Seconds between two looks where nobody watches.
_STATUS_INTERVAL_S: Final = 10.0

_log = structlog.get_logger(__name__)


class Watchdog:
    """Feeds systemd's watchdog, and tells it a line of status.

    A backend is asked for its health again and again. One that answers that it is not well is
    no reason to start the daemon again, which would not help it; one that does not answer
    within the watchdog's time is.

    Args:
        notifier: Who is told.
        backends: Who is asked.
        describe: Gives the line of status.
    """

    def __init__(
        self, notifier: Notifier, backends: Mapping[str, Backend], describe: Callable[[], str]
    ) -> None:
        self._notifier = notifier
        self._backends = backends
        self._describe = describe
        #: When each probe began that has not ended.
        self._pending: dict[str, float] = {}
        self._is_well = True

    async def run(self) -> None:
        """Do so until cancelled."""
        watched = self._notifier.watchdog_interval_s
        # Three times within the time, so that a late one is no end.
        interval = _STATUS_INTERVAL_S if watched is None else watched / 3
        async with trio.open_nursery() as nursery:
            while True:
                self._notifier.status(self._describe())
                if watched is not None:
                    self._look(watched)
                    self._start_probes(nursery)
                await trio.sleep(interval)

    def _look(self, watched_s: float) -> None:
        now = trio.current_time()
        hanging = [each for each, since in self._pending.items() if now - since >= watched_s]
        if not hanging:
            self._notifier.watchdog()
        elif self._is_well:
            _log.error("probe_hangs", backends=hanging, seconds=watched_s)
        self._is_well = not hanging

    def _start_probes(self, nursery: trio.Nursery) -> None:
        for backend_id, backend in self._backends.items():
            if backend_id not in self._pending:
                self._pending[backend_id] = trio.current_time()
                nursery.start_soon(self._probe, backend_id, backend)

    async def _probe(self, backend_id: str, backend: Backend) -> None:
        try:
            await backend.health()
        except Exception as exc:  # noqa: BLE001 - an answer, if a bad one
            _log.error("probe_failed", backend=backend_id, exc_info=exc)
        finally:
            del self._pending[backend_id]
