"""A daemon that is killed at any moment keeps what it acknowledged and nothing half-done."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import blake3
import pytest

from dataplane_client import blocking
from dataplane_protocol import (
    BodyKind,
    Connection,
    ContentAddress,
    Hello,
    ObjectCorruptError,
    Request,
    Side,
    UnavailableError,
)

MEBIBYTE = bytes(1024 * 1024)

#: What one calls small and large here is so by far, wherever a store draws the line.
SMALL = b"small object" * 84
LARGE = bytes(range(251)) * 2500
WITNESSES = (b"small witness" * 77, b"large witness" * 20_000)


@pytest.fixture(autouse=True)
def _no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no system call for after an answer: the audit is written when that has gone out."""
    monkeypatch.setenv("DATAPLANED_LOG__AUDIT", "off")


@pytest.fixture
def daemons(start_daemon: Callable[[], Any]) -> Sequence[Any]:
    """As many as are killed at a time, each on a store of its own."""
    return [start_daemon() for _ in range(2)]


def contents() -> Iterator[bytes]:
    """Objects of sizes on both sides of a block and of a batch."""
    for size in (0, 1, 65_536, 65_537, 1_500_000, 3_000_000):
        yield bytes([size % 251]) * size


def open_half_an_ingest(path: str) -> socket.socket:
    """Send the first 16 MiB of an ingest; when it returns, most of it has been taken."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(30)
    peer.connect(path)
    connection = Connection(Side.CLIENT)
    peer.sendall(connection.send(Hello()))
    while connection.next_event() is None:
        connection.receive(peer.recv(65_536))
    peer.sendall(connection.send(Request(op="ingest_stream", body=BodyKind.STREAM)))
    for _ in range(16):
        peer.sendall(connection.send_data(len(MEBIBYTE)) + MEBIBYTE)
    return peer


def test_a_kill_in_the_middle_of_an_ingest_loses_nothing_acknowledged(daemon: Any) -> None:
    with blocking.connect(daemon.socket_path) as plane:
        stored = {plane.ingest_stream([data]).receipt.content_address: data for data in contents()}
        with open_half_an_ingest(daemon.socket_path):
            assert daemon.files("staging"), "the ingest has not reached the disk"
            daemon.kill()
    assert daemon.files("staging")

    daemon.start()
    assert daemon.wait_for("swept")
    assert daemon.files("staging") == []
    with blocking.connect(daemon.socket_path) as plane:
        listed = {entry.content_address for page in plane.list_objects() for entry in page}
        assert listed == set(stored)
        for address, data in stored.items():
            assert plane.verify_object(address).verified
            assert b"".join(plane.serve_object(address)) == data


def test_a_delete_that_was_acknowledged_stays_after_a_kill(daemon: Any) -> None:
    with blocking.connect(daemon.socket_path) as plane:
        addresses = [plane.ingest_stream([data]).receipt.content_address for data in contents()]
        for address in addresses[::2]:
            assert plane.delete_object(address).deleted
    daemon.kill()
    daemon.start()
    with blocking.connect(daemon.socket_path) as plane:
        present = {entry.content_address for entry in plane.stat_objects(addresses)}
    assert present == set(addresses[1::2])


def test_a_file_without_a_row_is_swept_and_never_seen(daemon: Any) -> None:
    with blocking.connect(daemon.socket_path) as plane:
        kept = plane.ingest_stream([b"kept"]).receipt.content_address
    daemon.kill()
    orphan = ContentAddress("blake3:" + "ab" * 32)
    left = daemon.root / "objects" / "ab" / f"{'ab' * 32}.0123456789abcdef-7"
    left.write_bytes(b"published by a run that died before its commit")
    foreign = daemon.root / "objects" / "ab" / "notes.txt"
    foreign.write_text("an operator's own")
    daemon.start()
    assert daemon.wait_for("swept")
    assert daemon.files("objects/ab") == [foreign]
    with blocking.connect(daemon.socket_path) as plane:
        assert plane.stat_objects([orphan]) == ()
        assert plane.verify_object(kept).verified


class Work:
    """A client at work, and what it has been promised.

    While a call is under way either outcome is right, so `present` and `absent` are told by
    answers only.
    """

    def __init__(self, daemon: Any) -> None:
        self.daemon = daemon
        self.plane = blocking.connect(daemon.socket_path, pool_size=1)
        self.known: dict[ContentAddress, bytes] = {}
        self.present: set[ContentAddress] = set()
        self.absent: set[ContentAddress] = set()
        self.damaged: set[ContentAddress] = set()
        self.found: set[ContentAddress] = set()

    def ingest(self, data: bytes) -> None:
        address = ContentAddress(f"blake3:{blake3.blake3(data).hexdigest()}")
        self.known[address] = data
        self.absent.discard(address)
        assert self.plane.ingest_stream([data]).receipt.content_address == address
        self.present.add(address)
        self.damaged.discard(address)
        self.found.discard(address)

    def delete(self, data: bytes) -> None:
        address = self._address(data)
        self.present.discard(address)
        assert self.plane.delete_object(address).deleted
        self.absent.add(address)

    def verify(self, data: bytes) -> None:
        address = self._address(data)
        is_damaged = address in self.damaged
        assert self.plane.verify_object(address).verified is not is_damaged
        if is_damaged:
            self.found.add(address)

    def scrub(self) -> None:
        """Have everything read in the background, and wait until it was."""
        self.plane.call_private("dataplaned.scrub_start")
        assert self.daemon.becomes(
            lambda: self.plane.call_private("dataplaned.scrub_status")["due_objects"] == 0
        )
        self.found |= self.damaged

    def damage(self, data: bytes, change: Callable[[Path], object]) -> None:
        """Do something to the file of a large object, behind the daemon's back."""
        address = self._address(data)
        (path,) = (self.daemon.root / "objects").glob(f"*/{address.to_digest().hex}.*")
        path.chmod(0o600)
        change(path)
        path.chmod(0o400)
        self.damaged.add(address)

    def check(self) -> None:
        """Hold the daemon against what was promised; leave it empty."""
        assert self.daemon.wait_for("swept")
        assert self.daemon.files("staging") == []
        with blocking.connect(self.daemon.socket_path, pool_size=1) as plane:
            listed = {
                entry.content_address: entry.state
                for page in plane.list_objects()
                for entry in page
            }
            assert self.present <= set(listed) <= set(self.known) - self.absent
            for address in self.found & set(listed):
                assert listed[address] == "quarantined"
            for address, state in listed.items():
                if address not in self.damaged:
                    assert state == "ok"
                    assert plane.verify_object(address).verified
                    assert b"".join(plane.serve_object(address)) == self.known[address]
                    continue
                # Healed without an answer, or as rotten as before: never served as good.
                with contextlib.suppress(ObjectCorruptError):
                    assert b"".join(plane.serve_object(address)) == self.known[address]
            # Whatever was left half-done is in nobody's way.
            for address, data in self.known.items():
                assert plane.ingest_stream([data]).receipt.content_address == address
                assert plane.verify_object(address).verified
            for address in self.known:
                assert plane.delete_object(address).deleted
            assert [entry for page in plane.list_objects() for entry in page] == []
        # A delete may be answered before its file goes; and a file that no row named would stay.
        assert self.daemon.becomes(lambda: self.daemon.files("objects") == [])

    def _address(self, data: bytes) -> ContentAddress:
        return next(address for address, known in self.known.items() if known == data)


