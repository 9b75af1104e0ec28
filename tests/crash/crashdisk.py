"""A disk that can lose its power, made of a file, FUSE and a loop device.

    filesystem -> /dev/loopN -> FUSE export of qemu-storage-daemon -> disk.img
                                                                  \\-> log: every write and flush

The log has what the device was told, in its order. From it the disk is made anew as a power cut
may leave it: what was written before the last flush, and of the later writes all, none or any.
Marks that a test writes behind the filesystem's end stand in the same order.

The log's format is that of the kernel's dm-log-writes (Documentation/admin-guide/
device-mapper/log-writes.rst), which qemu's `blklogwrites` driver writes too.
"""

import contextlib
import itertools
import os
import random
import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Self

_SECTOR: Final = 512
_MARK_SLOTS: Final = 2048
_MAGIC: Final = 0x6A736677736872
_FLUSH: Final = 1
_DISCARD: Final = 4
_CAP_SYS_ADMIN: Final = 1 << 21
_DEVICES: Final = ("/dev/fuse", "/dev/loop-control")
_PATIENCE_S: Final = 20

#: Bytes for a disk, its log and the images of some states; they take a third of it.
_ROOM: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Filesystem:
    """How a filesystem is made and mounted.

    Attributes:
        size: Bytes, the least that its mkfs accepts or little more.
        mkfs: The command without the device. Discards are off, here and in `options`: the log
            may tell them in another order than they happened.
        allows_twins: Whether two copies of one filesystem may be mounted at the same time.
        syncs_all_names: Whether syncing a file that has grown makes all new names durable, as
            one journal for everything does.
    """

    size: int
    mkfs: Sequence[str]
    options: str = "nodiscard"
    allows_twins: bool = True
    syncs_all_names: bool = True


