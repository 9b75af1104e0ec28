"""What it costs that every block is checked before it leaves.

Reads an object of a store in this process, block by block as the daemon serves it, with the
check and with the check taken out, in turns, from a warm page cache.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final
from unittest import mock

import trio

from dataplaned.backends.filesystem import FilesystemBackend, reading
from dataplaned.config import FilesystemConfig
from dataplaned.digests import Digester
from dataplaned.plane import LocalDataPlane

ROUNDS: Final = 7
SIZE: Final = 1024**3
_PIECE: Final = 1024**2


def main(directory: Path) -> None:
    """Measure, and print wall and CPU seconds for one GiB."""
    wall: dict[bool, list[float]] = {True: [], False: []}
    cpu: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(dir=directory) as root:
        for number in range(ROUNDS + 1):
            for is_checked in (True, False):
                seconds = trio.run(_serve, root, is_checked)
                if number:  # the first round warms the page cache
                    wall[is_checked].append(seconds[0])
                    cpu[is_checked].append(seconds[1])
    print("| 1 GiB out of the store | wall s | CPU s |")
    print("| --- | ---: | ---: |")
    for is_checked, name in ((True, "checked"), (False, "unchecked")):
        print(
            f"| {name} | {statistics.median(wall[is_checked]):.2f} "
            f"| {statistics.median(cpu[is_checked]):.2f} |"
        )
    cost = statistics.median(cpu[True]) - statistics.median(cpu[False])
    print(f"\nchecking costs {cost:.2f} CPU-s for each GiB")


async def _serve(root: str, is_checked: bool) -> tuple[float, float]:
    backend = FilesystemBackend("bench", FilesystemConfig(root=root))
    await backend.open()
    try:
        plane = LocalDataPlane({"bench": backend})
        pages = [page async for page in plane.list_objects()]
        if not pages[0].objects:
            await _fill(backend)
            pages = [page async for page in plane.list_objects()]
        stream = await plane.serve_object(pages[0].objects[0].content_address)
        with mock.patch.object(
            reading, "find_bad_block", reading.find_bad_block if is_checked else _skip
        ):
            wall, cpu = time.perf_counter(), time.process_time()
            received = sum([len(piece) async for piece in stream])
            spent = time.perf_counter() - wall, time.process_time() - cpu
        assert received == SIZE
        return spent
    finally:
        await backend.aclose()


async def _fill(backend: FilesystemBackend) -> None:
    digester = Digester()
    staging = await backend.stage(SIZE)
    for _ in range(SIZE // _PIECE):
        piece = os.urandom(_PIECE)
        digester.update([piece])
        await staging.write([piece])
    await staging.publish(digester.finish())


def _skip(*_: object) -> None:
    """Check nothing."""
