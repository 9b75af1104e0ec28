"""A daemon that is killed at any moment keeps what it acknowledged and nothing half-done."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from dataplane_client import blocking
from dataplane_protocol import (
    BodyKind,
    Connection,
    ContentAddress,
    Hello,
    Request,
    Side,
    UnavailableError,
)

MEBIBYTE = bytes(1024 * 1024)
SMALL = b"small"
LARGE = bytes(range(256)) * 9000


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


def can_trace() -> bool:
    strace = shutil.which("strace")
    return (
        bool(strace)
        and not subprocess.run(
            [str(strace), "-o", "/dev/null", "true"], capture_output=True, check=False
        ).returncode
    )


class Work:
    """What a client does until the daemon dies, and what it was promised by then."""

    def __init__(self) -> None:
        self.acknowledged: dict[ContentAddress, bytes] = {}
        self.deleted: set[ContentAddress] = set()

    def run(self, path: str) -> bool:
        """Ingest, ingest again, delete; false when the daemon died meanwhile."""
        try:
            with blocking.connect(path, pool_size=1) as plane:
                for data in (SMALL, LARGE, SMALL):
                    address = plane.ingest_stream([data]).receipt.content_address
                    self.acknowledged[address] = data
                first = next(iter(self.acknowledged))
                del self.acknowledged[first]  # until the answer, either outcome is right
                plane.delete_object(first)
                self.deleted.add(first)
        except UnavailableError:
            return False
        return True

    def check(self, path: str) -> None:
        """Hold a daemon that was started again against the promises; leave it empty."""
        with blocking.connect(path) as plane:
            listed = {entry.content_address for page in plane.list_objects() for entry in page}
            assert set(self.acknowledged) <= listed
            assert not self.deleted & listed
            for address in listed:
                assert plane.verify_object(address).verified
                assert b"".join(plane.serve_object(address)) in (SMALL, LARGE)
                plane.delete_object(address)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not can_trace(), reason="needs strace and leave to trace")
@pytest.mark.parametrize("call", ["fchmod", "fsync", "rename,renameat", "fdatasync", "pwrite64"])
def test_a_kill_at_any_system_call_leaves_whole_objects_only(call: str, daemon: Any) -> None:
    """Kill at the Nth call of a kind, from 1 until all the work is done without a kill."""
    daemon.stop()
    for number in range(1, 200):
        # -D keeps the daemon our child. strace counts the calls of each thread for itself, and
        # miscounts them under --seccomp-bpf.
        tracer = ["strace", "-D", "-f", "-qq", "-o", "/dev/null"]
        tracer += ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
        work = Work()
        with contextlib.suppress(AssertionError):  # killed before it listened
            daemon.start(wrapper=tracer)
        is_done = daemon.process.poll() is None and work.run(daemon.socket_path)
        if is_done:
            daemon.stop()
            break
        daemon.reap()
        daemon.start()
        work.check(daemon.socket_path)
        daemon.stop()
    else:
        raise AssertionError(f"the work was never done without a kill at {call}")
    assert number > 1, f"{call} was never called, so nothing was tested"
