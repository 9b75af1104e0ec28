"""Stored bytes that have changed, under a running daemon and beneath a hot page cache."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dataplane_client import blocking
from dataplane_protocol import (
    DataPlaneError,
    IngestOutcome,
    ObjectCorruptError,
    ObjectState,
)
from dataplaned.backends.filesystem import store as store_module

from .rotting import (
    BYSTANDERS,
    CONTENT_ROT,
    FILE_ROT,
    LARGE,
    LARGE_ROW_ROT,
    LARGE_TWIN,
    SMALL,
    SMALL_ROW_ROT,
    Range,
    Rot,
    address_of,
    cut,
    digest_of,
    edit,
    filled,
    made,
    opened,
    scrubbing,
    set_column,
    verifying,
)


@pytest.fixture(autouse=True)
def nobody_is_calling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the scrub begin at once, and not 0.2 seconds after the last call."""
    monkeypatch.setattr(store_module, "_BUSY_S", 0.0)


# The same through a daemon and its socket.


def content_for(number: int, *, is_small: bool) -> bytes:
    return made(1000 + number, len(SMALL) if is_small else len(LARGE))


class Ward:
    """A daemon with one object, and its twin, for each kind of rot."""

    def __init__(self, daemon: Any) -> None:
        self.daemon = daemon
        self.root = daemon.root
        self.patients: dict[str, tuple[Rot, bytes, bytes]] = {}
        for number, (kind, rot) in enumerate(
            [("file", rot) for rot in FILE_ROT]
            + [("row", rot) for rot in (*CONTENT_ROT, *SMALL_ROW_ROT)]
            + [("large-row", rot) for rot in LARGE_ROW_ROT]
        ):
            pair = [content_for(2 * number + k, is_small=kind == "row") for k in (0, 1)]
            self.patients[f"{kind}-{rot}"] = (rot, pair[0], pair[1])
        # Two objects cannot have one SHA-256.
        del self.patients["large-row-sha256"]

    @contextlib.contextmanager
    def client(self) -> Iterator[blocking.BlockingDataPlaneClient]:
        with blocking.connect(self.daemon.socket_path) as plane:
            yield plane

    def fill(self) -> None:
        with self.client() as plane:
            for content in self.contents():
                assert plane.ingest_stream([content]).receipt.outcome == IngestOutcome.CREATED

    def contents(self) -> Iterator[bytes]:
        yield from BYSTANDERS
        for _, content, twin in self.patients.values():
            yield content
            yield twin

    def damage(self) -> None:
        def change(catalog: sqlite3.Connection) -> None:
            for rot, content, twin in self.patients.values():
                if rot in FILE_ROT:
                    file = self.file(content)
                    rot.change(file, self.file(twin))
                    if file.is_file() and not file.is_symlink():
                        os.utime(file, (0, 0))
                else:
                    rot.change(catalog, digest_of(content), digest_of(twin))

        edit(self.root, change)

    def file(self, content: bytes) -> Path:
        name = digest_of(content).hex()
        (file,) = (self.root / "objects" / name[:2]).glob(f"{name}.*")
        return file

    def is_sound(self, content: bytes) -> bool:
        return not any(
            content == patient or (rot.reaches_twin and content == twin)
            for rot, patient, twin in self.patients.values()
        )

    def check_after_damage(self) -> None:
        """Whatever is asked for comes right or as a typed error, and the sound comes right."""
        with self.client() as plane:
            for name, (rot, content, _) in self.patients.items():
                if rot.spared is not None:
                    assert fetch(plane, content, rot.spared) is not None, name
                for byte_range in (rot.touched, None):
                    got = fetch(plane, content, byte_range)
                    assert (got is not None) == (rot.is_harmless and byte_range is None), name
            self.check_found(plane)

    def check_found(self, plane: blocking.BlockingDataPlaneClient) -> None:
        for content in self.contents():
            is_sound = self.is_sound(content)
            assert plane.verify_object(address_of(content)).verified == is_sound
            (status,) = plane.stat_objects([address_of(content)])
            assert status.state == (ObjectState.OK if is_sound else ObjectState.QUARANTINED)
            assert (fetch(plane, content) is not None) == is_sound
        assert plane.backend_health().writable

    def heal(self) -> None:
        with self.client() as plane:
            for content in self.contents():
                outcome = plane.ingest_stream([content]).receipt.outcome
                is_sound = self.is_sound(content)
                assert outcome == (IngestOutcome.EXISTED if is_sound else IngestOutcome.HEALED)
            for content in self.contents():
                assert fetch(plane, content) == content
                assert plane.verify_object(address_of(content)).verified
        self.check_quarantine()

    def check_quarantine(self) -> None:
        kept = sum((not rot.is_missing) + rot.reaches_twin for rot, _, _ in self.patients.values())
        assert query(self.root, "SELECT count(*) FROM quarantine") == [(kept,)]
        assert self.daemon.process.poll() is None
        assert self.daemon.events("session_failed") == []


