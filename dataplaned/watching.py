"""What is told of the daemon to whoever watches it: by its own operations, and over HTTP."""

import os
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final, TypeAlias

import trio

from dataplane_protocol import BackendState, UnavailableError

from . import __version__
from .metrics import CallMeasures, Histogram, store_measures
from .metrics.endpoint import Answer, Page
from .metrics.figures import BackendFigures, Figures, LimiterFigures
from .metrics.measures import DISK_SECONDS
from .metrics.page import render
from .probing import Finding, Probes
from .reports import (
    CONNECTIONS,
    MAX_CONNECTIONS,
    METRICS,
    METRICS_CHUNK,
    STATUS,
    BackendReport,
    ConnectionPage,
    DaemonReport,
    MetricsPiece,
    PageArguments,
)
from .roster import Roster
from .telemetry import Audit, lines_lost
from .threads import limiters

_Arguments: TypeAlias = Mapping[str, object]
_Result: TypeAlias = Mapping[str, object]

#: Seconds between two looks at how late the event loop is.
_LAG_INTERVAL_S: Final = 0.1

#: Pages of metrics that are kept for whoever reads them piece by piece.
_KEPT_PAGES: Final = 4


class Watching:
    """Answers of the daemon about itself.

    Args:
        probes: Of the backends.
        roster: Who is connected.
        sockets: Names of the sockets that callers come by.
        calls: What was counted of calls.
        audit: Whose losses are told.
    """

    def __init__(
        self,
        probes: Probes,
        roster: Roster,
        sockets: Sequence[str],
        calls: CallMeasures,
        audit: Audit,
    ) -> None:
        self._probes = probes
        self._roster = roster
        self._sockets = sockets
        self._calls = calls
        self._audit = audit
        self._lag = Histogram(DISK_SECONDS)
        self._texts: OrderedDict[int, str] = OrderedDict()
        self._number = 0

    @property
    def operations(self) -> dict[str, Callable[[_Arguments], Awaitable[_Result]]]:
        """Each operation by its name on the wire."""
        return {
            STATUS: self.status,
            CONNECTIONS: self.connections,
            METRICS: self.metrics,
        }

    @property
    def pages(self) -> dict[str, Page]:
        """Each page by its path."""
        return {
            "/metrics": self._metrics_page,
            "/healthz": self._health_page,
            "/readyz": self._readiness_page,
        }

    async def measure_lag(self) -> None:
        """Measure how late the event loop is, until cancelled."""
        while True:
            due = trio.current_time() + _LAG_INTERVAL_S
            await trio.sleep_until(due)
            self._lag.add(max(0.0, trio.current_time() - due))

    async def status(self, args: _Arguments) -> _Result:
        """Describe the daemon as a whole."""
        PageArguments.from_wire(args)
        roster = self._roster
        findings = await self._probes.findings()
        return DaemonReport(
            version=__version__,
            pid=os.getpid(),
            started_at=roster.started_at,
            now=datetime.now(UTC),
            is_draining=roster.is_draining,
            connections=len(roster),
            calls_in_flight=roster.calls_in_flight,
            held_bytes=roster.held_bytes,
            calls_total=roster.calls_total,
            errors_total=roster.errors_total,
            received_bytes_total=roster.received_bytes_total,
            sent_bytes_total=roster.sent_bytes_total,
            audit_lost=self._audit.lost,
            backends=tuple(map(_report, findings.values())),
        ).to_wire()

    async def connections(self, args: _Arguments) -> _Result:
        """Give a page of the connections."""
        after = PageArguments.from_wire(args).after
        following = (each for each in self._roster.connections() if each.number > after)
        page = tuple(islice(following, MAX_CONNECTIONS + 1))
        return ConnectionPage(
            connections=page[:MAX_CONNECTIONS], more=len(page) > MAX_CONNECTIONS
        ).to_wire()

    async def metrics(self, args: _Arguments) -> _Result:
        """Give a piece of the page of metrics.

        Raises:
            UnavailableError: The page that is gone on with is no longer kept.
        """
        arguments = PageArguments.from_wire(args)
        number = arguments.of
        if number is None:
            number = self._number = self._number + 1
            page, _ = render(await self._figures())
            self._texts[number] = page.decode()
            if len(self._texts) > _KEPT_PAGES:
                self._texts.popitem(last=False)
        text = self._texts.get(number)
        if text is None:
            raise UnavailableError("this page of metrics is no longer kept", retry=True)
        end = arguments.after + METRICS_CHUNK
        return MetricsPiece(
            text=text[arguments.after : end], of=number, more=end < len(text)
        ).to_wire()

    async def _metrics_page(self, accept: str) -> Answer:
        body, content_type = render(await self._figures(), accept)
        return Answer(status=200, body=body, content_type=content_type)

    async def _health_page(self, _accept: str) -> Answer:
        return Answer(status=200, body=b"ok\n")

    async def _readiness_page(self, _accept: str) -> Answer:
        if self._roster.is_draining:
            return Answer(status=503, body=b"stopping\n")
        findings = await self._probes.findings()
        unwell = [
            f"backend {each}: {finding.status.state}: {finding.status.message}\n"
            for each, finding in findings.items()
            if not finding.status.healthy
        ]
        if unwell:
            return Answer(status=503, body="".join(unwell).encode())
        return Answer(status=200, body=b"ok\n")

    async def _figures(self) -> Figures:
        findings = await self._probes.findings()
        roster = self._roster
        open_ones = roster.connections()
        return Figures(
            version=__version__,
            started_at=roster.started_at.timestamp(),
            is_draining=roster.is_draining,
            connections=dict.fromkeys(self._sockets, 0)
            | Counter(each.socket for each in open_ones),
            in_flight=dict.fromkeys(self._calls.seconds, 0)
            | Counter(each.op for each in open_ones if each.op is not None),
            held_bytes=roster.held_bytes,
            calls=self._calls,
            backends={each: _figures(finding) for each, finding in findings.items()},
            limiters={
                name: [
                    LimiterFigures(
                        total=int(each.total_tokens),
                        borrowed=each.borrowed_tokens,
                        waiting=each.statistics().tasks_waiting,
                    )
                    for each in several
                ]
                for name, several in limiters().items()
            },
            loop_lag=self._lag,
            audit_lost=self._audit.lost,
            log_lost=lines_lost(),
        )


