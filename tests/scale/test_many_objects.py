"""Ten thousand small objects through one client with a pool of eight."""

import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

import dataplane_client
from dataplane_protocol import ContentAddress

COUNT = 10_000
WORKERS = 32


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(600)
async def test_ten_thousand_objects_are_stored_listed_verified_and_deleted(daemon: Any) -> None:
    addresses: set[ContentAddress] = set()

    async def content(number: int) -> AsyncIterator[bytes]:
        yield b"object %d\n" % number * (number % 40)

    async def ingest(number: int) -> None:
        result = await plane.ingest_stream(content(number))
        addresses.add(result.receipt.content_address)

    async def verify(address: ContentAddress) -> None:
        assert (await plane.verify_object(address)).verified

    async def delete(address: ContentAddress) -> None:
        assert (await plane.delete_object(address)).deleted

    async def for_each(call: Any, items: Any) -> None:
        """Call for every item, from a number of tasks."""
        rest = iter(list(items))

        async def work() -> None:
            for item in rest:
                await call(item)

        async with anyio.create_task_group() as group:
            for _ in range(WORKERS):
                group.start_soon(work)

    async with dataplane_client.connect(daemon.socket_path, pool_size=8) as plane:
        await for_each(ingest, range(COUNT))
        # Every fortieth is the empty object.
        assert len(addresses) == COUNT - COUNT // 40 + 1
        listed = [e.content_address async for page in plane.list_objects() for e in page]
        assert listed == sorted(addresses)
        await for_each(verify, listed)
        await for_each(delete, listed)
        assert [len(page) async for page in plane.list_objects()] == [0]
        assert (await plane.backend_health()).object_count == 0

    assert daemon.stop() == 0
    assert daemon.files("objects") == []
    assert daemon.files("staging") == []
    with sqlite3.connect(daemon.root / "catalog.sqlite3") as catalog:
        for table in ("objects", "blocks"):
            assert catalog.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    catalog.close()
