"""Filesystems of a few megabytes that fill up, break or are cut off, and two of them at once.

Every test ends with the same question to a daemon that was started again: is everything there
that was acknowledged, and nothing torn?
"""

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dataplane_protocol import (
    NoSpaceError,
    UnavailableError,
)

from .caller import HUGE, LARGE, SMALL, Caller, address_of, content, stored_before
from .places import WAL_SYNC, staged_file

# Tiny filesystems.


class Disk:
    """A mounted filesystem of a few megabytes."""

    def __init__(self, path: Path, source: str, kind: str, options: str = "") -> None:
        self.path = path
        self.store = path / "store"
        self._source = source
        self._kind = kind
        self._options = options

    def mount(self) -> None:
        options = ["-o", self._options] if self._options else []
        run("mount", "-t", self._kind, *options, self._source, str(self.path))

    def unmount(self) -> None:
        run("umount", str(self.path))

    def break_off(self) -> None:
        """Turn it read-only as the kernel does when it finds the filesystem damaged.

        A plain remount is refused while the daemon has files open for writing.
        """
        run("mount", "-o", "remount,abort", str(self.path))

    def cut_off(self) -> None:
        """Forget all that was not synced, and fail from now on, as if the power was gone.

        `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, include/uapi/linux/ext4.h.
        """
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, 0x8004587D, struct.pack("I", 2))
        finally:
            os.close(fd)

    def fill_up(self) -> None:
        """Take every byte that is left."""
        fd = os.open(self.path / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for size in (65_536, 1_024, 1):
            with contextlib.suppress(OSError):
                while os.write(fd, bytes(size)):
                    pass
        os.fsync(fd)
        os.close(fd)


def run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout.strip()


@contextlib.contextmanager
def mounted(disk: Disk) -> Iterator[Disk]:
    disk.path.mkdir()
    disk.mount()
    try:
        yield disk
    finally:
        while os.path.ismount(disk.path):
            run("umount", "-l", str(disk.path))


@contextlib.contextmanager
def tiny_tmpfs(directory: Path, options: str = "size=12m") -> Iterator[Disk]:
    with mounted(Disk(directory / "tmpfs", "tmpfs", "tmpfs", options)) as disk:
        yield disk


@contextlib.contextmanager
def tiny_ext4(directory: Path) -> Iterator[Disk]:
    if "\text4\n" not in Path("/proc/filesystems").read_text():
        pytest.skip("kernel has no ext4")
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("kernel has no loop devices")
    image = directory / "ext4.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ext4", "-q", "-F", "-m0", str(image))
    device = run("losetup", "-f", "--show", str(image))
    try:
        with mounted(Disk(directory / "ext4", device, "ext4")) as disk:
            yield disk
    finally:
        run("losetup", "-d", device)


