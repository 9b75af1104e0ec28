"""Crowds of callers that are slow, silent, stopped, greedy or senseless, and one good caller."""

import contextlib
import os
import random
import resource
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
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
    data_head,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MIB = 1024 * 1024

#: What a good caller's stat may take, for 99 of 100.
P99_S = 0.05

#: Bytes of the daemon's memory that an idle connection may cost.
IDLE_COST = 10_000

STATS = 2000

FD = ("serve_fd",)

HELLO = Connection(Side.CLIENT).send(Hello())

CLIENT = """
import sys
from dataplane_client import blocking

def pieces():
    while True:
        yield bytes(262_144)

with blocking.connect(sys.argv[1]) as client:
    print("ready", flush=True)
    client.ingest_stream(pieces())
"""


@pytest.fixture(autouse=True)
def _many_descriptors(require: Callable[[bool, str], None]) -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    require(hard >= 12_000, "12,000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def daemon(start_daemon: Callable[..., Any], tmp_path: Path) -> Any:
    config = tmp_path / "c.toml"
    config.write_text(
        "[daemon]\nmax_connections = 10000\nmax_connections_per_user = 10000\nmax_calls = 10000\n"
        f'[backend.local]\ntype = "filesystem"\nroot = "{tmp_path}/store"\n'
    )
    daemon = start_daemon(("--config", str(config)))
    daemon.root = tmp_path / "store"
    return daemon


class Crowd:
    """Connections that a test has made, all closed at the end."""

    def __init__(self, daemon: Any) -> None:
        self.daemon = daemon
        self.stack = contextlib.ExitStack()
        self.large = self._store(random.Random(1).randbytes(5 * MIB))

    def _store(self, content: bytes) -> ContentAddress:
        with blocking.connect(self.daemon.socket_path) as client:
            return client.ingest_stream([content]).receipt.content_address

    def connect(self, *, greets: bool = True, features: tuple[str, ...] = ()) -> socket.socket:
        peer = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        peer.settimeout(60)
        peer.connect(self.daemon.socket_path)
        if greets:
            peer.sendall(Connection(Side.CLIENT).send(Hello(features=features)))
            assert b"hello" in peer.recv(4096)
        return peer

    def ask(self, peer: socket.socket, request: Request, features: tuple[str, ...] = ()) -> None:
        connection = Connection(Side.CLIENT)
        connection.send(Hello(features=features))
        server = Connection(Side.SERVER)
        server.receive(Connection(Side.CLIENT).send(Hello(features=features)))
        server.next_event()
        connection.receive(server.send(Hello(features=features)))
        connection.next_event()
        peer.sendall(connection.send(request))

    # Kinds of crowds.

    def idle(self) -> None:
        for _ in range(5000):
            self.connect()

    def silent(self) -> None:
        for _ in range(1000):
            self.connect(greets=False)

    def half_frames(self) -> None:
        """Each announces a MiB and sends a KiB of it."""
        begin = Request(op="ingest_stream", body=BodyKind.STREAM)
        for _ in range(3000):
            peer = self.connect()
            self.ask(peer, begin)
            peer.sendall(data_head(MIB) + bytes(1024))

    def deaf(self) -> None:
        """Each asks for 5 MiB and reads none of it."""
        serve = Request(op="serve_object", args={"content_address": str(self.large)})
        for _ in range(300):
            self.ask(self.connect(), serve)

    def hoarding(self) -> None:
        """Each is handed a descriptor, again and again, and takes none; or sends its own."""
        args = {"content_address": str(self.large)}
        serve = Request(op="serve_object", args=args, accept_fd=True)
        reading, writing = os.pipe()
        self.stack.callback(os.close, reading)
        self.stack.callback(os.close, writing)
        for _ in range(45):
            self.ask(self.connect(features=FD), serve, FD)
            peer = self.connect()
            # Refused by the kernel, where it can be told to; otherwise dropped by it unread.
            with contextlib.suppress(OSError):
                socket.send_fds(peer, [HELLO], [reading] * 200)

    def stopped(self) -> None:
        """Real clients in the middle of a body that are stopped, and stay so."""
        for _ in range(16):
            process = self.stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", CLIENT, self.daemon.socket_path],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            )
            self.stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGSTOP)

    def senseless(self) -> None:
        """Garbage, and connections made and closed, for as long as the test runs."""
        stop = threading.Event()

        def work(seed: int) -> None:
            chance = random.Random(seed)
            while not stop.is_set():
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as peer:
                    peer.settimeout(10)
                    peer.connect(self.daemon.socket_path)
                    if chance.random() < 0.5:
                        peer.sendall(chance.choice((b"", HELLO)) + chance.randbytes(100))
                        peer.recv(4096)
                # So many at a time that the good caller's process has a turn.
                stop.wait(0.002)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for each in threads:
            each.start()
        self.stack.callback(lambda: [each.join() for each in threads])
        self.stack.callback(stop.set)


