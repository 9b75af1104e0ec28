"""Where an object is better off: as a row of the catalog, or as a file of its own.

Ingests, reads and deletes over a `FilesystemBackend` in this process, without a socket: once
with everything in the catalog, once with nothing, in turns; the median of the rounds.
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import trio

from dataplaned.backends.filesystem import FilesystemBackend
from dataplaned.config import FilesystemConfig
from dataplaned.digests import Digester, ObjectDigests

SIZES: Final = (1024, 4096, 16_384, 32_768, 49_152, 65_536)
TASKS: Final = (1, 32)
ROUNDS: Final = 5

#: Objects of a round, by the number of tasks.
COUNTS: Final = {1: 100, 32: 600}

STEPS: Final = ("ingest", "read", "delete")


def main(directory: Path) -> None:
    """Measure, and print a table: rates of rows, of files, and their ratio."""
    print("| bytes | tasks | " + " | ".join(f"{step}: row, file, ratio" for step in STEPS) + " |")
    print("| ---: | ---: |" + " --- |" * len(STEPS))
    for size, tasks in itertools.product(SIZES, TASKS):
        cells = [_cell(rates) for rates in trio.run(_compare, directory, size, tasks)]
        print(f"| {size} | {tasks} | " + " | ".join(cells) + " |", flush=True)


def _cell(rates: tuple[float, float]) -> str:
    row, file = rates
    return f"{row:,.0f}, {file:,.0f}, {row / file:.2f}"


async def _compare(directory: Path, size: int, tasks: int) -> list[tuple[float, float]]:
    """Give for each step the rates of rows and of files."""
    rates: dict[tuple[str, bool], list[float]] = {}
    for _ in range(ROUNDS):
        for is_row in (True, False):
            with tempfile.TemporaryDirectory(dir=directory) as root:
                measured = await _round(root, size, tasks, is_row=is_row)
            for step, rate in zip(STEPS, measured, strict=True):
                rates.setdefault((step, is_row), []).append(rate)
    return [
        (statistics.median(rates[step, True]), statistics.median(rates[step, False]))
        for step in STEPS
    ]


async def _round(root: str, size: int, tasks: int, *, is_row: bool) -> list[float]:
    config = FilesystemConfig(root=root, small_object_size=65_536 if is_row else 0)
    backend = FilesystemBackend("bench", config)
    await backend.open()
    count = COUNTS[tasks]
    contents = [os.urandom(size) for _ in range(count)]
    objects = [(content, _digests_of(content)) for content in contents]
    names = [digests.named("blake3") for _, digests in objects]

    async def ingest(number: int) -> None:
        content, digests = objects[number]
        staging = await backend.stage(None)
        await staging.write([content])
        await staging.publish(digests)

    async def read(number: int) -> None:
        async with await backend.open_object(names[number]) as stored:
            assert len(await stored.read(0, 1)) == size

    async def delete(number: int) -> None:
        assert await backend.delete(names[number], None)

    try:
        return [await _rate(step, count, tasks) for step in (ingest, read, delete)]
    finally:
        await backend.aclose()


async def _rate(step: Callable[[int], Awaitable[None]], count: int, tasks: int) -> float:
    """Give how many steps a second so many tasks do together."""
    numbers = iter(range(count))
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(_work, step, numbers)
    return count / (time.perf_counter() - started)


async def _work(step: Callable[[int], Awaitable[None]], numbers: Iterator[int]) -> None:
    for number in numbers:
        await step(number)


def _digests_of(content: bytes) -> ObjectDigests:
    digester = Digester()
    digester.update([content])
    return digester.finish()