# What is done until the daemon dies of it. What comes before the `yield` is undisturbed. One
# call each: strace counts the calls of each thread for itself, and one call has one thread for
# all that matters, while those of two calls might be counted from 1 twice.


def ingesting_small(work: Work) -> Generator[None]:
    yield
    work.ingest(SMALL)


def ingesting_large(work: Work) -> Generator[None]:
    yield
    work.ingest(LARGE)


def ingesting_small_again(work: Work) -> Generator[None]:
    work.ingest(SMALL)
    yield
    work.ingest(SMALL)


def ingesting_large_again(work: Work) -> Generator[None]:
    work.ingest(LARGE)
    yield
    work.ingest(LARGE)


def deleting_small(work: Work) -> Generator[None]:
    work.ingest(SMALL)
    yield
    work.delete(SMALL)


def deleting_large(work: Work) -> Generator[None]:
    work.ingest(LARGE)
    yield
    work.delete(LARGE)


def healing(work: Work) -> Generator[None]:
    work.ingest(LARGE)
    work.damage(LARGE, lambda path: os.truncate(path, 70_000))
    yield
    work.ingest(LARGE)


def finding_rot(work: Work) -> Generator[None]:
    work.ingest(LARGE)
    work.damage(LARGE, lambda path: path.write_bytes(LARGE[:-1] + b"?"))
    yield
    work.verify(LARGE)


def verifying_small(work: Work) -> Generator[None]:
    work.ingest(SMALL)
    yield
    work.verify(SMALL)


def verifying_large(work: Work) -> Generator[None]:
    work.ingest(LARGE)
    yield
    work.verify(LARGE)


def scrubbing(work: Work) -> Generator[None]:
    for data in (SMALL, LARGE):
        work.ingest(data)
    work.damage(LARGE, lambda path: path.write_bytes(LARGE[:-1] + b"?"))
    yield
    work.scrub()


def stopping(work: Work) -> Generator[None]:
    for data in (SMALL, LARGE):
        work.ingest(data)
    work.delete(SMALL)
    yield
    if work.daemon.stop() == -signal.SIGKILL:
        raise UnavailableError("killed")
    work.daemon.start()


JOBS = (
    ingesting_small,
    ingesting_large,
    ingesting_small_again,
    ingesting_large_again,
    deleting_small,
    deleting_large,
    healing,
    finding_rot,
    verifying_small,
    verifying_large,
    scrubbing,
    stopping,
)

