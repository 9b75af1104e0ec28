"""A real daemon under thousands of malformed conversations, and a caller who notices nothing."""

import contextlib
import os
import random
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from dataplane_client import blocking

from .mutants import mutate_stream
from .seeds import conversations, frames

CONNECTIONS = 10_000
WARM_UP = 500

#: Bytes that the daemon may grow by, once it is warm: no more than a few receive buffers.
MAX_GROWTH = 16 * 1_048_576

#: Descriptors that it may open for good at first use.
MAX_KEPT = 8

#: Of the good caller alone, so that no mutant names it.
CONTENT = b"only the good caller has this" * 4000


class GoodCaller:
    """Makes calls in a thread of its own until it is told to stop, or one of them fails."""

    def __init__(self, path: str) -> None:
        self.calls = 0
        self.failure: Exception | None = None
        self._path = path
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with blocking.connect(self._path, pool_size=2) as plane:
                while not self._is_over.is_set():
                    self._call_everything(plane)
        except Exception as exc:
            self.failure = exc

    def _call_everything(self, plane: Any) -> None:
        address = plane.ingest_stream([CONTENT]).receipt.content_address
        with plane.serve_object(address) as stream:
            assert b"".join(stream) == CONTENT
        assert plane.verify_object(address).verified
        assert [each.size_bytes for each in plane.stat_objects([address])] == [len(CONTENT)]
        assert plane.backend_health().healthy
        assert plane.delete_object(address).deleted
        self.calls += 6


def mutants(seed: int) -> Iterator[tuple[bytes, random.Random]]:
    rng = random.Random(seed)
    vocabulary = [frame for frame in frames() if len(frame) > 4]
    streams = [said for _, said, _ in conversations() if said]
    while True:
        yield mutate_stream(rng.choice(streams), rng, vocabulary), rng


def converse(path: str, stream: bytes, rng: random.Random) -> None:
    """Send a stream and read what comes until the end, or go as soon as it is sent.

    It reads while it sends: a server that sends a body to a peer that does not read waits.
    """
    stays = rng.random() < 0.7
    left = memoryview(stream)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(60)
        peer.connect(path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while left:
                readable, writable, _ = select.select([peer], [peer], [], 60)
                assert readable or writable
                if readable and not peer.recv(65_536):
                    return
                if writable:
                    left = left[peer.send(left[: rng.randint(1, 4096)], socket.MSG_DONTWAIT) :]
            if stays:
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65_536):
                    pass


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_malformed_conversations_disturb_nobody(daemon: Any) -> None:
    source = mutants(seed=1)
    with blocking.connect(daemon.socket_path, pool_size=1) as witness:
        assert witness.backend_health().healthy
        idle = descriptors(daemon.pid)
        with GoodCaller(daemon.socket_path) as caller:
            for _ in range(WARM_UP):
                converse(daemon.socket_path, *next(source))
            warm = resident_bytes(daemon.pid)
            for _ in range(CONNECTIONS - WARM_UP):
                converse(daemon.socket_path, *next(source))
        assert caller.failure is None
        assert caller.calls > 100
        assert daemon.process.poll() is None
        assert resident_bytes(daemon.pid) - warm < MAX_GROWTH
        # Who went without a word is noticed while these calls are answered.
        for _ in range(1000):
            assert witness.backend_health().healthy
            if descriptors(daemon.pid) <= idle + MAX_KEPT:
                break
        assert descriptors(daemon.pid) <= idle + MAX_KEPT
    assert daemon.stop() == 0
    assert daemon.events("peer_violation")
    assert [line for line in daemon.log if line.get("level") in ("warning", "error")] == []
    assert daemon.files("staging") == []
