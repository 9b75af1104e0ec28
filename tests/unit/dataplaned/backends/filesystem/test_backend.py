import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import cache
from itertools import pairwise

import pytest
import trio

from dataplane_protocol import (
    ConflictError,
    NoSpaceError,
    ObjectCorruptError,
    ObjectNotFoundError,
    RangeNotSatisfiableError,
    UnavailableError,
)
from dataplaned.backends.base import BackendError
from dataplaned.backends.filesystem import FilesystemBackend
from dataplaned.digests import BLOCK_SIZE, Digester

CONTENT = b"0123456789abcdef" * 20_000  # almost five blocks


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@asynccontextmanager
async def opened(path):
    backend = FilesystemBackend("b", str(path))
    await backend.open()
    try:
        yield backend
    finally:
        await backend.aclose()


def digests_of(content):
    digester = Digester()
    digester.update([content])
    return digester.finish()


def name_of(content, algorithm="blake3"):
    return digests_of(content).named(algorithm)


async def ingest(backend, content):
    staging = await backend.stage(len(content))
    try:
        await staging.write([content])
        return await staging.publish(digests_of(content))
    finally:
        await staging.abort()


async def read_all(backend, content):
    async with await backend.open_object(name_of(content)) as stored:
        return await stored.read(0, 1_000_000)


async def state_of(backend, content):
    (status,) = await backend.stat([name_of(content)])
    return status.state


def object_files(path):
    return [file for file in (path / "objects").rglob("*") if file.is_file()]


def staged_files(path):
    return list((path / "staging").iterdir())


def damage(path, change):
    """Change the one object file that is there, as a disk could."""
    (file,) = object_files(path)
    file.chmod(0o600)
    change(file)


def flip_first_byte(file):
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])


def grow(file):
    file.write_bytes(file.read_bytes() + b"more")


def truncate(file):
    os.truncate(file, 100)


def unlink(file):
    file.unlink()


# Ingesting.


@pytest.mark.trio
async def test_what_was_acknowledged_is_there_after_opening_again(path):
    async with opened(path) as backend:
        first = await ingest(backend, CONTENT)
    async with opened(path) as backend:
        assert await read_all(backend, CONTENT) == CONTENT
        assert (await ingest(backend, CONTENT)).outcome == "existed"
        assert (await ingest(backend, CONTENT)).generation > first.generation
    assert len(object_files(path)) == 1
    assert staged_files(path) == []


@pytest.mark.trio
@pytest.mark.parametrize("change", [unlink, truncate, grow])
async def test_a_copy_of_the_wrong_size_is_healed_by_an_ingest(path, change):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        damage(path, change)
        assert (await ingest(backend, CONTENT)).outcome == "healed"
        assert await read_all(backend, CONTENT) == CONTENT
        assert (await backend.verify(name_of(CONTENT))).mismatch is None
    assert len(object_files(path)) == 1


