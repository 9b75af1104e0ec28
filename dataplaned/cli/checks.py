"""The checks of `dataplaned doctor`: facts about the machine, and what to do about them."""

import ctypes
import os
import secrets
import shutil
import stat
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from .output import format_size

if TYPE_CHECKING:
    from dataplane_client.blocking import BlockingDataPlaneClient

    from ..config import Config, FilesystemConfig
    from ..reports import DaemonReport

#: Filesystems on this machine that honour fsync(2), and were tried with power cuts.
_TRIED: Final = frozenset({"ext4", "xfs", "btrfs"})

#: Those that forget everything.
_FORGETFUL: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})

#: Seconds that no disk syncs in: one that seems to may only say so.
_NO_SYNC_S: Final = 20e-6

#: Times that a file is synced for the look at that.
_SYNCS: Final = 20

#: Shares of free space and inodes that are too little.
_LEAST_SHARE: Final = 0.05

#: A clock before this has never been set: seconds since 1970, of 2025.
_NO_CLOCK_BEFORE: Final = 1_735_689_600

#: adjtimex(2): the clock is not synchronised.
_TIME_ERROR: Final = 5


class Verdict(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warn"
    FAILED = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found.

    Attributes:
        verdict: How it went.
        subject: What was looked at.
        fact: What it is like.
        advice: What to do, unless all is well.
    """

    verdict: Verdict
    subject: str
    fact: str
    advice: str | None = None


def ok(subject: str, fact: str) -> Finding:
    """Give a finding that asks for nothing."""
    return Finding(verdict=Verdict.OK, subject=subject, fact=fact)


def warning(subject: str, fact: str, advice: str) -> Finding:
    """Give a finding that somebody should look at."""
    return Finding(verdict=Verdict.WARNING, subject=subject, fact=fact, advice=advice)


def failed(subject: str, fact: str, advice: str) -> Finding:
    """Give a finding that keeps the daemon from its work."""
    return Finding(verdict=Verdict.FAILED, subject=subject, fact=fact, advice=advice)


def check_socket(path: str) -> Iterator[Finding]:
    """Look at the socket's place."""
    subject = f"socket {path}"
    try:
        status = os.lstat(path)
    except OSError as error:
        yield failed(
            subject,
            error.strerror or "",
            "start the daemon, or name its socket with --socket or $DATAPLANED_SOCKET",
        )
        return
    if not stat.S_ISSOCK(status.st_mode):
        yield failed(subject, "is not a socket", "name the daemon's with --socket")
        return
    mode = stat.S_IMODE(status.st_mode)
    fact = f"user {status.st_uid}, group {status.st_gid}, mode {mode:04o}"
    if mode & stat.S_IWOTH:
        yield warning(subject, fact, "everybody can connect: set its mode to 0660")
    elif not os.access(path, os.W_OK):
        yield failed(subject, f"{fact}: no leave to connect", "join its group, and log in again")
    else:
        yield ok(subject, fact)


def check_versions(report: "DaemonReport", own: str) -> Iterator[Finding]:
    """Hold the daemon's version against the command's."""
    if report.version == own:
        yield ok("daemon", f"process {report.pid}, version {own}")
    else:
        yield warning(
            "daemon",
            f"version {report.version}, these commands are {own}",
            "restart the daemon after an upgrade",
        )


def check_descriptors(report: "DaemonReport", max_connections: int) -> Iterator[Finding]:
    """Look whether the daemon may have as many descriptors as it may need."""
    try:
        with open(f"/proc/{report.pid}/limits", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("Max open files"))
    except (OSError, StopIteration):
        return  # another user's, or in another namespace
    limit, wanted = int(line.split()[3]), 2 * max_connections + 128
    if limit < wanted:
        yield warning(
            "descriptors",
            f"{limit} for {max_connections} connections",
            f"set LimitNOFILE={wanted} in the unit, or lower daemon.max_connections",
        )
    else:
        yield ok("descriptors", f"{limit} for {max_connections} connections")


def check_backend(client: "BlockingDataPlaneClient", backend_id: str) -> Iterator[Finding]:
    """Write, read, verify and delete an object of random bytes."""
    from dataplane_protocol import DataPlaneError, IngestHints

    subject = f"backend {backend_id}"
    content = secrets.token_bytes(100_000)
    try:
        hints = IngestHints(backend_id=backend_id)
        receipt = client.ingest_stream([content], hints=hints).receipt
        address = receipt.content_address
        try:
            served = b"".join(client.serve_object(address, backend_id=backend_id))
            verified = client.verify_object(address, backend_id=backend_id)
        finally:
            client.delete_object(address, backend_id=backend_id, if_generation=receipt.generation)
    except DataPlaneError as error:
        yield failed(subject, error.message, "see the daemon's log")
        return
    if served != content or not verified.verified:
        yield failed(subject, "gives other bytes than it took", "stop using it: check the disk")
    else:
        yield ok(subject, "took, gave, verified and deleted an object")


def check_clock() -> Iterator[Finding]:
    """Look whether the clock is set, and kept right."""
    if time.time() < _NO_CLOCK_BEFORE:
        yield failed("clock", f"is at {time.strftime('%Y-%m-%d')}", "set it")
    elif ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) == _TIME_ERROR:
        yield warning(
            "clock",
            "is not synchronised",
            "run systemd-timesyncd or chrony: dates of receipts drift",
        )
    else:
        yield ok("clock", "is synchronised")