def fetch(
    plane: blocking.BlockingDataPlaneClient, content: bytes, byte_range: Range | None = None
) -> bytes | None:
    """Serve; the exact bytes, or `None` for an object that is corrupt."""
    try:
        with plane.serve_object(address_of(content), byte_range=byte_range) as served:
            got = b"".join(served)
    except ObjectCorruptError:
        return None
    assert got == cut(content, byte_range), "wrong bytes left"
    return got


def query(root: Path, statement: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(root / "catalog.sqlite3", timeout=30)) as catalog:
        return catalog.execute(statement).fetchall()


@pytest.mark.slow
def test_rot_under_a_running_daemon_reaches_no_client(daemon: Any) -> None:
    ward = Ward(daemon)
    ward.fill()
    ward.damage()
    ward.check_after_damage()
    ward.heal()


@pytest.mark.slow
def test_rot_while_no_daemon_runs_reaches_no_client(daemon: Any) -> None:
    ward = Ward(daemon)
    ward.fill()
    assert daemon.stop() == 0
    ward.damage()
    daemon.start()
    ward.check_after_damage()
    ward.heal()
    # What is in quarantine stays there, over restarts, and in nobody's way.
    daemon.kill()
    daemon.start()
    assert daemon.wait_for("swept")
    ward.check_quarantine()
    with ward.client() as plane:
        assert all(fetch(plane, content) == content for content in ward.contents())


@pytest.mark.slow
def test_the_scrub_of_a_daemon_finds_all_rot_by_itself(daemon: Any) -> None:
    ward = Ward(daemon)
    ward.fill()
    assert daemon.stop() == 0
    ward.damage()
    ask = "UPDATE store SET scrub_asked_at_ms = 1 + (SELECT max(verified_at_ms) FROM objects)"
    edit(ward.root, lambda catalog: catalog.execute(ask))
    daemon.start()
    assert daemon.wait_for("scrubbed")
    (line,) = daemon.events("scrubbed")
    rotten = sum(1 + rot.reaches_twin for rot, _, _ in ward.patients.values())
    assert (line["rotten"], line["objects"]) == (rotten, len(list(ward.contents())))
    assert daemon.events("scrub_failed") == []
    with ward.client() as plane:
        ward.check_found(plane)
    ward.heal()


#: -D keeps the daemon our child.
TRACER = ("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64")


def can_trace() -> bool:
    strace = shutil.which("strace")
    command = [str(strace), "-o", "/dev/null", "true"]
    return bool(strace) and not subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.slow
@pytest.mark.skipif(not can_trace(), reason="needs strace and leave to trace")
@pytest.mark.parametrize("finder", ["serve", "range", "verify", "scrub"])
def test_a_file_that_the_disk_cannot_read_is_rotten(daemon: Any, finder: str) -> None:
    with blocking.connect(daemon.socket_path) as plane:
        for content in (LARGE, LARGE_TWIN, *BYSTANDERS):
            plane.ingest_stream([content])
    (file,) = (daemon.root / "objects").rglob(f"{digest_of(LARGE).hex()}.*")
    assert daemon.stop() == 0
    os.utime(file)  # so that no client gets it as a descriptor
    if finder == "scrub":
        ask = "UPDATE store SET scrub_asked_at_ms = 1 + (SELECT max(verified_at_ms) FROM objects)"
        edit(daemon.root, lambda catalog: catalog.execute(ask))
    daemon.start(wrapper=[*TRACER, "-P", str(file), "-e", "inject=pread64:error=EIO"])
    with blocking.connect(daemon.socket_path) as plane:
        if finder == "scrub":
            assert daemon.wait_for("scrubbed")
        elif finder == "verify":
            assert not plane.verify_object(address_of(LARGE)).verified
        else:
            set_column("stamp", "")  # nothing may be handed out as a descriptor
            byte_range = (9, 99) if finder == "range" else None
            assert fetch(plane, LARGE, byte_range) is None
        (status,) = plane.stat_objects([address_of(LARGE)])
        assert status.state == ObjectState.QUARANTINED
        assert fetch(plane, LARGE) is None
        for content in (LARGE_TWIN, *BYSTANDERS):
            assert fetch(plane, content) == content
        assert plane.ingest_stream([LARGE]).receipt.outcome == IngestOutcome.HEALED
        assert fetch(plane, LARGE) == LARGE
        assert plane.verify_object(address_of(LARGE)).verified
    assert file.exists()


