"""The order of system calls, and what a failed one means."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from functools import cache
from itertools import pairwise

import pytest
import trio

LARGE = b"0123456789abcdef" * 20_000  # almost five blocks
OLD, NEW = b"old" * 20_000, b"new" * 20_000


@cache
def why_not_traced():
    if shutil.which("strace") is None:
        return "needs strace"
    probe = subprocess.run(["strace", "-qq", "true"], check=False, capture_output=True)
    return "" if probe.returncode == 0 else "needs the right to trace"


def run_traced(options, place, script):
    if why_not_traced():
        pytest.skip(why_not_traced())
    program = PRELUDE + textwrap.dedent(script)
    done = subprocess.run(
        [*STRACE, *options, sys.executable, "-c", program, str(place.path)],
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
from dataplaned.config import FilesystemConfig
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
    backend = FilesystemBackend("b", FilesystemConfig(root=sys.argv[1], min_free_bytes=0))
    await backend.open()
    backend._store.root.run = "0" * 16  # the name of the staged file is known
    await main(backend)
    await backend.aclose()
"""


@pytest.mark.slow
def test_bytes_then_name_then_row_become_durable_before_the_answer(place):
    content = b"order" * 20_000
    _, calls = run_traced(
        ["-e", "trace=/^(fsync|fdatasync|rename.*|write|pwrite64|fchmod|unlink.*)$"],
        place,
        """
        async def main(backend):
            await ingest(backend, b"order" * 20_000)
            print("answered", flush=True)
        trio.run(run)
        """,
    )
    file = f"{place.digests_of(content).blake3.hex()}.{'0' * 16}-0"
    (answered,) = (at for at, call in enumerate(calls) if re.search(r"write\(1<.*answered", call))
    staged = re.escape(f"{place.path}/staging/{'0' * 16}-0")
    shard = re.escape(f"{place.path}/objects/{file[:2]}")
    wal = re.escape(f"{place.path}/catalog.sqlite3-wal")
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
def test_a_small_object_is_on_disk_with_its_row_before_the_answer(place):
    _, calls = run_traced(
        ["-e", "trace=/^(fsync|fdatasync|rename.*|openat|write|pwrite64|unlink.*)$"],
        place,
        """
        async def main(backend):
            print("begin", flush=True)
            await ingest(backend, b"small")
            print("answered", flush=True)
        trio.run(run)
        """,
    )
    (begin,) = (at for at, call in enumerate(calls) if re.search(r"write\(1<.*begin", call))
    (end,) = (at for at, call in enumerate(calls) if re.search(r"write\(1<.*answered", call))
    between = [call for call in calls[begin + 1 : end] if str(place.path) in call]
    wal = re.escape(f"{place.path}/catalog.sqlite3-wal")
    *writes, sync = between
    assert writes
    assert all(re.search(rf"pwrite64\(\d+<{wal}>", call) for call in writes)
    assert re.search(rf"fdatasync\(\d+<{wal}>\) += 0", sync)


@pytest.mark.slow
def test_the_row_is_gone_for_good_before_a_delete_is_answered_and_the_file_after(place):
    _, calls = run_traced(
        ["-e", "trace=/^(fdatasync|fsync|unlink.*|write)$"],
        place,
        """
        async def main(backend):
            await ingest(backend, b"delete" * 20_000)
            print("begin", flush=True)
            await backend.delete(digests_of(b"delete" * 20_000).named("blake3"), None)
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


def staged_file(place):
    return place.path / "staging" / ("0" * 16 + "-0")


def shard_directory(place):
    return place.path / "objects" / place.digests_of(NEW).blake3.hex()[:2]


def write_ahead_log(place):
    return place.path / "catalog.sqlite3-wal"


@pytest.mark.slow
@pytest.mark.trio
@pytest.mark.parametrize(
    ("victim", "when", "reason"),
    [
        (staged_file, "1+", "an object's file could not be synced: Input/output error"),
        (shard_directory, "1+", "an object's file could not be synced: Input/output error"),
        (write_ahead_log, "3+", "the catalog could not commit: SQLITE_IOERR_FSYNC"),
    ],
)
async def test_a_failed_sync_acknowledges_nothing_and_ends_writing_but_not_reading(
    place, victim, when, reason
):
    async with place.opened() as backend:
        await place.ingest(backend, OLD)
    out, calls = await trio.to_thread.run_sync(
        run_traced,
        ["-P", str(victim(place)), "-e", f"inject=fsync,fdatasync:error=EIO:when={when}"],
        place,
        """
        async def attempt(call):
            try:
                return repr(await call)
            except DataPlaneError as exc:
                return [type(exc).__name__, exc.message, exc.retry]

        OLD, NEW = b"old" * 20_000, b"new" * 20_000

        async def main(backend):
            # Each thread's calls are counted for themselves: opening syncs the log twice, and
            # so does this.
            await ingest(backend, b"small")
            await ingest(backend, b"small")
            results = [await attempt(ingest(backend, content)) for content in (NEW, NEW + b"other")]
            old = digests_of(OLD).named("blake3")
            results.append(await attempt(backend.delete(old, None)))
            new = digests_of(NEW).named("blake3")
            results.append(len(await backend.stat([new])))
            async with await backend.open_object(old) as stored:
                results.append((await stored.read(0, 1)).decode()[:3])
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
    async with place.opened() as backend:
        await backend.sweep()
        assert (await place.ingest(backend, NEW)).outcome in ("created", "existed")
        assert len(place.object_files()) == 2
        assert (await backend.health()).writable


@pytest.mark.slow
@pytest.mark.trio
async def test_a_sector_that_cannot_be_read_is_found_by_serving_and_by_verifying(place):
    async with place.opened() as backend:
        await place.ingest(backend, LARGE)
    (file,) = place.object_files()
    out, _ = await trio.to_thread.run_sync(
        run_traced,
        ["-P", str(file), "-e", "inject=pread64:error=EIO"],
        place,
        f"""
        async def main(backend):
            name = Digest("blake3", {place.name_of(LARGE).hex!r})
            verification = await backend.verify(name)
            (status,) = await backend.stat([name])
            row = backend._store.find(name)
            await backend._store.mark_good(row, "")
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
