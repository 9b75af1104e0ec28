"""`dataplaned status` and `dataplaned backends`: how the daemon is, on one screen."""

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from .exits import ExitCode, complain, explain, printable
from .options import json_option, open_client, socket_option
from .output import emit, emit_json, format_size, format_time, is_terminal

if TYPE_CHECKING:
    from ..reports import BackendReport, DaemonReport


@click.command()
@click.option(
    "--watch",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1, max=3600),
    is_flag=False,
    flag_value=2.0,
    help="Tell again every so many seconds, 2 without a number, until ^C.",
)
@socket_option
@json_option
def status(watch: float | None, socket_path: str | None, as_json: bool) -> int:
    """Tell how the daemon is: callers, calls, rates, backends, scrub and quarantine.

    Rates are those since the start, or, with --watch, since the last time. A daemon that goes
    away is waited for then.
    """
    if watch is None:
        report = _ask(socket_path)
        _tell(report, None, as_json)
        return ExitCode.OK
    try:
        _watch(socket_path, watch, as_json)
    except KeyboardInterrupt:
        return ExitCode.OK
    return ExitCode.OK


@click.command()
@socket_option
@json_option
def backends(socket_path: str | None, as_json: bool) -> int:
    """List the backends: state, objects, space, scrub and quarantine.

    What a mirror is made of is listed too. The daemon's last probe is told, which is some
    seconds old at most; `dataplaned health` has them probed now.
    """
    report = _ask(socket_path)
    if as_json:
        for backend in report.backends:
            emit_json(_backend_record(backend))
    else:
        emit("\n".join(_backend_lines(report.backends)))
    return ExitCode.OK


def _ask(socket_path: str | None) -> "DaemonReport":
    from .reports import ask_status

    with open_client(socket_path) as client:
        return ask_status(client)


def _watch(socket_path: str | None, interval: float, as_json: bool) -> None:
    import sys

    if as_json or not is_terminal(sys.stdout):
        for text, report, before in _reports(socket_path, interval):
            if report is None:
                complain(text)
            else:
                _tell(report, before, as_json)
        return
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False, screen=True) as live:
        for text, report, before in _reports(socket_path, interval):
            shown = text if report is None else "\n".join(status_lines(report, before))
            live.update(Text(shown), refresh=True)


def _reports(
    socket_path: str | None, interval: float
) -> Iterator[tuple[str, "DaemonReport | None", "DaemonReport | None"]]:
    """Give a report after the other, with the one before; or what is wrong."""
    from dataplane_protocol import DataPlaneError

    before: DaemonReport | None = None
    away_since = ""
    while True:
        try:
            report = _ask(socket_path)
        except DataPlaneError as error:
            away_since = away_since or time.strftime("%H:%M:%S")
            yield f"not reachable since {away_since}: {explain(error)}", None, None
            before = None
        else:
            away_since = ""
            yield "", report, before
            before = report
        time.sleep(interval)


def _tell(report: "DaemonReport", before: "DaemonReport | None", as_json: bool) -> None:
    if as_json:
        emit_json(_record(report))
    else:
        emit("\n".join([*status_lines(report, before), ""] if before else status_lines(report)))


def status_lines(report: "DaemonReport", before: "DaemonReport | None" = None) -> list[str]:
    """Give a report for people, with rates since the one before, or since the start."""
    if before is not None and before.started_at != report.started_at:
        before = None  # another run
    rates = _Rates(report, before)
    up = timedelta(seconds=int((report.now - report.started_at).total_seconds()))
    state = ", stopping" if report.is_draining else ""
    facts = {
        "connections": str(report.connections),
        "calls": f"{report.calls_in_flight} open, {rates.count('calls_total')}",
        "errors": rates.count("errors_total"),
        "received": rates.size("received_bytes_total"),
        "sent": rates.size("sent_bytes_total"),
        "held": f"{format_size(report.held_bytes)} of bodies",
        "audit": f"{report.audit_lost} records lost" if report.audit_lost else None,
    }
    return [
        f"dataplaned {printable(report.version)}, process {report.pid}, up {up}{state}",
        *(f"  {name:<11}  {fact}" for name, fact in facts.items() if fact is not None),
        *_backend_lines(report.backends),
    ]


class _Rates:
    """Totals of a report by seconds."""

    def __init__(self, report: "DaemonReport", before: "DaemonReport | None") -> None:
        since = report.started_at if before is None else before.now
        self._seconds = max((report.now - since).total_seconds(), 0.001)
        self._report = report
        self._before = before

    def count(self, name: str) -> str:
        """Give a number and its rate."""
        total, rate = self._of(name)
        return f"{total}, {rate:.1f}/s"

    def size(self, name: str) -> str:
        """Give bytes and their rate."""
        total, rate = self._of(name)
        return f"{format_size(total)}, {format_size(int(rate))}/s"

    def _of(self, name: str) -> tuple[int, float]:
        total: int = getattr(self._report, name)
        start: int = 0 if self._before is None else getattr(self._before, name)
        return total, max(0.0, (total - start) / self._seconds)


def _backend_lines(reports: "Sequence[BackendReport]") -> list[str]:
    header = ("BACKEND", "STATE", "OBJECTS", "STORED", "FREE", "SCRUB", "DUE", "QUARANTINED")
    rows = [header, *map(_backend_row, reports)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    messages = [
        f"{printable(each.backend_id)}: {printable(each.message)}"
        for each in reports
        if each.message is not None
    ]
    return lines + messages


def _backend_row(report: "BackendReport") -> tuple[str, ...]:
    state = printable(report.state) + ("" if report.writable else ", no writes")
    free = _shown(report.free_bytes, format_size)
    if report.free_bytes is not None and report.total_bytes is not None:
        free = f"{free} of {format_size(report.total_bytes)}"
    return (
        printable(report.backend_id),
        state,
        _shown(report.objects),
        _shown(report.stored_bytes, format_size),
        free,
        "-" if report.scrub is None else printable(report.scrub),
        _shown(report.due_objects),
        _shown(report.quarantined),
    )


def _shown(value: int | None, form: Any = str) -> str:
    return "-" if value is None else str(form(value))


def _backend_record(report: "BackendReport") -> dict[str, object]:
    return {
        "backend_id": report.backend_id,
        "state": report.state,
        "writable": report.writable,
        "message": report.message,
        "free_bytes": report.free_bytes,
        "total_bytes": report.total_bytes,
        "objects": report.objects,
        "stored_bytes": report.stored_bytes,
        "scrub": report.scrub,
        "due_objects": report.due_objects,
        "due_bytes": report.due_bytes,
        "oldest_verification": format_time(report.oldest_verification),
        "rotten_objects": report.rotten_objects,
        "quarantined": report.quarantined,
    }


def _record(report: "DaemonReport") -> dict[str, object]:
    return {
        "version": report.version,
        "pid": report.pid,
        "started_at": format_time(report.started_at),
        "now": format_time(report.now),
        "is_draining": report.is_draining,
        "connections": report.connections,
        "calls_in_flight": report.calls_in_flight,
        "held_bytes": report.held_bytes,
        "calls_total": report.calls_total,
        "errors_total": report.errors_total,
        "received_bytes_total": report.received_bytes_total,
        "sent_bytes_total": report.sent_bytes_total,
        "audit_lost": report.audit_lost,
        "backends": [_backend_record(backend) for backend in report.backends],
    }