@pytest.fixture
def crowd(daemon: Any) -> Generator[Crowd]:
    crowd = Crowd(daemon)
    with crowd.stack:
        yield crowd


def time_stats(client: blocking.BlockingDataPlaneClient, address: ContentAddress) -> float:
    """Give the time that 99 of 100 stats take at most."""
    times = []
    for _ in range(STATS):
        began = time.perf_counter()
        assert len(client.stat_objects([address])) == 1
        times.append(time.perf_counter() - began)
    return statistics.quantiles(times, n=100)[98]


def loop_lag(client: blocking.BlockingDataPlaneClient) -> str:
    text = str(client.call_private("dataplaned.metrics")["text"])
    kept = [line for line in text.splitlines() if "event_loop_lag_seconds" in line]
    return "\n".join(line for line in kept if "bucket" not in line and "#" not in line)


@pytest.mark.parametrize(
    "kind",
    ["idle", "silent", "half_frames", "deaf", "hoarding", "stopped", "senseless"],
)
def test_a_good_caller_is_served_in_time_among_them(daemon: Any, crowd: Crowd, kind: str) -> None:
    with blocking.connect(daemon.socket_path, pool_size=1) as client:
        address = client.ingest_stream([b"good"]).receipt.content_address
        before = daemon.resident_bytes()
        getattr(crowd, kind)()
        # Two cores are noisy, and the crowd's own process uses one of them: the better of two.
        p99 = min(time_stats(client, address) for _ in range(2))
        cost = daemon.resident_bytes() - before
        print(
            f"{kind}: stat p99 {p99 * 1000:.1f} ms, {cost / 1000:.0f} KB more\n{loop_lag(client)}"
        )
        assert p99 < P99_S
        for size in (100, 100_000, MIB):
            stored = client.ingest_stream([os.urandom(size)]).receipt.content_address
            assert sum(map(len, client.serve_object(stored))) == size
            client.delete_object(stored)
        assert client.verify_object(address).verified
        if kind == "idle":
            assert cost < 5000 * IDLE_COST
        if kind == "half_frames":
            assert cost < 3000 * 20_000  # a MiB announced is none held
    crowd.stack.close()
    assert daemon.process.poll() is None
    with blocking.connect(daemon.socket_path) as client:
        assert daemon.becomes(lambda: client.call_private("dataplaned.status")["connections"] == 1)
        assert daemon.becomes(lambda: daemon.files("staging") == [])
    assert daemon.stop() == 0


def test_one_users_connections_leave_an_operator_room(
    start_daemon: Callable[..., Any], short_path: Path
) -> None:
    config = short_path / "c.toml"
    config.write_text(
        f'[daemon]\nsocket = "{short_path}/main"\nmax_connections = 20\n'
        f'[socket.admin]\npath = "{short_path}/admin"\n[backend.m]\ntype = "memory"\n'
    )
    daemon = start_daemon(("--config", str(config)))
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(daemon.socket_path)
            peer.sendall(HELLO)
            assert b"hello" in peer.recv(4096)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(daemon.socket_path)
            assert b"unavailable" in peer.recv(4096)
        with blocking.connect(f"{short_path}/admin") as client:
            assert client.call_private("dataplaned.status")["connections"] == 21
