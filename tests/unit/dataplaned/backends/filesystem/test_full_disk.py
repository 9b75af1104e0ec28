import os
import sqlite3
import subprocess

import pytest

from dataplane_protocol import NoSpaceError, UnavailableError
from dataplaned.digests import BLOCK_SIZE

LARGE = b"0123456789abcdef" * 20_000  # almost five blocks
SMALL = b"a small object"

# No room, no descriptors, a locked catalog: refused, and nothing is in doubt.


async def assert_nothing_happened(place, backend):
    assert await backend.stat([place.name_of(LARGE)]) == ()
    assert place.staged_files() == place.object_files() == []
    assert (await backend.health()).state == "ok"
    assert (await place.ingest(backend, LARGE)).outcome == "created"


@pytest.mark.trio
async def test_a_write_beyond_a_limit_is_no_space(place, limit_file_size):
    async with place.opened() as backend:
        with limit_file_size(200_000), pytest.raises(NoSpaceError):
            await place.ingest(backend, LARGE)
        await assert_nothing_happened(place, backend)


async def fill_up(place, backend, size):
    """Ingest until there is no space; give what was stored."""
    stored = []
    for number in range(1_000):
        content = number.to_bytes(4, "big") * (size // 4)
        try:
            await place.ingest(backend, content)
        except NoSpaceError:
            return stored
        stored.append(content)
    raise AssertionError("there is always more space")


@pytest.mark.trio
@pytest.mark.parametrize(("size", "files"), [(BLOCK_SIZE, 1), (8_000, 0)], ids=["large", "small"])
async def test_a_catalog_without_room_is_no_space_and_leaves_no_file(place, size, files):
    async with place.opened() as backend:
        writer = backend._store.catalog._writer._connection
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages + 8}")
        stored = await fill_up(place, backend, size)
        assert stored
        assert len(place.object_files()) == files * len(stored)
        assert place.staged_files() == []
        assert (await backend.health()).object_count == len(stored)
        for content in stored:
            assert await place.read(backend, content) == content
        writer.execute("PRAGMA max_page_count = 1000000")
        assert (await place.ingest(backend, LARGE)).outcome == "created"


@pytest.mark.trio
async def test_running_out_of_descriptors_is_unavailable_and_passes(place, no_descriptors_left):
    async with place.opened() as backend:
        staging = await backend.stage(None)
        await staging.write([LARGE])
        with no_descriptors_left(), pytest.raises(UnavailableError, match="Too many open files"):
            await staging.publish(place.digests_of(LARGE))
        await staging.abort()
        await assert_nothing_happened(place, backend)


@pytest.mark.trio
async def test_a_small_object_needs_no_descriptor(place, no_descriptors_left):
    async with place.opened() as backend:
        with no_descriptors_left():
            assert (await place.ingest(backend, SMALL)).outcome == "created"
            assert await place.read(backend, SMALL) == SMALL
            assert await backend.delete(place.name_of(SMALL), None)


@pytest.mark.trio
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_catalog_that_somebody_else_holds_is_unavailable_and_passes(place, content):
    async with place.opened() as backend:
        backend._store.catalog._writer._connection.execute("PRAGMA busy_timeout = 0")
        holder = sqlite3.connect(place.path / "catalog.sqlite3", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match="SQLITE_BUSY") as caught:
            await place.ingest(backend, content)
        assert caught.value.retry
        holder.close()
        await assert_nothing_happened(place, backend)


@pytest.mark.trio
@pytest.mark.parametrize("failure", ["SQLITE_FULL", "SQLITE_IOERR_WRITE"])
async def test_a_delete_that_a_full_disk_has_no_room_for_takes_that_which_was_set_aside(
    place, failure
):
    # SQLite tells a quota that is used up from a broken disk as little as its number does.
    reserve = place.path / "reserve"
    async with place.opened() as backend:
        await place.ingest(backend, SMALL)
        root = backend._store.root
        root.is_out_of_room = reserve.exists
        commit, take_reserve = backend._store.catalog.commit, root.take_reserve

        def commit_if_there_is_room(change):
            def fail(_):
                error = sqlite3.OperationalError("no room")
                error.sqlite_errorname = failure
                raise error

            return commit(fail if reserve.exists() else change)

        backend._store.catalog.commit = commit_if_there_is_room
        root.take_reserve = lambda: False
        assert await backend.delete(place.name_of(SMALL), None)
        assert backend._store.read_only_reason is None
        assert not reserve.exists()
        root.take_reserve, backend._store.catalog.commit = take_reserve, commit
        await place.ingest(backend, SMALL)
        assert await backend.delete(place.name_of(SMALL), None)
        assert reserve.exists()


@pytest.fixture
def tiny_disk(place, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs to mount a tmpfs")
    yield type(place)(disk / "store")
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.trio
@pytest.mark.parametrize("size", [100_000, 8_000], ids=["large", "small"])
async def test_a_full_disk_refuses_serves_and_takes_up_again_after_a_delete(tiny_disk, size):
    place = tiny_disk
    async with place.opened() as backend:
        stored = await fill_up(place, backend, size)
        assert place.staged_files() == []
        assert len(place.object_files()) == (len(stored) if size > 32 * 1024 else 0)
        for content in stored:
            assert await place.read(backend, content) == content
            assert (await backend.verify(place.name_of(content))).mismatch is None
        (place.path.parent / "filler").write_bytes(bytes(os.statvfs(place.path).f_bavail * 4096))
        assert os.statvfs(place.path).f_bavail == 0
        for content in stored[: 500_000 // size]:
            assert await backend.delete(place.name_of(content), None)
        new = LARGE if size > 32 * 1024 else SMALL
        assert (await place.ingest(backend, new)).outcome == "created"
        assert (await backend.health()).state == "ok"