FILESYSTEMS: Final = {
    "ext4": Filesystem(
        64 << 20,
        ["mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
    ),
    # Copies of one filesystem have one UUID, and the kernel may not have let go of the last.
    "xfs": Filesystem(304 << 20, ["mkfs.xfs", "-q", "-K", "-f"], "nodiscard,nouuid"),
    "btrfs": Filesystem(
        256 << 20,
        ["mkfs.btrfs", "-q", "-K", "-f"],
        allows_twins=False,
        syncs_all_names=False,
    ),
}


@cache
def why_not_here(filesystem: str) -> str:
    """Say what is missing for a crash disk with a filesystem; empty when nothing is.

    With CI=true and as root, only what the kernel has not got is a reason not to run.
    """
    if os.geteuid() != 0:
        return "needs root, for loop devices and mounts"
    modprobe = shutil.which("modprobe")
    if modprobe:
        for module in (filesystem, "fuse", "loop"):
            subprocess.run([modprobe, "-q", module], check=False, capture_output=True)
    known = Path("/proc/filesystems").read_text().split()
    if missing := [name for name in (filesystem, "fuse") if name not in known]:
        return f"the kernel has no {' and no '.join(missing)}"
    if missing := [path for path in _DEVICES if not Path(path).exists()]:
        return f"the kernel gives no {' and no '.join(missing)}"
    if os.environ.get("CI") == "true":
        return ""
    tools = ["qemu-storage-daemon", "losetup", "mount", FILESYSTEMS[filesystem].mkfs[0]]
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        return f"needs {', '.join(missing)}"
    return "" if _may_mount() else "needs leave to mount"


def _may_mount() -> bool:
    status = Path("/proc/self/status").read_text()
    capabilities = re.search(r"^CapEff:\s+(\w+)", status, re.MULTILINE)
    return bool(capabilities and int(capabilities[1], 16) & _CAP_SYS_ADMIN)


@contextlib.contextmanager
def work_directory() -> Generator[Path]:
    """Give a directory, in memory if that has room: images are written by the hundred."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free >= _ROOM
    path = Path(tempfile.mkdtemp(prefix="dp-crash-", dir=memory if has_room else None))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class CrashDisk:
    """A mounted filesystem whose writes are logged; a context manager.

    Leaving it unmounts and detaches everything, also when the filesystem is in use by then.
    The log is whole once it is left.

    Attributes:
        mountpoint: Where the filesystem is.
    """

    def __init__(self, directory: Path, filesystem: str) -> None:
        self._directory = directory
        self._filesystem = FILESYSTEMS[filesystem]
        self._undo = contextlib.ExitStack()
        self._marks = itertools.count()
        self.mountpoint = directory / "mnt"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self._export(undo)
            loop = _attach(self._export_path, undo, size=self._filesystem.size)
            _run(*self._filesystem.mkfs, loop)
            self.mountpoint.mkdir()
            _mount(loop, self.mountpoint, self._filesystem.options, undo)
            _run("sync", "-f", str(self.mountpoint))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def mark(self) -> int:
        """Put a mark into the log, behind every write that is done, and give its number.

        Several threads may call it at once.
        """
        number = next(self._marks)
        offset = self._filesystem.size + number % _MARK_SLOTS * _SECTOR
        os.pwrite(self._fd, struct.pack("<Q", number).ljust(_SECTOR, b"\0"), offset)
        return number

    def read_log(self) -> "WriteLog":
        """Read what was written, flushed and marked. The disk must have been left."""
        return WriteLog(self._directory / "log", self._filesystem)

    @property
    def _export_path(self) -> Path:
        return self._directory / "disk.fuse"

    def _export(self, undo: contextlib.ExitStack) -> None:
        image, log = self._directory / "disk.img", self._directory / "log"
        for path in (image, log, self._export_path):
            path.touch()
        os.truncate(image, self._filesystem.size + _MARK_SLOTS * _SECTOR)
        blocks = "driver=blklogwrites,node-name=logged,file=image,log=log"
        export = f"type=fuse,id=export,node-name=logged,mountpoint={self._export_path}"
        server = subprocess.Popen(
            [
                "qemu-storage-daemon",
                *("--blockdev", f"driver=file,node-name=image,filename={image}"),
                *("--blockdev", f"driver=file,node-name=log,filename={log}"),
                *("--blockdev", f"{blocks},log-sector-size={_SECTOR},log-super-update-interval=1"),
                *("--export", f"{export},writable=on,growable=off"),
            ],
            stdin=subprocess.DEVNULL,
        )
        undo.callback(_end, server, self._export_path)
        _wait(lambda: _is_mounted(self._export_path) or server.poll() is not None)
        assert server.poll() is None, "qemu-storage-daemon did not start"
        self._fd = os.open(self._export_path, os.O_RDWR | os.O_CLOEXEC)
        undo.callback(os.close, self._fd)


@dataclass(frozen=True, slots=True)
class _Entry:
    offset: int
    size: int
    flags: int
    data: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashState:
    """One way in which a power cut can leave the disk.

    Attributes:
        point: How many entries the log had when the power went.
        flushed: How many of them are on disk for certain.
        kept: Those of the others that are on disk as well.
        lost: How many are not.
    """

    point: int
    flushed: int
    kept: tuple[int, ...]
    lost: int

    def __str__(self) -> str:
        return f"cut at {self.point}: kept {len(self.kept)} and lost {self.lost} after the flush"


class WriteLog:
    """What a disk was told.

    Attributes:
        positions: For each mark's number, how many entries come before it.
        size: How many entries there are.
    """

    def __init__(self, path: Path, filesystem: Filesystem) -> None:
        self._path = path
        self._filesystem = filesystem
        self._entries: list[_Entry] = []
        self.positions: dict[int, int] = {}
        with path.open("rb") as log:
            magic, _, count, sector = struct.unpack("<QQQI", log.read(28))
            assert (magic, sector) == (_MAGIC, _SECTOR)
            position = _SECTOR
            for _ in range(count):
                log.seek(position)
                start, sectors, flags, _ = struct.unpack("<QQQQ", log.read(32))
                position += _SECTOR
                entry = _Entry(start * _SECTOR, sectors * _SECTOR, flags, position)
                if not flags & _DISCARD:
                    position += entry.size
                if self._is_mark(entry):
                    log.seek(entry.data)
                    (number,) = struct.unpack("<Q", log.read(8))
                    self.positions[number] = len(self._entries)
                self._entries.append(entry)
        self.size = len(self._entries)

    def sample(self, points: Sequence[int], count: int, rng: random.Random) -> list[CrashState]:
        """Choose different states, at most `count`, with the power cut at one of these points.

        Each point has up to three: all of what followed the last flush is on disk, none of it,
        or some.
        """
        found: dict[CrashState, None] = {}
        cuts = [(point, share) for point in points for share in (1.0, 0.0, 0.5)]
        rng.shuffle(cuts)
        for point, share in cuts:
            if len(found) == count:
                break
            found[self._state(point, share, rng)] = None
        return sorted(found, key=lambda state: state.point)

    def builder(self, directory: Path) -> "StateBuilder":
        """Give what makes images of states."""
        return StateBuilder(self, directory)

    def apply(self, image: int, indices: Iterator[int] | Sequence[int] | range) -> None:
        """Write some entries into an open image, in this order."""
        with self._path.open("rb") as log:
            for index in indices:
                entry = self._entries[index]
                if not entry.size or entry.offset >= self._filesystem.size:
                    continue
                log.seek(entry.data)
                is_discard = entry.flags & _DISCARD
                data = bytes(entry.size) if is_discard else log.read(entry.size)
                os.pwrite(image, data, entry.offset)

    @property
    def filesystem(self) -> Filesystem:
        """What is on the disk."""
        return self._filesystem

    def _is_mark(self, entry: _Entry) -> bool:
        is_write = entry.size > 0 and not entry.flags & (_FLUSH | _DISCARD)
        return is_write and entry.offset >= self._filesystem.size

    def _state(self, point: int, share: float, rng: random.Random) -> CrashState:
        before = range(point - 1, -1, -1)
        flushed = next((n for n in before if self._entries[n].flags & _FLUSH), 0)
        tail = [
            index
            for index in range(flushed, point)
            if self._entries[index].size and not self._is_mark(self._entries[index])
        ]
        kept = tuple(index for index in tail if rng.random() < share)
        return CrashState(point=point, flushed=flushed, kept=kept, lost=len(tail) - len(kept))


class StateBuilder:
    """Makes images of crash states, from earlier to later points of the log.

    A state may be made again as long as no later one was.
    """

    def __init__(self, log: WriteLog, directory: Path) -> None:
        self._log = log
        self._base = directory / "base.img"
        self._directory = directory
        self._applied = 0
        self._serial = itertools.count()
        self._base.touch()
        os.truncate(self._base, log.filesystem.size)

    @contextlib.contextmanager
    def mounted(self, state: CrashState) -> Generator[Path]:
        """Mount a fresh image of a state; what is done to it is gone afterwards.

        Raises:
            CalledProcessError: The filesystem cannot be mounted.
        """
        assert state.flushed >= self._applied
        with _opened(self._base) as base:
            self._log.apply(base, range(self._applied, state.flushed))
        self._applied = state.flushed
        # Always a new file: a loop device may still have pages of the one that it had before.
        number = next(self._serial)
        image, mountpoint = (self._directory / f"{kind}{number}" for kind in ("state", "mnt"))
        with contextlib.ExitStack() as undo:
            undo.callback(image.unlink, missing_ok=True)
            _run("cp", "--sparse=auto", str(self._base), str(image))
            with _opened(image) as fd:
                self._log.apply(fd, state.kept)
            loop = _attach(image, undo)
            mountpoint.mkdir()
            undo.callback(mountpoint.rmdir)
            _mount(loop, mountpoint, self._log.filesystem.options, undo)
            yield mountpoint


@contextlib.contextmanager
def _opened(path: Path) -> Generator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout.strip()


def _attach(path: Path, undo: contextlib.ExitStack, *, size: int | None = None) -> str:
    limit = [] if size is None else ["--sizelimit", str(size)]
    loop = _run("losetup", "-f", "--show", *limit, str(path))
    undo.callback(_detach, loop)
    return loop


def _detach(loop: str) -> None:
    subprocess.run(["blockdev", "--flushbufs", loop], check=False, capture_output=True)
    _run("losetup", "-d", loop)
    # It is let go of only when nobody has it open any more; udev looks into new devices.
    _wait(lambda: not Path(f"/sys/block/{Path(loop).name}/loop/backing_file").exists())


def _mount(loop: str, mountpoint: Path, options: str, undo: contextlib.ExitStack) -> None:
    _run("mount", "-o", options, loop, str(mountpoint))
    undo.callback(_unmount, mountpoint)


def _unmount(mountpoint: Path) -> None:
    # A failed test may have left something open there; nothing may stay behind for that.
    if subprocess.run(["umount", str(mountpoint)], check=False, capture_output=True).returncode:
        _run("umount", "-l", str(mountpoint))


def _end(server: "subprocess.Popen[bytes]", export: Path) -> None:
    server.terminate()
    try:
        server.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if _is_mounted(export):
        _run("umount", "-l", str(export))


def _is_mounted(path: Path) -> bool:
    pattern = rf"^\S+ {re.escape(str(path))} "
    return re.search(pattern, Path("/proc/mounts").read_text(), re.MULTILINE) is not None


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "the kernel takes too long"
        time.sleep(0.005)
