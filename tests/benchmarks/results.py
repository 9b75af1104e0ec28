"""Figures of a run: medians, ratios, and what was wanted of them, as JSON and as Markdown."""

import json
import operator
import os
import platform
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

_OURS: Final = "dataplaned"


@dataclass(slots=True)
class Cell:
    """What one contestant did in one row, a value for each round.

    Attributes:
        rate: Bytes, calls or objects a second.
        cpu: CPU seconds of the server, for a GiB or a call.
        client_cpu: Likewise of the clients.
        peak_mib: The most memory of the server.
    """

    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    client_cpu: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)

    def median(self, name: str) -> float | None:
        """Give the median of one kind of figure, if there are any."""
        values: list[float] = getattr(self, name)
        return statistics.median(values) if values else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A ratio of medians that has a limit."""

    text: str
    row: str
    of: str
    other_row: str
    other: str
    at_least: float


WANTED: Final = (
    Wanted("ingest 1 GiB, of SHA-256, one thread", "1 GiB ingest", _OURS, "sha256", "limit", 0.60),
    Wanted("ingest 1 GiB, of containerd", "1 GiB ingest", _OURS, "1 GiB ingest", "containerd", 3),
    Wanted("serve 1 GiB, of sendfile", "1 GiB serve", _OURS, "sendfile", "limit", 0.50),
    Wanted("serve 1 GiB, of containerd", "1 GiB serve", _OURS, "1 GiB serve", "containerd", 2),
    Wanted(
        "serve 1 GiB by descriptor, of opening the file",
        "1 GiB serve",
        "dataplaned by descriptor",
        "direct read",
        "limit",
        0.90,
    ),
    Wanted(
        "4 KiB ranges, 8 clients, of echo",
        "4 KiB ranges, 8",
        _OURS,
        "4 KiB objects, stat, 8",
        "echo",
        0.60,
    ),
    Wanted(
        "4 KiB ranges, 8 clients, of containerd",
        "4 KiB ranges, 8",
        _OURS,
        "4 KiB ranges, 8",
        "containerd",
        1.5,
    ),
    Wanted(
        "stat, 8 clients, of echo",
        "4 KiB objects, stat, 8",
        _OURS,
        "4 KiB objects, stat, 8",
        "echo",
        0.70,
    ),
    Wanted(
        "ingest of 4 KiB, 32 clients, of one file each",
        "4 KiB objects, ingest, 32",
        _OURS,
        "one file each",
        "limit",
        3,
    ),
    Wanted(
        "ingest of 4 KiB, 32 clients, of containerd",
        "4 KiB objects, ingest, 32",
        _OURS,
        "4 KiB objects, ingest, 32",
        "containerd",
        3,
    ),
    Wanted(
        "ingest of 4 KiB, 1 client, of one SQLite commit each",
        "4 KiB objects, ingest, 1",
        _OURS,
        "one SQLite commit each",
        "limit",
        0.8,
    ),
    Wanted(
        "delete, 32 clients, of ingest",
        "4 KiB objects, delete, 32",
        _OURS,
        "4 KiB objects, ingest, 32",
        _OURS,
        1,
    ),
)

#: CPU seconds of the daemon for a GiB of ingest, and its memory in any row, at most.
MOST_CPU_S: Final = 2.0
MOST_MIB: Final = 150


@dataclass(slots=True)
class Results:
    """All figures of a run, by row and contestant."""

    rows: dict[str, dict[str, Cell]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, row: str, contestant: str, **figures: float) -> None:
        """Add a round's figures."""
        cell = self.rows.setdefault(row, {}).setdefault(contestant, Cell())
        for name, value in figures.items():
            getattr(cell, name).append(value)

    def median(self, row: str, contestant: str, name: str = "rate") -> float | None:
        """Give a median; `None` where there is no figure."""
        cell = self.rows.get(row, {}).get(contestant)
        return None if cell is None else cell.median(name)

    def judged(self) -> Iterator[tuple[str, float | None, float, Callable[[float, float], bool]]]:
        """Give what was wanted: the text, the figure, the limit, and how they have to compare."""
        for each in WANTED:
            upper = self.median(each.row, each.of)
            lower = self.median(each.other_row, each.other)
            ratio = None if upper is None or lower is None else upper / lower
            yield each.text, ratio, each.at_least, operator.ge
        cpu = self.median("1 GiB ingest", _OURS, "cpu")
        yield "CPU seconds of the daemon for a GiB of ingest", cpu, MOST_CPU_S, operator.le
        peaks = [cells[_OURS].median("peak_mib") for cells in self.rows.values() if _OURS in cells]
        peak = max((value for value in peaks if value is not None), default=None)
        yield "MiB of the daemon's memory, the most in any row", peak, MOST_MIB, operator.lt

    def to_json(self) -> str:
        """Give all figures."""
        return json.dumps(
            {
                "machine": machine(),
                "rows": {
                    row: {name: asdict(cell) for name, cell in cells.items()}
                    for row, cells in self.rows.items()
                },
                "judged": [
                    {"what": text, "measured": figure, "limit": limit}
                    for text, figure, limit, _ in self.judged()
                ],
                "skipped": self.skipped,
            },
            indent=1,
        )

    def to_markdown(self) -> str:
        """Give the tables."""
        return "\n\n".join([f"Measured: {machine()}.", self._judgement(), *self._tables()]) + "\n"

    def _judgement(self) -> str:
        lines = ["| | measured | wanted | |", "| --- | ---: | ---: | --- |"]
        for text, figure, limit, compare in self.judged():
            sign = "at least" if compare is operator.ge else "at most"
            shown = "-" if figure is None else f"{figure:.2f}"
            verdict = "" if figure is None else "yes" if compare(figure, limit) else "no"
            lines.append(f"| {text} | {shown} | {sign} {limit:g} | {verdict} |")
        return "\n".join(lines)

    def _tables(self) -> Iterator[str]:
        contestants = list(dict.fromkeys(name for cells in self.rows.values() for name in cells))
        others = [name for name in contestants if name != "limit"]
        lines = ["| limit | |", "| --- | ---: |"]
        for row, cells in self.rows.items():
            if "limit" in cells:
                lines.append(f"| {row} | {shown(row, cells['limit'].median('rate'))} |")
        yield "\n".join(lines)
        for name, title in (
            ("rate", "rate"),
            ("cpu", "CPU of the server: seconds for a GiB, or microseconds for a call"),
            ("client_cpu", "CPU of the clients, likewise"),
            ("peak_mib", "memory of the server, MiB"),
        ):
            lines = [f"| {title} | {' | '.join(others)} |", f"| --- |{' ---: |' * len(others)}"]
            for row, cells in self.rows.items():
                if "limit" in cells or not any(cell.median(name) for cell in cells.values()):
                    continue
                values = [cells[other].median(name) if other in cells else None for other in others]
                figures = [shown(row, value, name) for value in values]
                lines.append(f"| {row} | {' | '.join(figures)} |")
            yield "\n".join(lines)


def shown(row: str, value: float | None, name: str = "rate") -> str:
    """Give a figure as a table has it."""
    if value is None:
        return "-"
    if name == "rate":
        return f"{value / 1e9:.2f} GB/s" if value > 1e7 else f"{value:,.0f}/s"
    if name in ("cpu", "client_cpu") and not row.startswith("1 GiB"):
        return f"{value * 1e6:.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def machine() -> str:
    """Say in a line when and where."""
    with open("/proc/meminfo") as file:
        memory: Any = int(file.readline().split()[1]) // 2**20
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )
