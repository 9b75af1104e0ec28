"""What tests of the filesystem backend share: a place for a store, and what happens to it."""

import os
import resource
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import (
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import Any

import pytest
import trio

from dataplane_protocol import BLAKE3, Digest, ObjectCorruptError
from dataplaned.backends.base import Published
from dataplaned.backends.filesystem import FilesystemBackend, changes
from dataplaned.backends.filesystem.findings import Finding
from dataplaned.backends.filesystem.fsck import Fsck
from dataplaned.backends.filesystem.rows import Row
from dataplaned.backends.filesystem.store import Store
from dataplaned.config import FilesystemConfig
from dataplaned.digests import Digester, ObjectDigests
from dataplaned.threads import wait_for

#: What is in a store that was stopped: in its catalog, and in files of five blocks and of three.
SMALL = (b"one small object", b"another small object")
LARGE = (b"0123456789abcdef" * 20_000, b"large" * 30_000)


class Place:
    """A directory for a store, backends on it, and what a disk or an operator may do to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def config(self, **chosen: Any) -> FilesystemConfig:
        """Give a configuration; the disk that tests use may be as full as it likes."""
        return FilesystemConfig(root=str(self.path), **{"min_free_bytes": 0, **chosen})

    def backend(self, **chosen: Any) -> FilesystemBackend:
        """Make a backend that is not open."""
        return FilesystemBackend("b", self.config(**chosen))

    @asynccontextmanager
    async def opened(self, **chosen: Any) -> AsyncGenerator[FilesystemBackend]:
        """Open a backend for a while."""
        backend = self.backend(**chosen)
        await backend.open()
        try:
            yield backend
        finally:
            with trio.CancelScope(shield=True):
                await backend.aclose()

    @asynccontextmanager
    async def opened_store(self, **chosen: Any) -> AsyncGenerator[Store]:
        """Open a store without the rooms around it."""
        store = Store("b", self.config(**chosen))
        store.open()
        try:
            yield store
        finally:
            store.close()

    async def ingest(
        self, backend: FilesystemBackend, content: bytes, size_hint: int | None = None
    ) -> Published:
        """Take an object in."""
        staging = await backend.stage(size_hint)
        try:
            await staging.write([content])
            return await staging.publish(self.digests_of(content))
        finally:
            await staging.abort()

    async def read(self, backend: FilesystemBackend, content: bytes) -> bytes:
        """Give the bytes that an object is served with."""
        async with await backend.open_object(self.name_of(content)) as stored:
            return await stored.read(0, 1_000_000)

    async def state(self, backend: FilesystemBackend, content: bytes) -> str:
        """Give the state of an object."""
        (status,) = await backend.stat([self.name_of(content)])
        return status.state

    def row(self, backend: FilesystemBackend, content: bytes) -> Row:
        """Give the row of an object."""
        return backend._store.find(self.name_of(content))

    async def execute(self, backend: FilesystemBackend, statement: str, *values: object) -> None:
        """Change the catalog behind the backend's back."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(statement, values)

        await wait_for(backend._store.catalog.commit(change))

    def object_files(self) -> list[Path]:
        """Give every object's file."""
        return [file for file in (self.path / "objects").rglob("*") if file.is_file()]

    def staged_files(self) -> list[Path]:
        """Give every file in the staging."""
        return list((self.path / "staging").iterdir())

    def damage(self, change: Callable[[Path], object]) -> None:
        """Change the one object file that is there, as a disk could."""
        (file,) = self.object_files()
        file.chmod(0o600)
        change(file)

    def rot(self, backend: FilesystemBackend, content: bytes) -> None:
        """Change the bytes of an object's file in a way that its stamp does not show."""
        row = self.row(backend, content)
        assert row.file is not None
        file = self.path / "objects" / row.file[:2] / row.file
        file.chmod(0o600)
        flip_first_byte(file)

    async def rot_small(self, backend: FilesystemBackend, content: bytes) -> None:
        """Change the first of an object's bytes in the catalog."""
        row = self.row(backend, content)
        rotten = bytes([content[0] ^ 1]) + content[1:]
        await self.execute(
            backend, "UPDATE contents SET bytes = ? WHERE id = ?", rotten, row.content
        )

    async def lose_small(self, backend: FilesystemBackend, content: bytes) -> None:
        """Take an object's bytes out of the catalog."""
        row = self.row(backend, content)
        await self.execute(backend, "DELETE FROM contents WHERE id = ?", row.content)

    @staticmethod
    def digests_of(content: bytes) -> ObjectDigests:
        """Give the digests of bytes."""
        digester = Digester()
        digester.update([content])
        return digester.finish()

    @classmethod
    def name_of(cls, content: bytes, algorithm: str = "blake3") -> Digest:
        """Give a name of bytes."""
        return cls.digests_of(content).named(algorithm)


def flip_first_byte(file: Path) -> None:
    with open(file, "r+b") as opened:
        (byte,) = opened.read(1)
        opened.seek(0)
        opened.write(bytes([byte ^ 1]))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place for a store."""
    return Place(tmp_path / "store")


class Clock:
    """The time that the catalog goes by, in milliseconds; it stands still unless it is set."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ms += int(seconds * 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the clock of the catalog."""
    clock = Clock()
    monkeypatch.setattr(changes, "now_ms", lambda: clock.now_ms)
    return clock


@pytest.fixture
def limit_file_size() -> Callable[[int], AbstractContextManager[None]]:
    """Give a context manager in which no file may grow beyond so many bytes."""
    return lambda size: _soft_limit(resource.RLIMIT_FSIZE, size)


@pytest.fixture
def no_descriptors_left() -> Callable[[], AbstractContextManager[None]]:
    """Give a context manager in which the process cannot open anything."""
    return _no_descriptors_left


@contextmanager
def _soft_limit(kind: int, value: int) -> Generator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


@contextmanager
def _no_descriptors_left() -> Generator[None]:
    lowest = os.dup(0)
    os.close(lowest)
    with ExitStack() as stack, _soft_limit(resource.RLIMIT_NOFILE, lowest + 8):
        with suppress(OSError):
            while True:
                stack.callback(os.close, os.dup(0))
        yield


class Stopped:
    """A store whose daemon is stopped.

    Attributes:
        path: Its directory.
        small: What it holds in its catalog.
        large: What it holds in files.
    """

    small = SMALL
    large = LARGE

    def __init__(self, path: Path) -> None:
        self.path = path
        self.catalog = path / "catalog.sqlite3"
        self.backup = path / "backup.sqlite3"

    def run(self, *steps: Callable[[FilesystemBackend], Any]) -> list[Any]:
        """Open the store as a daemon does, sweep, do things, and close it."""

        async def main() -> list[Any]:
            backend = FilesystemBackend("b", FilesystemConfig(root=str(self.path)))
            await backend.open()
            try:
                await backend.sweep()
                return [await step(backend) for step in steps]
            finally:
                await backend.aclose()
                # 32 MiB that no test is about.
                (self.path / "reserve").unlink(missing_ok=True)

        return trio.run(main)

    def ingest(self, *contents: bytes) -> list[Any]:
        """Store objects, as a daemon."""

        def step(content: bytes) -> Callable[[FilesystemBackend], Any]:
            async def ingest(backend: FilesystemBackend) -> Any:
                staging = await backend.stage(len(content))
                await staging.write([content])
                return await staging.publish(Place.digests_of(content))

            return ingest

        return self.run(*map(step, contents))

    def delete(self, *contents: bytes) -> None:
        """Delete objects, as a daemon."""

        def step(content: bytes) -> Callable[[FilesystemBackend], Any]:
            return lambda backend: backend.delete(Place.digests_of(content).named(BLAKE3), None)

        self.run(*map(step, contents))

    def back_up(self) -> None:
        """Have the daemon write a backup."""
        self.run(lambda backend: backend.back_up())

    def served(self) -> dict[bytes, bytes | None]:
        """Give what a daemon serves, by BLAKE3; `None` for what it refuses as damaged."""

        async def read(backend: FilesystemBackend) -> dict[bytes, bytes | None]:
            found: dict[bytes, bytes | None] = {}
            for status in (await backend.list_page(None, 1000)).objects:
                key = bytes.fromhex(str(status.content_address).removeprefix("blake3:"))
                found[key] = None
                with suppress(ObjectCorruptError):
                    digest = Digest(BLAKE3, key.hex())
                    async with await backend.open_object(digest) as stored:
                        found[key] = await stored.read(0, 1_000_000)
            assert (await backend.health()).object_count == len(found)
            return found

        (found,) = self.run(read)
        assert isinstance(found, dict)
        return found

    def holds(self, good: Iterable[bytes] = (), bad: Iterable[bytes] = ()) -> bool:
        """Whether a daemon serves just these, and refuses just those."""
        expected: dict[bytes, bytes | None] = {Place.digests_of(each).blake3: each for each in good}
        expected |= {Place.digests_of(each).blake3: None for each in bad}
        return self.served() == expected

    def statuses(self) -> dict[bytes, Any]:
        """Give what a daemon says of its objects, by BLAKE3."""
        (page,) = self.run(lambda backend: backend.list_page(None, 1000))
        return {
            bytes.fromhex(str(each.content_address).removeprefix("blake3:")): each
            for each in page.objects
        }

    def fsck(self, **options: Any) -> list[Finding]:
        """Check the store; the options are those of `Fsck`."""
        return list(Fsck(str(self.path), **options).run())

    def repair(self, **options: Any) -> list[Finding]:
        """Repair it, and see that nothing is left to repair and that a daemon opens it."""
        found = self.fsck(is_repairing=True, **options)
        assert not [finding for finding in found if finding.is_open]
        assert [each for each in self.fsck(is_verifying=True) if each.is_open] == []
        self.run()
        return found

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Run a statement on the catalog."""
        with closing(sqlite3.connect(self.catalog)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def file_of(self, content: bytes) -> Path:
        """Give the one file of an object."""
        (file,) = self.files_of(content)
        return file

    def files_of(self, content: bytes) -> list[Path]:
        name = Place.digests_of(content).blake3.hex()
        return list((self.path / "objects" / name[:2]).glob(f"{name}.*"))

    def add_file(self, content: bytes, run: str = "00112233445566ff-0") -> Path:
        """Put an object's file that no row names, as a crash or an older catalog leaves it."""
        name = Place.digests_of(content).blake3.hex()
        file = self.path / "objects" / name[:2] / f"{name}.{run}"
        file.write_bytes(content)
        return file

    def snapshot(self) -> dict[str, tuple[int, bytes]]:
        """Give the times and bytes of all that is there."""
        return {
            str(each.relative_to(self.path)): (
                each.lstat().st_mtime_ns,
                each.read_bytes() if each.is_file() else b"",
            )
            for each in (self.path, *self.path.rglob("*"))
        }


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two small and two large objects, to be copied."""
    stopped = Stopped(tmp_path_factory.mktemp("pristine") / "store")
    stopped.ingest(*SMALL, *LARGE)
    return stopped.path


@pytest.fixture
def stopped(pristine: Path, tmp_path: Path) -> Stopped:
    """A test's own stopped store."""
    shutil.copytree(pristine, tmp_path / "store")
    return Stopped(tmp_path / "store")