def _report(finding: Finding) -> BackendReport:
    status, scrub = finding.status, finding.scrub
    stored = finding.figures.get("stored_bytes")
    return BackendReport(
        backend_id=status.backend_id,
        state=str(status.state),
        writable=status.writable,
        message=status.message,
        free_bytes=status.free_bytes,
        total_bytes=status.total_bytes,
        objects=status.object_count,
        stored_bytes=None if stored is None else int(stored),
        scrub=None if scrub is None else str(scrub.state),
        due_objects=None if scrub is None else scrub.due_objects,
        due_bytes=None if scrub is None else scrub.due_bytes,
        oldest_verification=None if scrub is None else scrub.oldest_verification,
        rotten_objects=None if scrub is None else scrub.rotten_objects,
        quarantined=None if scrub is None else scrub.quarantined,
    )


def _figures(finding: Finding) -> BackendFigures:
    status, scrub = finding.status, finding.scrub
    of_scrub: dict[str, float] = {}
    if scrub is not None:
        of_scrub = {
            "due_objects": scrub.due_objects,
            "due_bytes": scrub.due_bytes,
            "verified_objects": scrub.verified_objects,
            "verified_bytes": scrub.verified_bytes,
            "rotten_objects": scrub.rotten_objects,
            "quarantined_copies": scrub.quarantined,
        }
        if scrub.oldest_verification is not None:
            of_scrub["oldest_verification_timestamp_seconds"] = (
                scrub.oldest_verification.timestamp()
            )
    return BackendFigures(
        is_up=status.state != BackendState.DOWN,
        is_writable=status.writable,
        free_bytes=status.free_bytes,
        total_bytes=status.total_bytes,
        objects=status.object_count,
        store=None if scrub is None else store_measures(status.backend_id),
        more=finding.figures,
        scrub=of_scrub,
    )
