"""From an empty store to a million small objects: what becomes slower.

A real daemon with its defaults, everything durable. Objects are 4 KiB of random bytes, from 32
clients that cost little. The rate of the ingests at a thousand objects and over parts of the
rest, single stats by the client library at every size, the daemon's memory, and how long a
start takes until it answers.
"""

import os
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from dataplane_client import blocking
from dataplane_protocol import ContentAddress

from . import load
from .daemon import Daemon

CLIENTS: Final = 32
SIZE: Final = 4096

#: Parts that the ingests are measured in, and stats after each of them.
PARTS: Final = 20
STATS: Final = 2000

#: Objects of the smallest store, and how many such stores are measured.
FEW: Final = 1000
SMALL_STORES: Final = 5


@dataclass(frozen=True, slots=True)
class Part:
    """What was measured while and after a part of the objects came in."""

    objects: int
    ingests_per_s: float
    stat_p50_ms: float
    stat_p99_ms: float
    resident_mib: float
    catalog_mib: float


def main(directory: Path, count: int) -> None:
    """Measure, and print a table and the ratios of its last and first lines."""
    print("| objects | ingests/s | stat p50 ms | p99 ms | RSS MiB | catalog MiB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    first = _at_few(directory)
    daemon = Daemon(directory)
    parts: list[Part] = []
    addresses: list[str] = []
    with daemon:
        for number in range(PARTS):
            rate, fresh = _ingest(daemon, count // PARTS)
            # A sample of all that there is, so that stats do not stay on warm pages.
            addresses += random.sample(fresh, min(len(fresh), 5000))
            parts.append(_part(daemon, (number + 1) * (count // PARTS), rate, addresses))
    _print_summary(first, parts, [_start_s(daemon) for _ in range(5)])


def _at_few(directory: Path) -> Part:
    """Measure several small stores; give the medians."""
    parts = []
    for number in range(SMALL_STORES):
        daemon = Daemon(directory / f"small-{number}")
        with daemon:
            rate, addresses = _ingest(daemon, FEW)
            parts.append(_part(daemon, FEW, rate, addresses))
    return Part(
        objects=FEW,
        ingests_per_s=statistics.median(part.ingests_per_s for part in parts),
        stat_p50_ms=statistics.median(part.stat_p50_ms for part in parts),
        stat_p99_ms=statistics.median(part.stat_p99_ms for part in parts),
        resident_mib=max(part.resident_mib for part in parts),
        catalog_mib=parts[0].catalog_mib,
    )


def _ingest(daemon: Daemon, count: int) -> tuple[float, list[str]]:
    """Ingest fresh objects; give the rate, and their addresses."""
    contents = [os.urandom(SIZE) for _ in range(count)]
    addresses = [f"blake3:{blake3(content).hexdigest()}" for content in contents]
    requests = [daemon.ingest(content) for content in contents]
    return load.run(daemon.connection(), requests, CLIENTS).rate, addresses


def _part(daemon: Daemon, objects: int, rate: float, addresses: list[str]) -> Part:
    stats = _stat_times(daemon.socket(), random.choices(addresses, k=STATS))
    part = Part(
        objects=objects,
        ingests_per_s=rate,
        stat_p50_ms=statistics.median(stats) * 1000,
        stat_p99_ms=statistics.quantiles(stats, n=100)[98] * 1000,
        resident_mib=daemon.peak_mib(),
        catalog_mib=(daemon.directory / "store" / "catalog.sqlite3").stat().st_size / 1024**2,
    )
    print(
        f"| {part.objects:,} | {part.ingests_per_s:,.0f} | {part.stat_p50_ms:.2f} "
        f"| {part.stat_p99_ms:.2f} | {part.resident_mib:.0f} | {part.catalog_mib:.0f} |",
        flush=True,
    )
    return part


def _print_summary(first: Part, parts: list[Part], starts: list[float]) -> None:
    # Two parts at the end: a single one has the noise of a checkpoint in it.
    last = parts[-2:]
    rate = statistics.mean(part.ingests_per_s for part in last) / first.ingests_per_s
    stat = statistics.mean(part.stat_p50_ms for part in last) / first.stat_p50_ms
    print(f"\ningest rate, at the end to at {FEW:,} objects: {rate:.2f}, at least 0.80")
    print(f"stat p50, at the end to at {FEW:,} objects: {stat:.2f}, at most 1.50")
    print(f"daemon's RSS: {max(part.resident_mib for part in parts):.0f} MiB, under 300")
    print(f"start to answering: {statistics.median(starts):.2f} s, under 2")


def _start_s(daemon: Daemon) -> float:
    """Start and stop it; give the seconds until it answered."""
    started = time.perf_counter()
    with daemon:
        return time.perf_counter() - started


def _stat_times(socket: str, addresses: list[str]) -> list[float]:
    times = []
    with blocking.connect(socket, pool_size=1) as plane:
        for address in map(ContentAddress, addresses):
            started = time.perf_counter()
            assert plane.stat_objects([address])
            times.append(time.perf_counter() - started)
    return times
