import contextlib
import os
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from dataplane_protocol import BackendStatus, UnavailableError
from dataplaned.backends.base import Backend
from dataplaned.backends.filesystem import FilesystemBackend
from dataplaned.backends.mirror import MirrorBackend
from dataplaned.backends.suite import names_of
from dataplaned.config import FilesystemConfig, MirrorConfig


class Side(Backend):
    """A real store that can be away."""

    def __init__(self, backend_id, root):
        super().__init__(backend_id)
        self.root = root
        self.config = FilesystemConfig(root=str(root), min_free_bytes=0)
        self.inner = FilesystemBackend(backend_id, self.config)
        self.is_away = False
        self.asked = []

    def _reach(self, call):
        self.asked.append(call)
        if self.is_away:
            raise UnavailableError("side is away")
        return self.inner

    async def open(self):
        await self.inner.open()

    async def aclose(self):
        await self.inner.aclose()

    async def sweep(self):
        await self.inner.sweep()

    async def scrub(self):
        await self.inner.scrub()

    async def stage(self, size_hint):
        return await self._reach("stage").stage(size_hint)

    async def open_object(self, digest, byte_range=None):
        return await self._reach("open_object").open_object(digest, byte_range)

    async def verify(self, digest):
        return await self._reach("verify").verify(digest)

    async def delete(self, digest, if_generation):
        return await self._reach("delete").delete(digest, if_generation)

    async def stat(self, digests):
        return await self._reach("stat").stat(digests)

    async def list_page(self, after, limit):
        return await self._reach("list_page").list_page(after, limit)

    async def health(self):
        if self.is_away:
            return BackendStatus(
                backend_id=self.backend_id, state="down", writable=False, message="side is away"
            )
        return await self.inner.health()

    def replace(self, data, stored):
        row = self.inner._store.find(names_of(data)[0])
        path = Path(self.root) / "objects" / row.file[:2] / row.file
        path.chmod(0o600)
        path.write_bytes(stored)

    def damage(self, data, at=0):
        changed = bytearray(data)
        changed[at] ^= 1
        self.replace(data, bytes(changed))

    async def has(self, data):
        statuses = await self.inner.stat([names_of(data)[0]])
        return bool(statuses) and statuses[0].state == "ok"


@pytest.fixture(params=["both", "first"])
def acknowledge(request):
    return request.param


@pytest.fixture
def directory(tmp_path):
    """A place in memory, if there is one: what disks do to a store is tested elsewhere."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="dp-mirror-", dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture
async def open_mirror(directory, acknowledge, monkeypatch):
    """Give a function that opens a mirror of two stores, again after it was closed."""
    # Every delay is worth a word.
    monkeypatch.setattr("dataplaned.backends.mirror.backend._USUAL_DELAY", timedelta(-1))
    async with contextlib.AsyncExitStack() as stack:

        async def open_it(**settings):
            first, second = (Side(f"m.{name}", directory / name) for name in ("first", "second"))
            config = MirrorConfig(
                first=first.config,
                second=second.config,
                journal=str(directory / "journal.sqlite3"),
                **{"acknowledge": acknowledge, **settings},
            )
            mirror = MirrorBackend("m", config, first, second)
            mirror.first, mirror.second = first, second
            await mirror.open()
            stack.push_async_callback(close, mirror)
            mirror.is_open = True
            return mirror

        async def close(mirror):
            if mirror.is_open:
                mirror.is_open = False
                await mirror.aclose()

        open_it.close = close
        yield open_it


@pytest.fixture
async def mirror(open_mirror):
    return await open_mirror()