# A disk that changes beneath the page cache.

IS_CI = os.environ.get("CI") == "true"

#: On a build machine the tests run as somebody who may become root.
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


def why_no_disk() -> str | None:
    """Say why no filesystem in a file can be mounted here."""
    if (
        "ext4" not in Path("/proc/filesystems").read_text()
        or not Path("/dev/loop-control").exists()
    ):
        return "the kernel has no ext4 or no loop devices"
    if IS_CI:
        return None  # whatever else is missing there is a failure
    if os.geteuid() != 0:
        return "needs root to mount"
    return None if shutil.which("mkfs.ext4") else "needs mkfs.ext4"


class Disk:
    """An ext4 filesystem in a file, mounted; the file can be changed beneath its cache."""

    def __init__(self, image: Path, mounted: Path) -> None:
        self._image = image
        self.root = mounted / "store"

    def sync(self) -> None:
        subprocess.run(["sync", "-f", str(self.root)], check=True)

    def rot(self, content: bytes) -> None:
        """Change a byte of these bytes wherever the disk has them."""
        self.sync()
        # Pages of a catalog break the bytes every 4 KiB; one such needle is in one piece.
        found = 0
        with self._image.open("r+b") as out:
            whole = out.read()
            for start in range(0, len(content) - 600, 600):
                needle = content[start : start + 600]
                at = whole.find(needle)
                while at >= 0:
                    out.seek(at + 300)
                    out.write(bytes([whole[at + 300] ^ 1]))
                    found += 1
                    at = whole.find(needle, at + 1)
                if found:
                    break
        assert found, "the bytes are nowhere on the disk"


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Disk]:
    reason = why_no_disk()
    if reason is not None:
        pytest.skip(reason)
    image, mounted = tmp_path / "disk", tmp_path / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(48 * 1024 * 1024)

    def run(*command: str) -> str:
        done = subprocess.run([*AS_ROOT, *command], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    with contextlib.ExitStack() as stack:
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
        device = run("losetup", "-f", "--show", str(image))
        stack.callback(run, "losetup", "-d", device)
        run("mount", device, str(mounted))
        stack.callback(run, "umount", str(mounted))
        run("chown", str(os.getuid()), str(mounted))
        yield Disk(image, mounted)


@pytest.mark.slow
@pytest.mark.trio
@pytest.mark.parametrize("finder", [verifying, scrubbing])
@pytest.mark.parametrize("place", ["file", "catalog", "wal"])
async def test_a_disk_that_rots_beneath_a_hot_cache_is_found(
    disk: Disk, place: str, finder: Any
) -> None:
    content = LARGE if place == "file" else SMALL
    wal = disk.root / "catalog.sqlite3-wal"
    rot = Rot("beneath", lambda: None, keeps_size=True)
    async with filled(disk.root):
        assert wal.stat().st_size > len(SMALL)
    async with opened(disk.root) as shelf:
        if place == "wal":
            # A copy that came after the last checkpoint is in the log alone.
            assert await shelf.backend.delete(address_of(SMALL).to_digest(), None)
            content = made(7, 20_000)
            assert await shelf.put(content) == IngestOutcome.CREATED
            assert wal.stat().st_size > len(content)
        assert await shelf.get(content) == content
        disk.rot(content)
        # The cache still has the right bytes. Serving those is right, and no proof of anything.
        with contextlib.suppress(ObjectCorruptError):
            assert await shelf.get(content) == content
        await finder(shelf, content, rot)
        assert await shelf.state(content) == ObjectState.QUARANTINED
        assert len(await shelf.quarantine()) == 1
        with pytest.raises(DataPlaneError) as caught:
            await shelf.get(content)
        assert caught.value.code == "corrupt"
        for other in BYSTANDERS:
            assert await shelf.get(other) == other
            assert await shelf.verify(other)
        assert await shelf.put(content) == IngestOutcome.HEALED
        assert await shelf.get(content) == content
        assert await shelf.verify(content)
        assert len(await shelf.quarantine()) == 1
