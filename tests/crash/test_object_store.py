"""Daemons and engines that are killed in the middle of an ingest to a bucket."""

import contextlib
import os
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import trio

from dataplane_client import blocking
from dataplane_protocol import ContentAddress, DataPlaneError, ObjectNotFoundError
from dataplaned.backends.objectstore import ObjectStoreBackend, names
from dataplaned.backends.suite import names_of

from ..engines.proxy import Proxy

PART = 1 << 20
CONTENT = os.urandom(12 * PART + 5)
ADDRESS = ContentAddress.from_digest(names_of(CONTENT)[0])
OTHER = os.urandom(100_000)

pytestmark = pytest.mark.slow


class Place:
    """A daemon with a bucket, behind a proxy that counts."""

    def __init__(
        self, bucket: Any, directory: Path, proxy: Proxy, start: Callable[..., Any]
    ) -> None:
        self.bucket = bucket
        self.directory = directory
        self.proxy = proxy
        config = directory / "dp.toml"
        config.write_text(
            bucket.toml(
                directory,
                "bucket",
                endpoint=proxy.endpoint,
                part_size=PART,
                parallel_parts=2,
                request_timeout_s=5.0,
                retry_timeout_s=30.0,
            )
        )
        self.daemon = start(["--config", str(config)])
        self.plane = blocking.connect(self.daemon.socket_path)

    def read(self) -> bytes:
        with self.plane.serve_object(ADDRESS) as body:
            return b"".join(body)

    def ingest(self) -> None:
        self.plane.ingest_stream([CONTENT])

    def in_mid_ingest(self, sent: int, act: Callable[[], object]) -> bool:
        """Do something when so many bytes have gone to the engine; whether it succeeded."""
        before = self.proxy.sent
        outcome: list[bool] = []

        def run() -> None:
            try:
                self.ingest()
            except DataPlaneError:
                outcome.append(False)
            else:
                outcome.append(True)

        thread = threading.Thread(target=run)
        thread.start()
        self.proxy.wait_until(lambda: self.proxy.sent - before > sent)
        act()
        thread.join()
        return outcome[0]

    def stored_keys(self) -> list[str]:
        return self._with_backend(self._all_keys)

    def reclaim(self) -> None:
        """Do what a daemon does about old leftovers, as if they were old."""

        async def search(backend: ObjectStoreBackend) -> None:
            await backend._reclaimer.search()

        self._with_backend(search)

    @staticmethod
    async def _all_keys(backend: ObjectStoreBackend) -> list[str]:
        folders = (names.OBJECTS, names.PARTS, names.SHA256_NAMES)
        return [
            entry.key
            for folder in folders
            for entry in await backend._bucket.engine.list_all(folder)
        ]

    def _with_backend(self, function: Callable[[ObjectStoreBackend], Any]) -> Any:
        async def run() -> Any:
            backend = ObjectStoreBackend(
                "examiner", self.bucket.config(self.directory, reclaim_after_s=0.0)
            )
            await backend.open()
            try:
                return await function(backend)
            finally:
                await backend.aclose()

        return trio.run(run)


@pytest.fixture
def place(
    ceph: Callable[[], Any],
    ceph_process: Any,
    start_daemon: Callable[..., Any],
    tmp_path: Path,
) -> Generator[Place]:
    with contextlib.closing(Proxy(ceph_process.port)) as proxy:
        place = Place(ceph(), tmp_path, proxy, start_daemon)
        with contextlib.closing(place.plane):
            place.plane.ingest_stream([OTHER])
            yield place


@pytest.mark.parametrize("parts", [0, 1, 3, 6, 9, 11])
def test_a_daemon_that_is_killed_leaves_nothing_that_can_be_seen(place: Place, parts: int) -> None:
    kept = place.stored_keys()
    assert not place.in_mid_ingest(parts * PART + PART // 2, place.daemon.kill)
    place.daemon.start()
    with pytest.raises(ObjectNotFoundError):
        place.read()
    pages = place.plane.list_objects()
    assert [status.size_bytes for page in pages for status in page] == [len(OTHER)]
    left = [key for key in place.stored_keys() if key not in kept]
    assert all(key.startswith((names.PARTS, names.SHA256_NAMES)) for key in left)
    place.reclaim()
    assert place.stored_keys() == kept
    place.ingest()
    assert place.read() == CONTENT


def test_a_daemon_that_is_killed_after_it_acknowledged_has_lost_nothing(place: Place) -> None:
    place.ingest()
    place.daemon.kill()
    place.daemon.start()
    place.reclaim()
    assert place.read() == CONTENT
    assert place.plane.verify_object(ADDRESS).verified


@pytest.mark.parametrize("parts", [0, 4, 9])
def test_an_engine_that_is_killed_and_comes_back_costs_time_at_most(
    place: Place, ceph_process: Any, parts: int
) -> None:
    def crash() -> None:
        ceph_process.kill_gateway()
        ceph_process.start_gateway()

    assert place.in_mid_ingest(parts * PART + PART // 2, crash)
    assert place.read() == CONTENT
    assert place.plane.verify_object(ADDRESS).verified
    place.reclaim()
    assert place.read() == CONTENT


def test_an_engine_that_is_killed_in_mid_serve_costs_time_at_most(
    place: Place, ceph_process: Any
) -> None:
    place.ingest()
    with place.plane.serve_object(ADDRESS) as body:
        pieces = [next(body)]
        ceph_process.kill_gateway()
        ceph_process.start_gateway()
        pieces += body
    assert b"".join(pieces) == CONTENT