@pytest.mark.trio
async def test_a_quarantined_copy_is_healed_by_an_ingest(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        damage(path, flip_first_byte)
        with pytest.raises(ObjectCorruptError, match="damaged"):
            await read_all(backend, CONTENT)
        assert await state_of(backend, CONTENT) == "quarantined"
        with pytest.raises(ObjectCorruptError, match="quarantined"):
            await read_all(backend, CONTENT)
        assert (await ingest(backend, CONTENT)).outcome == "healed"
        assert await state_of(backend, CONTENT) == "ok"
        assert await read_all(backend, CONTENT) == CONTENT
    assert len(object_files(path)) == 1


@pytest.mark.trio
async def test_the_same_bytes_twice_at_once_are_one_object_and_both_are_acknowledged(path):
    published = []

    async def publish(staging):
        published.append(await staging.publish(digests_of(CONTENT)))
        await staging.abort()

    async with opened(path) as backend:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                staging = await backend.stage(None)
                await staging.write([CONTENT])
                nursery.start_soon(publish, staging)
        assert sorted(each.outcome for each in published) == ["created"] + ["existed"] * 7
        assert len({each.generation for each in published}) == 8
        assert (await backend.health()).object_count == 1
        assert await read_all(backend, CONTENT) == CONTENT
    assert len(object_files(path)) == 1
    assert staged_files(path) == []


@pytest.mark.trio
async def test_an_ingest_that_loses_the_race_for_the_row_leaves_no_file(path):
    async with opened(path) as backend:
        root = backend._root
        move = root.adopt

        def lose_the_race(*names):
            root.adopt = move
            backend.publish(other, digests_of(CONTENT))
            move(*names)

        other = backend.stage_file()
        other.write([CONTENT])
        root.adopt = lose_the_race
        assert (await ingest(backend, CONTENT)).outcome == "existed"
        assert await read_all(backend, CONTENT) == CONTENT
    assert len(object_files(path)) == 1


@pytest.mark.trio
async def test_a_copy_found_rotten_during_an_ingest_is_healed_by_it(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        damage(path, flip_first_byte)
        renew = backend._catalog.renew

        def find_damage_first(row):
            backend._mark_rotten(row)
            return renew(row)

        backend._catalog.renew = find_damage_first
        assert (await ingest(backend, CONTENT)).outcome == "healed"
        assert await read_all(backend, CONTENT) == CONTENT


@pytest.mark.trio
async def test_an_ingest_given_up_leaves_nothing(path):
    async with opened(path) as backend:
        staging = await backend.stage(None)
        await staging.write([b"half"])
        assert len(staged_files(path)) == 1
        await staging.abort()
        await staging.abort()
        assert staged_files(path) == []


@pytest.mark.trio
async def test_an_ingest_cancelled_before_its_publish_leaves_nothing(path):
    async with opened(path) as backend:
        with trio.CancelScope() as scope:
            staging = await backend.stage(None)
            try:
                await staging.write([CONTENT])
                scope.cancel()
                await staging.publish(digests_of(CONTENT))
            finally:
                await staging.abort()
        assert scope.cancelled_caught
        assert await backend.stat([name_of(CONTENT)]) == ()
    assert staged_files(path) == object_files(path) == []


@pytest.mark.trio
async def test_a_publish_that_has_begun_is_not_cancelled(path):
    async with opened(path) as backend:
        move = backend._root.adopt

        def cancel_and_move(*names):
            trio.from_thread.run_sync(scope.cancel)
            move(*names)

        backend._root.adopt = cancel_and_move
        with trio.CancelScope() as scope:
            published = await ingest(backend, CONTENT)
            assert published.outcome == "created"
        assert await read_all(backend, CONTENT) == CONTENT


@pytest.mark.trio
async def test_an_empty_object_is_a_file_like_any_other(path):
    async with opened(path) as backend:
        assert (await ingest(backend, b"")).outcome == "created"
        assert await read_all(backend, b"") == b""
        assert (await backend.verify(name_of(b""))).mismatch is None
        damage(path, unlink)
        assert (await ingest(backend, b"")).outcome == "healed"


# Reading while things change.


@pytest.mark.trio
async def test_an_object_stays_readable_when_it_is_deleted_meanwhile(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        async with await backend.open_object(name_of(CONTENT)) as stored:
            first = await stored.read(0, 2)
            assert await backend.delete(name_of(CONTENT), None)
            assert first + await stored.read(2, 4) == CONTENT
        with pytest.raises(ObjectNotFoundError):
            await read_all(backend, CONTENT)
        assert not await backend.delete(name_of(CONTENT), None)


@pytest.mark.trio
async def test_damage_of_an_old_copy_is_not_held_against_the_healed_one(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        damage(path, flip_first_byte)
        async with await backend.open_object(name_of(CONTENT)) as old:
            with pytest.raises(ObjectCorruptError):
                await read_all(backend, CONTENT)
            await ingest(backend, CONTENT)
            with pytest.raises(ObjectCorruptError):
                await old.read(0, 1)
            assert await state_of(backend, CONTENT) == "ok"
            assert await read_all(backend, CONTENT) == CONTENT


@pytest.mark.trio
async def test_a_file_that_is_gone_is_damage_and_a_second_look_says_so_too(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        damage(path, unlink)
        with pytest.raises(ObjectCorruptError, match="has lost its file"):
            await read_all(backend, CONTENT)
        assert await state_of(backend, CONTENT) == "quarantined"


@contextmanager
def before_the_next_opening(backend, change):
    """Do something between the look at a row and the opening of its file."""
    open_file = backend._root.open_file

    def change_and_open(name):
        backend._root.open_file = open_file
        change()
        return open_file(name)

    backend._root.open_file = change_and_open
    yield


@pytest.mark.trio
async def test_an_object_deleted_between_its_row_and_its_file_is_not_found(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        delete = lambda: backend._delete(name_of(CONTENT), None)  # noqa: E731
        with before_the_next_opening(backend, delete), pytest.raises(ObjectNotFoundError):
            await read_all(backend, CONTENT)
        await ingest(backend, CONTENT)
        with before_the_next_opening(backend, delete), pytest.raises(ObjectNotFoundError):
            await backend.verify(name_of(CONTENT))


@pytest.mark.trio
async def test_an_object_replaced_between_its_row_and_its_file_is_read_from_the_new_one(path):
    async with opened(path) as backend:

        def replace():
            backend._delete(name_of(CONTENT), None)
            staged = backend.stage_file()
            staged.write([CONTENT])
            backend.publish(staged, digests_of(CONTENT))

        await ingest(backend, CONTENT)
        with before_the_next_opening(backend, replace):
            assert await read_all(backend, CONTENT) == CONTENT
        with before_the_next_opening(backend, replace):
            assert (await backend.verify(name_of(CONTENT))).mismatch is None
        assert await state_of(backend, CONTENT) == "ok"


@pytest.mark.trio
async def test_a_refused_opening_leaves_no_descriptor_behind(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(RangeNotSatisfiableError):
            await backend.open_object(name_of(CONTENT), (len(CONTENT), len(CONTENT)))
        backend._mark_rotten(backend._find(name_of(CONTENT)))
        with pytest.raises(ObjectCorruptError):
            await backend.open_object(name_of(CONTENT))
        assert len(os.listdir("/proc/self/fd")) == before


async def descriptor_of(backend, content):
    async with await backend.open_object(name_of(content)) as stored:
        fd = stored.take_descriptor()
    if fd is not None:
        os.close(fd)
    return fd


@pytest.mark.trio
async def test_a_descriptor_is_of_a_file_that_was_seen_to_be_right_lately(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        assert await descriptor_of(backend, CONTENT) is not None
        backend._catalog._writer.execute("UPDATE objects SET verified_at_ms = 0")
        assert await descriptor_of(backend, CONTENT) is None
        await backend.verify(name_of(CONTENT))
        assert await descriptor_of(backend, CONTENT) is not None
        damage(path, grow)
        assert await descriptor_of(backend, CONTENT) is None


# Verifying.


@pytest.mark.trio
@pytest.mark.parametrize(
    ("change", "mismatch"),
    [
        (unlink, "file is missing"),
        (truncate, f"size is 100 bytes, must be {len(CONTENT)}"),
        (grow, f"size is {len(CONTENT) + 4} bytes, must be {len(CONTENT)}"),
        (flip_first_byte, f"content differs, first between bytes 0 and {BLOCK_SIZE - 1}"),
    ],
)
async def test_a_verify_says_what_is_wrong_and_marks_the_object(path, change, mismatch):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        damage(path, change)
        verification = await backend.verify(name_of(CONTENT, "sha256"))
        assert verification.mismatch == mismatch
        assert verification.actual != digests_of(CONTENT)
        assert await state_of(backend, CONTENT) == "quarantined"


@pytest.mark.trio
async def test_a_copy_that_is_right_again_is_served_again_after_a_verify(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        damage(path, flip_first_byte)
        assert (await backend.verify(name_of(CONTENT))).mismatch is not None
        damage(path, flip_first_byte)
        assert (await backend.verify(name_of(CONTENT))).mismatch is None
        assert await read_all(backend, CONTENT) == CONTENT


@pytest.mark.trio
async def test_a_verify_tells_what_it_found_when_the_catalog_cannot_note_it(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        backend._catalog._writer.execute("PRAGMA query_only = ON")
        assert (await backend.verify(name_of(CONTENT))).mismatch is None
        damage(path, flip_first_byte)
        assert (await backend.verify(name_of(CONTENT))).mismatch is not None
        with pytest.raises(ObjectCorruptError):
            await read_all(backend, CONTENT)


@pytest.mark.trio
async def test_a_cancelled_verify_closes_the_file(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        before = len(os.listdir("/proc/self/fd"))
        open_file = backend._root.open_file

        def cancel_and_open(name):
            trio.from_thread.run_sync(scope.cancel)
            return open_file(name)

        backend._root.open_file = cancel_and_open
        with trio.CancelScope() as scope:
            await backend.verify(name_of(CONTENT))
        assert scope.cancelled_caught
        assert len(os.listdir("/proc/self/fd")) == before


# Deleting.


@pytest.mark.trio
async def test_a_delete_takes_the_file_and_a_conflict_leaves_it(path):
    async with opened(path) as backend:
        old = await ingest(backend, CONTENT)
        new = await ingest(backend, CONTENT)
        with pytest.raises(ConflictError):
            await backend.delete(name_of(CONTENT), old.generation)
        assert len(object_files(path)) == 1
        assert await backend.delete(name_of(CONTENT, "sha256"), new.generation)
        assert object_files(path) == []
    async with opened(path) as backend:
        assert await backend.stat([name_of(CONTENT)]) == ()


# No room, no descriptors, a locked catalog: refused, and nothing is in doubt.


@contextmanager
def soft_limit(kind, value):
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


async def assert_nothing_happened(backend, path):
    assert await backend.stat([name_of(CONTENT)]) == ()
    assert staged_files(path) == object_files(path) == []
    assert (await backend.health()).state == "ok"
    assert (await ingest(backend, CONTENT)).outcome == "created"


@pytest.mark.trio
async def test_a_write_beyond_a_limit_is_no_space(path):
    async with opened(path) as backend:
        with soft_limit(resource.RLIMIT_FSIZE, 200_000), pytest.raises(NoSpaceError):
            await ingest(backend, CONTENT)
        await assert_nothing_happened(backend, path)


async def fill_up(backend, size):
    """Ingest until there is no space; give what was stored."""
    stored = []
    for number in range(1_000):
        content = number.to_bytes(4, "big") * (size // 4)
        try:
            await ingest(backend, content)
        except NoSpaceError:
            return stored
        stored.append(content)
    raise AssertionError("there is always more space")


@pytest.mark.trio
async def test_a_catalog_without_room_is_no_space_and_leaves_no_file(path):
    async with opened(path) as backend:
        writer = backend._catalog._writer
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages}")
        stored = await fill_up(backend, BLOCK_SIZE)
        assert len(object_files(path)) == len(stored)
        assert staged_files(path) == []
        assert (await backend.health()).object_count == len(stored)
        writer.execute("PRAGMA max_page_count = 1000000")
        assert (await ingest(backend, CONTENT)).outcome == "created"


@pytest.mark.trio
async def test_running_out_of_descriptors_is_unavailable_and_passes(path):
    async with opened(path) as backend:
        staged = backend.stage_file()
        staged.write([CONTENT])
        lowest = os.dup(0)
        os.close(lowest)
        with ExitStack() as stack, soft_limit(resource.RLIMIT_NOFILE, lowest + 8):
            with suppress(OSError):
                while True:
                    stack.callback(os.close, os.dup(0))
            with pytest.raises(OSError, match="Too many open files"):
                backend.publish(staged, digests_of(CONTENT))
        staged.discard()
        await assert_nothing_happened(backend, path)


@pytest.mark.trio
async def test_a_catalog_that_somebody_else_holds_is_unavailable_and_passes(path):
    async with opened(path) as backend:
        backend._catalog._writer.execute("PRAGMA busy_timeout = 0")
        holder = sqlite3.connect(path / "catalog.sqlite3", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match="SQLITE_BUSY") as caught:
            await ingest(backend, CONTENT)
        assert caught.value.retry
        holder.close()
        await assert_nothing_happened(backend, path)


@pytest.fixture
def tiny_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs to mount a tmpfs")
    yield disk / "store"
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.trio
async def test_a_full_disk_refuses_serves_and_takes_up_again_after_a_delete(tiny_disk):
    async with opened(tiny_disk) as backend:
        stored = await fill_up(backend, 100_000)
        assert staged_files(tiny_disk) == []
        assert len(object_files(tiny_disk)) == len(stored)
        for content in stored:
            assert await read_all(backend, content) == content
            assert (await backend.verify(name_of(content))).mismatch is None
        (tiny_disk.parent / "filler").write_bytes(bytes(os.statvfs(tiny_disk).f_bavail * 4096))
        assert os.statvfs(tiny_disk).f_bavail == 0
        for content in stored[:5]:
            assert await backend.delete(name_of(content), None)
        assert (await ingest(backend, CONTENT)).outcome == "created"
        assert (await backend.health()).state == "ok"


# Health.


@pytest.mark.trio
async def test_health_counts_and_measures(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        health = await backend.health()
        assert (health.state, health.writable, health.object_count) == ("ok", True, 1)
        assert health.message is None
        assert health.free_bytes is not None
        assert health.total_bytes is not None
        assert 0 < health.free_bytes < health.total_bytes
    assert staged_files(path) == []


@pytest.mark.trio
async def test_a_root_that_was_replaced_is_down_and_named_without_its_path(path):
    async with opened(path) as backend:
        path.rename(path.with_name("moved"))
        path.mkdir()
        health = await backend.health()
        assert (health.state, health.writable) == ("down", False)
        assert health.message == "backend b failed: directory was replaced"
    assert list(path.iterdir()) == []


# Opening.


@pytest.mark.trio
async def test_files_without_a_row_are_swept_by_the_next_run_only(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
        kept = object_files(path)
        unnamed = backend.stage_file()
        unnamed.publish(digests_of(b"").blake3)
        backend.stage_file().write([b"half"])
        await backend.sweep()
        assert len(object_files(path)) == 2
        assert len(staged_files(path)) == 1
    async with opened(path) as backend:
        await backend.sweep()
        assert object_files(path) == kept
        assert staged_files(path) == []
        assert await read_all(backend, CONTENT) == CONTENT


@pytest.mark.trio
async def test_a_store_in_use_is_refused(path):
    async with opened(path):
        with pytest.raises(BackendError, match="in use by process"):
            await FilesystemBackend("other", str(path)).open()


@pytest.mark.trio
async def test_a_catalog_that_cannot_be_read_is_named_and_the_store_is_let_go(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
    catalog = path / "catalog.sqlite3"
    good = catalog.read_bytes()
    catalog.write_bytes(b"certainly not SQLite" * 1000)
    with pytest.raises(BackendError, match=r"catalog .*/catalog\.sqlite3 cannot be opened"):
        await FilesystemBackend("b", str(path)).open()
    catalog.write_bytes(good)
    async with opened(path) as backend:
        assert await read_all(backend, CONTENT) == CONTENT


@pytest.mark.trio
async def test_a_place_that_cannot_be_a_directory_is_named(path):
    path.write_text("")
    with pytest.raises(BackendError, match=f"store {path} cannot be opened"):
        await FilesystemBackend("b", str(path)).open()


# The order of system calls, and what a failed one means.


@cache
def why_not_traced():
    if shutil.which("strace") is None:
        return "needs strace"
    probe = subprocess.run(["strace", "-qq", "true"], check=False, capture_output=True)
    return "" if probe.returncode == 0 else "needs the right to trace"


def run_traced(options, path, script):
    if why_not_traced():
        pytest.skip(why_not_traced())
    program = PRELUDE + textwrap.dedent(script)
    done = subprocess.run(
        [*STRACE, *options, sys.executable, "-c", program, str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.splitlines()


STRACE = ("strace", "-f", "-qq", "-y", "-o", "/dev/fd/2")

PRELUDE = """
import json, sys, trio
from dataplane_protocol import DataPlaneError, Digest
from dataplaned.backends.filesystem import FilesystemBackend
from dataplaned.digests import Digester

def digests_of(content):
    digester = Digester()
    digester.update([content])
    return digester.finish()

async def ingest(backend, content):
    staging = await backend.stage(None)
    try:
        await staging.write([content])
        return await staging.publish(digests_of(content))
    finally:
        await staging.abort()

async def run():
    backend = FilesystemBackend("b", sys.argv[1])
    await backend.open()
    backend._root._run = "0" * 16  # the name of the staged file is known
    await main(backend)
    await backend.aclose()
"""


@pytest.mark.slow
def test_bytes_then_name_then_row_become_durable_before_the_answer(path):
    content = b"order"
    _, calls = run_traced(
        ["-e", "trace=/^(fsync|fdatasync|rename.*|write|pwrite64|fchmod|unlink.*)$"],
        path,
        """
        async def main(backend):
            await ingest(backend, b"order")
            print("answered", flush=True)
        trio.run(run)
        """,
    )
    file = f"{digests_of(content).blake3.hex()}.{'0' * 16}-0"
    (answered,) = (at for at, call in enumerate(calls) if re.search(r"write\(1<.*answered", call))
    staged = re.escape(f"{path}/staging/{'0' * 16}-0")
    shard = re.escape(f"{path}/objects/{file[:2]}")
    wal = re.escape(f"{path}/catalog.sqlite3-wal")
    steps = [
        rf"write\(\d+<{staged}>",
        rf"fchmod\(\d+<{staged}>, 0400\)",
        rf"fsync\(\d+<{staged}>\) += 0",
        rf"rename\w*\(.*{re.escape(file)}",
        rf"fsync\(\d+<{shard}>\) += 0",
        rf"pwrite64\(\d+<{wal}>",
        rf"f(data)?sync\(\d+<{wal}>\) += 0",
    ]
    begun = next(at for at, call in enumerate(calls) if re.search(steps[0], call))
    calls = calls[begun:answered]
    found = [[at for at, call in enumerate(calls) if re.search(step, call)] for step in steps]
    assert all(found)
    # The last of each is before the first of the next; the WAL is synced for its header too.
    assert all(before[-1] < after[0] for before, after in pairwise(found[:-1]))
    assert found[-2][-1] < found[-1][-1]


@pytest.mark.slow
def test_the_row_is_gone_for_good_before_a_delete_is_answered_and_the_file_after(path):
    _, calls = run_traced(
        ["-e", "trace=/^(fdatasync|fsync|unlink.*|write)$"],
        path,
        """
        async def main(backend):
            await ingest(backend, b"delete")
            print("begin", flush=True)
            await backend.delete(digests_of(b"delete").named("blake3"), None)
            print("answered", flush=True)
        trio.run(run)
        """,
    )
    (begin,) = (at for at, call in enumerate(calls) if re.search(r"write\(1<.*begin", call))
    (end,) = (at for at, call in enumerate(calls) if re.search(r"write\(1<.*answered", call))
    between = calls[begin + 1 : end]
    synced = [at for at, call in enumerate(between) if "catalog.sqlite3-wal>) " in call]
    unlinked = [at for at, call in enumerate(between) if "unlink" in call and "objects/" in call]
    assert len(unlinked) == 1
    assert max(synced) < unlinked[0]


def staged_file(path):
    return path / "staging" / ("0" * 16 + "-0")


def shard_directory(path):
    return path / "objects" / digests_of(b"new").blake3.hex()[:2]


def write_ahead_log(path):
    return path / "catalog.sqlite3-wal"


@pytest.mark.slow
@pytest.mark.trio
@pytest.mark.parametrize(
    ("victim", "reason"),
    [
        (staged_file, "an object's file could not be synced: Input/output error"),
        (shard_directory, "an object's file could not be synced: Input/output error"),
        (write_ahead_log, "the catalog could not commit: SQLITE_IOERR_FSYNC"),
    ],
)
async def test_a_failed_sync_acknowledges_nothing_and_ends_writing_but_not_reading(
    path, victim, reason
):
    async with opened(path) as backend:
        await ingest(backend, b"old")
    out, calls = await trio.to_thread.run_sync(
        run_traced,
        ["-P", str(victim(path)), "-e", "inject=fsync,fdatasync:error=EIO"],
        path,
        """
        async def attempt(call):
            try:
                return repr(await call)
            except DataPlaneError as exc:
                return [type(exc).__name__, exc.message, exc.retry]

        async def main(backend):
            results = [await attempt(ingest(backend, content)) for content in (b"new", b"other")]
            old = digests_of(b"old").named("blake3")
            results.append(await attempt(backend.delete(old, None)))
            new = digests_of(b"new").named("blake3")
            results.append(len(await backend.stat([new])))
            async with await backend.open_object(old) as stored:
                results.append((await stored.read(0, 1)).decode())
            results.append((await backend.verify(old)).mismatch)
            health = await backend.health()
            results.append([health.state, health.writable, health.message])
            print("RESULTS", json.dumps(results), flush=True)
        trio.run(run)
        """,
    )
    assert any("(INJECTED)" in call for call in calls)
    results = json.loads(out.partition("RESULTS ")[2])
    first, second, deletion, visible, old, mismatch, health = results
    assert first[0] == "UnavailableError"
    for refused in (second, deletion):
        assert refused == ["UnavailableError", f"backend b is read-only since {reason}", False]
    assert (visible, old, mismatch) == (0, "old", None)
    assert health == ["degraded", False, f"read-only since {reason}"]
    async with opened(path) as backend:
        await backend.sweep()
        assert (await ingest(backend, b"new")).outcome in ("created", "existed")
        assert len(object_files(path)) == 2
        assert (await backend.health()).writable


@pytest.mark.slow
@pytest.mark.trio
async def test_a_sector_that_cannot_be_read_is_found_by_serving_and_by_verifying(path):
    async with opened(path) as backend:
        await ingest(backend, CONTENT)
    (file,) = object_files(path)
    out, _ = await trio.to_thread.run_sync(
        run_traced,
        ["-P", str(file), "-e", "inject=pread64:error=EIO"],
        path,
        f"""
        async def main(backend):
            name = Digest("blake3", {name_of(CONTENT).hex!r})
            verification = await backend.verify(name)
            (status,) = await backend.stat([name])
            backend._catalog.mark_good(backend._catalog.find(name), "")
            try:
                async with await backend.open_object(name) as stored:
                    await stored.read(0, 1)
            except DataPlaneError as exc:
                error = type(exc).__name__
            print("RESULTS", json.dumps([verification.mismatch, status.state, error]), flush=True)
        trio.run(run)
        """,
    )
    assert json.loads(out.partition("RESULTS ")[2]) == [
        "cannot be read at byte 0: Input/output error",
        "quarantined",
        "ObjectCorruptError",
    ]
