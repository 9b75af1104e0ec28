"""How the backends are: asked in the background, so that nobody who looks has to wait long.

A probe really writes and reads, and cannot be given up half-way. Each runs in a task of its own,
one of a backend at a time, and what the last one found is kept for a few seconds: whoever asks
often does not keep a disk busy, and a disk that hangs holds up nobody.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from dataplane_protocol import BackendState, BackendStatus, DataPlaneError

from .backends.base import Backend
from .backends.maintenance import Maintained, ScrubStatus

#: Seconds for which what a probe found is good.
_FRESH_S: Final = 5.0

#: Seconds that somebody who asks waits for a probe.
_PATIENCE_S: Final = 2.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the last probe of a backend found.

    Attributes:
        status: Its health.
        scrub: What its scrub does, if it has one.
        figures: See `Backend.figures`.
        at: When that was, of trio's clock.
    """

    status: BackendStatus
    scrub: ScrubStatus | None = None
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    at: float


class Probes:
    """The probes of a daemon's backends, and of what those are made of.

    Args:
        backends: By id; opened and closed by whoever made them.
    """

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = dict(_with_inner(backends.values()))
        self._findings: dict[str, Finding] = {}
        #: When each probe began that has not ended.
        self._pending: dict[str, float] = {}
        self._news = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Do what is asked for, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    def start(self, *, older_than_s: float = 0.0) -> None:
        """Probe every backend that is not being probed, and was not so lately."""
        now = trio.current_time()
        for backend_id, backend in self._backends.items():
            finding = self._findings.get(backend_id)
            is_due = finding is None or now - finding.at >= older_than_s
            if is_due and backend_id not in self._pending and self._nursery is not None:
                self._pending[backend_id] = now
                self._nursery.start_soon(self._probe, backend)

    def hanging(self, longer_than_s: float) -> list[str]:
        """Name the backends whose probes have not ended for so long."""
        now = trio.current_time()
        return [each for each, since in self._pending.items() if now - since >= longer_than_s]

    async def findings(self) -> dict[str, Finding]:
        """Give what is known of every backend, not older than seconds where that can be had.

        One that does not answer is down.
        """
        self.start(older_than_s=_FRESH_S)
        with trio.move_on_after(_PATIENCE_S):
            while self._pending:
                await self._news.wait()
        return {each: self._known(each) for each in self._backends}

    def _known(self, backend_id: str) -> Finding:
        finding = self._findings.get(backend_id)
        if finding is not None and backend_id not in self._pending:
            return finding
        since = self._pending.get(backend_id, trio.current_time())
        waited = trio.current_time() - since
        return _down(backend_id, f"does not answer since {waited:.0f} s", since)

    async def _probe(self, backend: Backend) -> None:
        backend_id = backend.backend_id
        now = trio.current_time()
        try:
            scrub = await backend.scrub_status() if isinstance(backend, Maintained) else None
            finding = Finding(
                status=await backend.health(),
                scrub=scrub,
                figures=await backend.figures(),
                at=now,
            )
        except DataPlaneError as exc:
            finding = _down(backend_id, exc.message, now)
        except Exception as exc:  # noqa: BLE001 - an answer, if a bad one
            _log.error("probe_failed", backend=backend_id, exc_info=exc)
            finding = _down(backend_id, "probe failed", now)
        finally:
            del self._pending[backend_id]
            self._news.set()
            self._news = trio.Event()
        self._findings[backend_id] = finding


def _down(backend_id: str, message: str, at: float) -> Finding:
    status = BackendStatus(
        backend_id=backend_id, state=BackendState.DOWN, writable=False, message=message
    )
    return Finding(status=status, at=at)


def _with_inner(backends: Iterable[Backend]) -> Iterator[tuple[str, Backend]]:
    for backend in backends:
        yield backend.backend_id, backend
        yield from _with_inner(backend.inner)
