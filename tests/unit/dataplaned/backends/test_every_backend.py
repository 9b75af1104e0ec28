"""The promises of `backends/base.py`, held against every backend of ours."""

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from dataplaned.backends.base import Backend
from dataplaned.backends.filesystem import FilesystemBackend
from dataplaned.backends.memory import MemoryBackend
from dataplaned.backends.objectstore import ObjectStoreBackend
from dataplaned.backends.suite import BackendSuite, digests_of, names_of
from dataplaned.config import FilesystemConfig


class TestMemory(BackendSuite):
    @pytest.fixture
    async def backend(self) -> AsyncGenerator[Backend]:
        backend = MemoryBackend("test")
        await backend.open()
        yield backend
        await backend.aclose()

    async def replace(self, backend: Backend, data: bytes, stored: bytes) -> None:
        assert isinstance(backend, MemoryBackend)
        backend._entries[names_of(data)[0]].data = stored


class TestFilesystem(BackendSuite):
    @pytest.fixture
    async def backend(self, tmp_path: Path) -> AsyncGenerator[Backend]:
        config = FilesystemConfig(root=str(tmp_path / "store"), min_free_bytes=0)
        backend = FilesystemBackend("test", config)
        await backend.open()
        yield backend
        await backend.aclose()

    async def replace(self, backend: Backend, data: bytes, stored: bytes) -> None:
        assert isinstance(backend, FilesystemBackend)
        row = backend._store.find(names_of(data)[0])
        assert row.file is not None
        path = Path(backend._store.config.root) / "objects" / row.file[:2] / row.file
        path.chmod(0o600)
        path.write_bytes(stored)


class ObjectStoreSuite(BackendSuite):
    """What the engines have in common; `engine` is one of them, with an empty bucket."""

    @pytest.fixture
    async def backend(self, engine: Any, tmp_path: Path) -> AsyncGenerator[Backend]:
        backend = ObjectStoreBackend("test", engine.config(tmp_path, part_size=131_072))
        await backend.open()
        yield backend
        await backend.aclose()

    async def replace(self, backend: Backend, data: bytes, stored: bytes) -> None:
        assert isinstance(backend, ObjectStoreBackend)
        found = await backend._bucket.find(names_of(data)[0])
        assert found is not None
        record = found.record
        if not record.part_size:
            await backend._bucket.engine.put(record.key, stored)
        for number in range(record.part_count):
            start = number * record.part_size
            part = stored[start : start + record.part_length(number)]
            await backend._bucket.engine.put(record.part_key(number), part)


# It takes as long as all that the others do; what it is made of has quick tests of its own.
@pytest.mark.slow
class TestMoto(ObjectStoreSuite):
    @pytest.fixture
    def engine(self, moto: Callable[[], Any]) -> Any:
        return moto()


@pytest.mark.slow
class TestCeph(ObjectStoreSuite):
    @pytest.fixture
    def engine(self, ceph: Callable[[], Any]) -> Any:
        return ceph()


@pytest.mark.slow
class TestAzurite(ObjectStoreSuite):
    @pytest.fixture
    def engine(self, azurite: Callable[[], Any]) -> Any:
        return azurite()


def test_digests_are_of_the_bytes() -> None:
    assert digests_of(b"").blake3.hex().startswith("af1349b9f5f9a1a6a0404dea36dcc949")
