"""The object store backend against what obstore itself reaches on the same engine.

The engine is a Ceph of one gateway and one OSD in memory (tests/engines/ceph.py), on the same two
cores as everything else. obstore has the same part size and as many requests under way; it takes
no digests, keeps no second name, compares nothing, and acknowledges what the engine does.
"""

import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import boto3
import obstore
from obstore.store import S3Store

from dataplane_client import blocking
from dataplane_protocol import ContentAddress

from ..conftest import DaemonProcess
from ..engines.buckets import EngineBucket
from ..engines.ceph import ACCESS_KEY, SECRET_KEY, Ceph

PART: Final = 8 * 1024**2
PARALLEL: Final = 4
SMALL: Final = 4096
COUNT: Final = 1000
CLIENTS: Final = 16

_PIECE: Final = 1024**2

#: By row, and by who did it.
Rates = dict[str, dict[str, list[float]]]


def main(directory: Path, size: int, rounds: int) -> None:
    """Measure, and print a table."""
    rates: Rates = {}
    with contextlib.ExitStack() as stack:
        # Ceph and the daemon want names of sockets that fit.
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dp-")))
        engine = scratch / "ceph"
        engine.mkdir()
        ceph = stack.enter_context(contextlib.closing(Ceph(engine)))
        bucket = _new_bucket(ceph)
        config = scratch / "dp.toml"
        config.write_text(bucket.toml(directory, "bucket", part_size=PART, parallel_parts=PARALLEL))
        daemon = DaemonProcess(scratch, ["--config", str(config)])
        stack.callback(daemon.kill)
        plane = blocking.connect(daemon.socket_path, pool_size=CLIENTS)
        stack.enter_context(contextlib.closing(plane))
        raw = _Raw(ceph, bucket)
        for _ in range(rounds):
            _measure_large(rates, raw, plane, directory / "large", size)
            _measure_small(rates, raw, plane)
        memory = daemon.resident_bytes("VmHWM") / 1024**2
    _print(rates, memory)


def _measure_large(
    rates: Rates, raw: "_Raw", plane: blocking.BlockingDataPlaneClient, path: Path, size: int
) -> None:
    _fill(path, size)
    addresses: list[ContentAddress] = []
    row = f"{size // 1024**2} MiB %s, MB/s"
    megabytes = size / 1e6
    _measure(rates, row % "put", "obstore", megabytes, lambda: raw.put_large(path))
    _measure(
        rates, row % "put", "dataplaned", megabytes, lambda: addresses.append(_ingest(plane, path))
    )
    _measure(rates, row % "get", "obstore", megabytes, lambda: raw.get_large(size))
    _measure(rates, row % "get", "dataplaned", megabytes, lambda: _serve(plane, addresses[0], size))
    plane.delete_object(addresses[0])
    raw.delete_large()


def _measure_small(rates: Rates, raw: "_Raw", plane: blocking.BlockingDataPlaneClient) -> None:
    contents = [os.urandom(SMALL) for _ in range(COUNT)]
    addresses: list[ContentAddress] = []
    row = f"4 KiB %s, {CLIENTS} clients, 1/s"
    _measure(rates, row % "put", "obstore", COUNT, lambda: raw.put_small(contents))
    _measure(
        rates,
        row % "put",
        "dataplaned",
        COUNT,
        lambda: addresses.extend(_ingest_all(plane, contents)),
    )
    _measure(rates, row % "get", "obstore", COUNT, raw.get_small)
    _measure(rates, row % "get", "dataplaned", COUNT, lambda: _serve_all(plane, addresses))


def _new_bucket(ceph: Ceph) -> EngineBucket:
    boto3.client(
        "s3",
        endpoint_url=ceph.endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    ).create_bucket(Bucket="bench")
    secrets = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    return EngineBucket("s3://bench/dataplaned", ceph.endpoint, secrets)


class _Raw:
    """obstore alone."""

    def __init__(self, ceph: Ceph, bucket: EngineBucket) -> None:
        self._round = 0
        self._store = S3Store(
            "bench",
            endpoint=ceph.endpoint,
            region="us-east-1",
            client_options={"allow_http": True},
            access_key_id=bucket.secrets["access_key_id"],
            secret_access_key=bucket.secrets["secret_access_key"],
        )

    def put_large(self, path: Path) -> None:
        obstore.put(self._store, "raw/large", path, chunk_size=PART, max_concurrency=PARALLEL)

    def get_large(self, size: int) -> None:
        stream = obstore.get(self._store, "raw/large").stream(min_chunk_size=_PIECE)
        assert sum(map(len, stream)) == size

    def delete_large(self) -> None:
        obstore.delete(self._store, "raw/large")

    def put_small(self, contents: list[bytes]) -> None:
        self._round += 1

        async def put(number: int) -> None:
            key = f"raw/{self._round}/{number}"
            await obstore.put_async(self._store, key, contents[number])

        asyncio.run(_all(put))

    def get_small(self) -> None:
        async def get(number: int) -> None:
            result = await obstore.get_async(self._store, f"raw/{self._round}/{number}")
            assert len(await result.bytes_async()) == SMALL

        asyncio.run(_all(get))


async def _all(act: Callable[[int], Awaitable[None]]) -> None:
    numbers = iter(range(COUNT))

    async def work() -> None:
        for number in numbers:
            await act(number)

    await asyncio.gather(*(work() for _ in range(CLIENTS)))


def _ingest(plane: blocking.BlockingDataPlaneClient, path: Path) -> ContentAddress:
    with path.open("rb") as file:
        pieces = iter(lambda: file.read(_PIECE), b"")
        return plane.ingest_stream(pieces).receipt.content_address


def _serve(plane: blocking.BlockingDataPlaneClient, address: ContentAddress, size: int) -> None:
    with plane.serve_object(address) as body:
        assert sum(map(len, body)) == size


def _ingest_all(
    plane: blocking.BlockingDataPlaneClient, contents: list[bytes]
) -> list[ContentAddress]:
    with ThreadPoolExecutor(CLIENTS) as pool:
        results = pool.map(lambda data: plane.ingest_stream([data]), contents)
        return [result.receipt.content_address for result in results]


def _serve_all(plane: blocking.BlockingDataPlaneClient, addresses: list[ContentAddress]) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda address: _serve(plane, address, SMALL), addresses))


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(size // _PIECE):
            file.write(os.urandom(_PIECE))


def _measure(rates: Rates, row: str, who: str, amount: float, act: Callable[[], Any]) -> None:
    start = time.perf_counter()
    act()
    rate = amount / (time.perf_counter() - start)
    rates.setdefault(row, {}).setdefault(who, []).append(rate)


def _print(rates: Rates, memory: float) -> None:
    print("| | obstore | dataplaned | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for row, by_whom in rates.items():
        raw, ours = (statistics.median(by_whom[who]) for who in ("obstore", "dataplaned"))
        print(f"| {row} | {raw:,.0f} | {ours:,.0f} | {ours / raw:.2f} |")
    print(f"\nthe daemon's memory: {memory:.0f} MiB at most")