@pytest.fixture(scope="session")
def may_mount(
    require: Callable[[bool, str], None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    require(os.geteuid() == 0, "root")
    try:
        with tiny_tmpfs(tmp_path_factory.mktemp("probe")):
            pass
    except OSError as exc:
        require(False, f"leave to mount: {exc}")


DISKS = {"ext4": tiny_ext4, "tmpfs": tiny_tmpfs}


@contextlib.contextmanager
def daemon_on(disk: Disk, daemon_process: Any) -> Iterator[Any]:
    with daemon_process(("--root", str(disk.store))) as daemon:
        daemon.root = disk.store
        yield daemon


def ingest_until_full(caller: Caller, size: int) -> list[bytes]:
    """Ingest until there is no space; give what was acknowledged."""
    stored = []
    for number in range(1_000):
        data = content(size, number)
        try:
            caller.ingest(data)
        except NoSpaceError:
            return stored
        stored.append(data)
    raise AssertionError("there is always more space")


@pytest.mark.slow
@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("kind", DISKS)
def test_a_full_disk_refuses_serves_and_has_room_again_after_deletes(
    kind: str, short_path: Path, daemon_process: Any
) -> None:
    with (
        DISKS[kind](short_path) as disk,
        daemon_on(disk, daemon_process) as daemon,
        stored_before(daemon) as caller,
    ):
        stored = ingest_until_full(caller, LARGE)
        disk.fill_up()
        more = ingest_until_full(caller, SMALL)
        assert daemon.files("staging") == []
        assert caller.health().state == "degraded"
        assert not caller.health().writable
        caller.check()
        for data in stored:
            caller.delete(data)
        for data in (*more, *stored[:3]):
            caller.ingest(data)
        assert caller.health().state == "ok"
        caller.check()
        daemon.kill()
        daemon.start()
        (disk.path / "filler").unlink()
        caller.check_after_restart()


@pytest.mark.slow
@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("kind", DISKS)
def test_any_number_of_small_objects_can_be_deleted_from_a_full_disk(
    kind: str, short_path: Path, daemon_process: Any
) -> None:
    """A delete frees less than writing it down takes, and a new WAL has no room to reuse."""
    with (
        DISKS[kind](short_path) as disk,
        daemon_on(disk, daemon_process) as daemon,
        stored_before(daemon) as caller,
    ):
        small = [content(SMALL, number) for number in range(300)]
        for data in small:
            caller.ingest(data)
        daemon.stop()
        daemon.start()
        assert daemon.wait_for("swept")
        disk.fill_up()
        for data in small:
            caller.delete(data)
        caller.check()
        (disk.path / "filler").unlink()
        daemon.kill()
        daemon.start()
        caller.check_after_restart()


@pytest.mark.slow
@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("kind", DISKS)
def test_a_full_disk_can_be_started_on_and_emptied(
    kind: str, short_path: Path, daemon_process: Any
) -> None:
    with DISKS[kind](short_path) as disk, daemon_on(disk, daemon_process) as daemon:
        with stored_before(daemon) as caller:
            stored = ingest_until_full(caller, LARGE)
            disk.fill_up()
            assert daemon.stop() == 0
            disk.fill_up()
            daemon.start()
            assert daemon.wait_for("swept")
            caller.check()
            for data in stored:
                caller.delete(data)
            caller.ingest(stored[0])
            daemon.kill()
            daemon.start()
            (disk.path / "filler").unlink()
            caller.check_after_restart()


@pytest.mark.slow
@pytest.mark.usefixtures("may_mount")
def test_a_disk_without_inodes_refuses_files_and_has_room_again_after_deletes(
    short_path: Path, daemon_process: Any
) -> None:
    with (
        tiny_tmpfs(short_path, "size=64m,nr_inodes=300") as disk,
        daemon_on(disk, daemon_process) as daemon,
        stored_before(daemon) as caller,
    ):
        stored = ingest_until_full(caller, LARGE)
        assert os.statvfs(disk.path).f_favail == 0
        assert daemon.files("staging") == []
        caller.check()
        for data in stored[:10]:
            caller.delete(data)
        caller.ingest(content(LARGE, "again"))
        daemon.kill()
        daemon.start()
        caller.check_after_restart()


@pytest.mark.slow
@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("moment", ["between calls", "in the middle of an ingest"])
@pytest.mark.parametrize("accident", [Disk.break_off, Disk.cut_off], ids=["read-only", "cut-off"])
def test_a_disk_that_breaks_keeps_what_was_acknowledged(
    accident: Callable[[Disk], None], moment: str, short_path: Path, daemon_process: Any
) -> None:
    with (
        tiny_ext4(short_path) as disk,
        daemon_on(disk, daemon_process) as daemon,
        stored_before(daemon) as caller,
    ):
        deleted = [content(size, "deleted") for size in (SMALL, LARGE)]
        for data in deleted:
            caller.ingest(data)
            caller.delete(data)
        healed = content(LARGE, "healed")
        caller.ingest(healed)
        (path,) = daemon.root.glob(f"objects/*/{address_of(healed).to_digest().hex}.*")
        os.truncate(path, 5)
        caller.ingest(healed)
        data = content(HUGE, "new")
        if moment == "between calls":
            accident(disk)
            told = caller.failure(caller.ingest, data)
        else:

            def happens() -> None:
                staged_file(daemon, data)
                accident(disk)

            told = caller.failure(caller.ingest, data, between=happens)
        assert isinstance(told, UnavailableError)
        for size in (SMALL, LARGE):
            error = caller.failure(caller.ingest, content(size, "later"))
            assert isinstance(error, UnavailableError)
        before = content(SMALL, "before")
        assert isinstance(caller.failure(caller.delete, before), UnavailableError)
        assert not caller.health().writable
        if accident is Disk.break_off:
            caller.check_reads()
        daemon.kill()
        disk.unmount()
        disk.mount()
        daemon.start()
        caller.check_after_restart()


# Two backends in one daemon.


@contextlib.contextmanager
def daemon_with_two(
    directory: Path, first: Path, second: Path, daemon_process: Any
) -> Iterator[Any]:
    config = directory / "config.toml"
    config.write_text(
        f'[backend.broken]\ntype = "filesystem"\nroot = "{first}"\n'
        f'[backend.well]\ntype = "filesystem"\nroot = "{second}"\n'
    )
    with daemon_process(("--config", str(config))) as daemon:
        yield daemon


def check_that_only_one_suffers(daemon: Any, broken: Caller, well: Caller, kind: type) -> None:
    for size in (SMALL, LARGE):
        assert isinstance(broken.failure(broken.ingest, content(size, "new")), kind)
        well.ingest(content(size, "new"))
    well.check()
    broken.check_reads()
    well.delete(content(LARGE, "before"))
    states = {one.backend_id: one for one in well.plane.list_backends().backends}
    assert (states["well"].state, states["well"].writable) == ("ok", True)
    assert states["broken"].state != "ok"
    assert not states["broken"].writable
    assert daemon.process.poll() is None


def check_both_after_restart(daemon: Any, broken: Caller, well: Caller) -> None:
    for caller in (broken, well):
        caller.check()
        caller.check_takes_writes()


@pytest.mark.slow
def test_a_failed_sync_makes_one_backend_read_only_and_not_the_other(
    short_path: Path, daemon_process: Any, tamper: Any
) -> None:
    with (
        daemon_with_two(short_path, short_path / "a", short_path / "b", daemon_process) as daemon,
        stored_before(daemon, "broken") as broken,
        stored_before(daemon, "well") as well,
    ):
        wal = short_path / "a" / "catalog.sqlite3-wal"
        with tamper(daemon.pid, WAL_SYNC.calls, "error=EIO", [wal]):
            assert isinstance(
                broken.failure(broken.ingest, content(SMALL, "lost")), UnavailableError
            )
            well.ingest(content(SMALL, "lost"))
        broken.check_refuses_writes()
        check_that_only_one_suffers(daemon, broken, well, UnavailableError)
        daemon.kill()
        daemon.start()
        check_both_after_restart(daemon, broken, well)


@pytest.mark.slow
@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("kind", DISKS)
def test_a_full_disk_under_one_backend_leaves_the_other_alone(
    kind: str, short_path: Path, daemon_process: Any
) -> None:
    with (
        DISKS[kind](short_path) as disk,
        daemon_with_two(short_path, disk.store, short_path / "b", daemon_process) as daemon,
        stored_before(daemon, "broken") as broken,
        stored_before(daemon, "well") as well,
    ):
        disk.fill_up()
        ingest_until_full(broken, SMALL)
        check_that_only_one_suffers(daemon, broken, well, NoSpaceError)
        daemon.kill()
        (disk.path / "filler").unlink()
        daemon.start()
        check_both_after_restart(daemon, broken, well)


@pytest.mark.slow
@pytest.mark.usefixtures("may_mount")
def test_a_read_only_disk_under_one_backend_leaves_the_other_alone(
    short_path: Path, daemon_process: Any
) -> None:
    with (
        tiny_ext4(short_path) as disk,
        daemon_with_two(short_path, disk.store, short_path / "b", daemon_process) as daemon,
        stored_before(daemon, "broken") as broken,
        stored_before(daemon, "well") as well,
    ):
        disk.break_off()
        check_that_only_one_suffers(daemon, broken, well, UnavailableError)
        daemon.kill()
        disk.unmount()
        disk.mount()
        daemon.start()
        check_both_after_restart(daemon, broken, well)