#: Everything that changes what is on the disk. On some machines a few of them do not exist.
CALLS = (
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "?rename,?renameat,?renameat2",
    "?unlink,unlinkat",
    "?open,openat",
    "fchmod",
    "ftruncate",
    "fallocate",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
def test_a_kill_at_any_system_call_keeps_every_promise(
    job: Callable[[Work], Generator[None]], daemons: Sequence[Any], tamper: Any
) -> None:
    """Kill at the Nth call of a kind, from 1 until all the work is done without a kill."""

    def is_survived(daemon: Any, call: str, number: int) -> bool:
        work = Work(daemon)
        with work.plane:
            for data in WITNESSES:
                work.ingest(data)
            steps = job(work)
            next(steps)
            with tamper(daemon.pid, call, f"signal=KILL:when={number}"):
                is_done = goes_on(steps)
                if not is_done:
                    assert daemon.reap() == -signal.SIGKILL
        if not is_done:
            daemon.start()
        work.check()
        return is_done

    kills = Counter({call: count_kills(daemons, is_survived, call) for call in CALLS})
    print(f"{job.__name__}: {kills.total()} kills: {dict(kills)}")
    assert kills["pwrite64"], "no commit was ever cut short, so little was tested"
    assert kills["fdatasync"] + kills["fsync"]


OPENING_CALLS = ("pwrite64", "fsync", "fdatasync", "?unlink,unlinkat", "ftruncate")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("call", ["mkdir,mkdirat", *OPENING_CALLS])
def test_a_kill_while_a_new_store_is_made_leaves_one_that_opens(
    call: str, daemons: Sequence[Any], tamper: Any
) -> None:
    def is_survived(daemon: Any, call: str, number: int) -> bool:
        shutil.rmtree(daemon.root)
        if starts_under(daemon, call, number):
            return True
        daemon.start()
        open_for_business(daemon)
        daemon.stop()
        return False

    for daemon in daemons:
        daemon.stop()
    # Of the 258 directories some are enough: they are made by one loop.
    step = {"mkdir,mkdirat": 50, "pwrite64": 4, "fdatasync": 2, "fsync": 2}.get(call, 1)
    kills = count_kills(daemons, is_survived, call, step)
    print(f"new store: {kills} kills at {call}")
    assert kills or call not in ("mkdir,mkdirat", "fsync", "pwrite64")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("call", OPENING_CALLS)
def test_a_kill_while_a_store_is_opened_after_a_kill_loses_nothing(
    call: str, daemons: Sequence[Any], tamper: Any
) -> None:
    """The WAL holds commits, the staging and a shard hold files that nobody wants."""

    def is_survived(daemon: Any, call: str, number: int) -> bool:
        work = Work(daemon)
        with work.plane:
            for data in (SMALL, LARGE, *WITNESSES):
                work.ingest(data)
            work.delete(SMALL)
        daemon.kill()
        for name in ("staging/0123456789abcdef-0", f"objects/ab/{'ab' * 32}.0123456789abcdef-1"):
            (daemon.root / name).write_bytes(b"left")
        is_done = starts_under(daemon, call, number)
        if is_done:
            daemon.kill()  # the tracer goes with it
        daemon.start()
        work.check()
        return is_done

    kills = count_kills(daemons, is_survived, call)
    print(f"opening: {kills} kills at {call}")
    assert kills or call not in ("fsync", "pwrite64", "?unlink,unlinkat")


def count_kills(
    daemons: Sequence[Any],
    is_survived: Callable[[Any, str, int], bool],
    call: str,
    step: int = 1,
) -> int:
    """Kill daemons at the 1st, the 2nd, ... call of a kind, each at one after the other.

    Args:
        daemons: Each has a thread.
        is_survived: Starts the work anew, and says whether a daemon did it without being killed.
        call: The kind.
        step: From one number to the next.

    Returns:
        How many kills there were until one survived.
    """
    numbers = itertools.count(1, step)
    is_over = threading.Event()

    def kill(daemon: Any) -> int:
        kills = 0
        try:
            while not is_over.is_set():
                number = next(numbers)
                assert number < 1000, f"the work was never done without a kill at {call}"
                if is_survived(daemon, call, number):
                    break
                kills += 1
        finally:
            is_over.set()
        return kills

    with ThreadPoolExecutor(len(daemons)) as pool:
        return sum(pool.map(kill, daemons))


def starts_under(daemon: Any, call: str, number: int) -> bool:
    """Start and sweep under a tracer; false when it was killed at the Nth call of a kind."""
    # -D keeps the daemon our child. strace miscounts under --seccomp-bpf.
    tracer = ["strace", "-D", "-f", "-qq", "-o", "/dev/null"]
    tracer += ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    with contextlib.suppress(AssertionError):  # killed before it listened
        daemon.start(wrapper=tracer)
        if daemon.wait_for("swept"):
            return True
        assert daemon.reap() == -signal.SIGKILL
    return False


def open_for_business(daemon: Any) -> None:
    """A store that was just made takes objects in and gives them back."""
    work = Work(daemon)
    with work.plane:
        for data in (SMALL, LARGE):
            work.ingest(data)
    work.check()


def goes_on(steps: Generator[None]) -> bool:
    """Do the rest of the work; false when the daemon died of it."""
    try:
        next(steps, None)
    except UnavailableError:
        return False
    return True
