"""From an empty store to a million small objects: what becomes slower.

A real daemon, clients in processes of their own, everything durable. Objects are 4 KiB of
random bytes. The rate of the first and of the last part of the ingests, single stats at
several sizes of the store, the daemon's memory, and how long a start takes until it listens.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import trio

import dataplane_client
from dataplane_client import blocking
from dataplane_protocol import ContentAddress, UnavailableError

#: Clients are two processes with half of these connections each.
CONNECTIONS: Final = 32
SIZE: Final = 4096

#: Parts that the ingests are measured in, and stats after each of them.
PARTS: Final = 20
STATS: Final = 2000


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
    daemon = _Daemon(directory)
    parts = []
    addresses: list[str] = []
    print("| objects | ingests/s | stat p50 ms | p99 ms | RSS MiB | catalog MiB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    with daemon, ProcessPoolExecutor(2) as pool:
        for number in range(PARTS):
            started = time.perf_counter()
            jobs = [
                pool.submit(_ingest, daemon.socket, count // PARTS // 2, 2 * number + half)
                for half in range(2)
            ]
            fresh = [address for job in jobs for address in job.result()]
            rate = len(fresh) / (time.perf_counter() - started)
            # A sample of all that there is, so that stats do not stay on warm pages.
            addresses += random.Random(number).sample(fresh, min(len(fresh), 5000))
            stats = _stat_times(daemon.socket, random.Random(number).choices(addresses, k=STATS))
            part = Part(
                objects=(number + 1) * (count // PARTS),
                ingests_per_s=rate,
                stat_p50_ms=statistics.median(stats) * 1000,
                stat_p99_ms=statistics.quantiles(stats, n=100)[98] * 1000,
                resident_mib=daemon.resident_mib,
                catalog_mib=daemon.catalog_mib,
            )
            parts.append(part)
            print(_line(part), flush=True)
    _print_summary(parts, [daemon.start_s() for _ in range(5)])


def _line(part: Part) -> str:
    return (
        f"| {part.objects:,} | {part.ingests_per_s:,.0f} | {part.stat_p50_ms:.2f} "
        f"| {part.stat_p99_ms:.2f} | {part.resident_mib:.0f} | {part.catalog_mib:.0f} |"
    )


def _print_summary(parts: list[Part], starts: list[float]) -> None:
    # Two parts at each end: a single one has the noise of a checkpoint in it.
    first, last = parts[:2], parts[-2:]
    rates = [statistics.mean(each.ingests_per_s for each in some) for some in (first, last)]
    stats = [statistics.mean(each.stat_p50_ms for each in some) for some in (first, last)]
    print(f"\ningest rate, last to first: {rates[1] / rates[0]:.2f}, at least 0.80")
    print(f"stat p50, last to first: {stats[1] / stats[0]:.2f}, at most 1.50")
    print(f"daemon's RSS: {max(each.resident_mib for each in parts):.0f} MiB, under 300")
    print(f"start to listening: {statistics.median(starts):.2f} s, under 2")


class _Daemon:
    """A daemon on a store that stays."""

    def __init__(self, directory: Path) -> None:
        self.socket = str(directory / "socket")
        self._root = directory / "store"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "dataplaned", "serve"),
                *("--socket", self.socket, "--root", str(self._root)),
            ],
            stderr=subprocess.DEVNULL,
        )
        with blocking.connect(self.socket) as plane:
            while not _answers(plane):
                assert self._process.poll() is None
                time.sleep(0.002)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def start_s(self) -> float:
        """Start and stop it; give the seconds until it answered."""
        started = time.perf_counter()
        with self:
            return time.perf_counter() - started

    @property
    def resident_mib(self) -> float:
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1024**2

    @property
    def catalog_mib(self) -> float:
        return (self._root / "catalog.sqlite3").stat().st_size / 1024**2


def _answers(plane: blocking.BlockingDataPlaneClient) -> bool:
    try:
        plane.list_backends()
    except UnavailableError:
        return False
    return True


def _ingest(socket: str, count: int, seed: int) -> list[str]:
    """Ingest in a process of its own; give the addresses."""
    return trio.run(_ingest_all, socket, count, seed)


async def _ingest_all(socket: str, count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    contents = (generator.randbytes(SIZE) for _ in range(count))
    addresses: list[str] = []

    async def work(plane: dataplane_client.DataPlaneClient, rest: Iterator[bytes]) -> None:
        for content in rest:
            result = await plane.ingest_stream(_once(content))
            addresses.append(str(result.receipt.content_address))

    async with (
        dataplane_client.connect(socket, pool_size=CONNECTIONS // 2) as plane,
        trio.open_nursery() as nursery,
    ):
        for _ in range(CONNECTIONS // 2):
            nursery.start_soon(work, plane, contents)
    return addresses


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _stat_times(socket: str, addresses: list[str]) -> list[float]:
    times = []
    with blocking.connect(socket, pool_size=1) as plane:
        for address in map(ContentAddress, addresses):
            started = time.perf_counter()
            assert plane.stat_objects([address])
            times.append(time.perf_counter() - started)
    return times