def check_stores(config: "Config") -> Iterator[Finding]:
    """Look at the directories of all filesystem stores."""
    from ..config import FilesystemConfig, MirrorConfig

    for backend in config.backend.values():
        sides = (backend.first, backend.second) if isinstance(backend, MirrorConfig) else (backend,)
        for side in sides:
            if isinstance(side, FilesystemConfig):
                yield from _check_store(side)


def _check_store(config: "FilesystemConfig") -> Iterator[Finding]:
    subject = f"store {config.root}"
    try:
        status = os.stat(config.root)
    except FileNotFoundError:
        yield ok(subject, "is not there yet: the daemon makes it")
        return
    except OSError as error:
        yield failed(subject, error.strerror or "", "run doctor as the daemon's user")
        return
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IWOTH:
        yield failed(subject, f"mode {mode:04o}", f"chmod o-w {config.root}")
    else:
        yield ok(subject, f"user {status.st_uid}, group {status.st_gid}, mode {mode:04o}")
    yield _check_kind(config.root)
    yield from _check_space(config)
    yield _check_sync(config.root)


def _check_kind(root: str) -> Finding:
    subject, kind = f"filesystem of {root}", _filesystem_of(root)
    if kind in _TRIED:
        return ok(subject, kind)
    if kind in _FORGETFUL:
        return failed(subject, f"{kind}: is gone with the machine", "store on a disk")
    return warning(
        subject,
        f"{kind}: not tried with power cuts",
        f"store on one of {', '.join(sorted(_TRIED))} of a local disk",
    )


def _filesystem_of(path: str) -> str:
    """Give the kind of the filesystem that a path is on (proc_pid_mountinfo(5))."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    real = os.path.realpath(path)
    best, kind = "", "unknown"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            words, _, rest = line.partition(" - ")
            place = words.split()[4]
            is_above = real == place or real.startswith(place.rstrip("/") + "/")
            # Of btrfs, each subvolume has a device of its own that no line names.
            if words.split()[2] == wanted or (is_above and len(place) >= len(best)):
                best, kind = place, rest.split()[0]
                if words.split()[2] == wanted:
                    return kind
    return kind


def _check_space(config: "FilesystemConfig") -> Iterator[Finding]:
    subject = f"space of {config.root}"
    status = os.statvfs(config.root)
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    fact = f"{format_size(free)} of {format_size(total)} free"
    advice = "make room: delete objects, purge the quarantine, or enlarge the disk"
    if free < (config.min_free_bytes or 0):
        yield failed(
            subject, f"{fact}, {format_size(config.min_free_bytes or 0)} stay free", advice
        )
    elif free < _LEAST_SHARE * total:
        yield warning(subject, fact, advice)
    else:
        yield ok(subject, fact)
    if status.f_files and status.f_favail < _LEAST_SHARE * status.f_files:
        yield warning(subject, f"{status.f_favail} of {status.f_files} inodes free", advice)


def _check_sync(root: str) -> Finding:
    subject = f"fsync beside {root}"
    parent = os.path.dirname(os.path.realpath(root))
    if os.stat(parent).st_dev != os.stat(root).st_dev:
        return warning(
            subject,
            "not tried: the store is a filesystem's top, and nothing else may lie in it",
            "put the store into a directory of that filesystem",
        )
    try:
        directory = tempfile.mkdtemp(prefix=".dataplaned-doctor-", dir=parent)
    except OSError as error:
        return warning(subject, f"not tried: {error.strerror}", "run doctor as root")
    try:
        seconds = _time_syncs(directory)
    except OSError as error:
        return failed(
            subject, f"fails: {error.strerror}", "no object can be stored here: check the disk"
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    fact = f"{seconds * 1000:.3f} ms"
    if seconds < _NO_SYNC_S:
        return warning(
            subject, f"{fact}: faster than a disk", "see that the filesystem is not told to skip it"
        )
    return ok(subject, fact)


def _time_syncs(directory: str) -> float:
    """Write, sync, rename and sync the directory, as an ingest does; give the median of a sync."""
    path = os.path.join(directory, "file")
    times: list[float] = []
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(_SYNCS):
            os.write(fd, secrets.token_bytes(4096))
            began = time.perf_counter()
            os.fsync(fd)
            times.append(time.perf_counter() - began)
    finally:
        os.close(fd)
    os.rename(path, f"{path}.renamed")
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
    return statistics.median(times)
