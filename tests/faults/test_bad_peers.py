"""What peers get wrong costs themselves and nobody else: not the daemon, not another caller."""

import contextlib
import hashlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from dataplane_client import blocking
from dataplane_protocol import (
    BodyKind,
    Connection,
    ConnectionClosed,
    ContentAddress,
    DataPlaneError,
    End,
    Failure,
    Hello,
    Ok,
    Request,
    Side,
)

PIECE = os.urandom(65_536)

pytestmark = pytest.mark.slow


class RawPeer:
    """A client that says whatever a test wants said."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.connection = Connection(Side.CLIENT)

    def __enter__(self) -> Self:
        self.socket.sendall(self.connection.send(Hello()))
        assert isinstance(self.event(), Hello)
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def event(self) -> object:
        while (event := self.connection.next_event()) is None:
            data = self.socket.recv(65_536)
            if data:
                self.connection.receive(data)
            else:
                self.connection.receive_eof()
        return event

    def call(self, op: str, **args: object) -> object:
        self.socket.sendall(self.connection.send(Request(op=op, args=args)))
        return self.event()


@pytest.fixture
def witness(daemon: Any) -> Iterator[Callable[[], None]]:
    """Another caller with one connection of its own, to be asked after the damage is done."""
    with blocking.connect(daemon.socket_path, pool_size=1) as plane:
        address = plane.ingest_stream([b"witness"]).receipt.content_address

        def check() -> None:
            assert plane.verify_object(address).verified
            (page,) = plane.list_objects()
            assert [entry.content_address for entry in page] == [address]
            assert daemon.process.poll() is None
            assert daemon.files("staging") == []

        yield check


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\xff\xff\xff\xff" + b"x" * 100,
        b"\x00\x00\x00\x00",
        struct.pack(">I", 3) + b"\xa1\x00\x00",
        struct.pack(">I", 65_536) + b"\x9f" * 65_536,
        struct.pack(">I", 1) + b"\x01",
    ],
    ids=["http", "tls", "4-gib", "empty", "integer-key", "nested", "integer"],
)
@pytest.mark.parametrize("greets", [True, False], ids=["after-hello", "instead-of-hello"])
def test_garbage_is_told_and_ends_only_its_own_connection(
    daemon: Any, witness: Callable[[], None], garbage: bytes, greets: bool
) -> None:
    peer = RawPeer(daemon.socket_path)
    if greets:
        peer.__enter__()
    peer.socket.sendall(garbage)
    told = peer.event()
    assert isinstance(told, Failure)
    assert told.code == "protocol"
    # A reset takes the place of the end when the daemon closed before it had read all of it.
    with contextlib.suppress(ConnectionResetError):
        assert isinstance(peer.event(), ConnectionClosed)
    peer.__exit__()
    witness()


def test_an_announced_gigabyte_is_refused_before_it_comes(daemon: Any) -> None:
    with RawPeer(daemon.socket_path) as peer:
        peer.socket.sendall(b"\xff\xff\xff\xff")
        told = peer.event()
        assert isinstance(told, Failure)
        assert "4294967295 bytes" in told.message


@pytest.mark.parametrize(
    "address",
    ["", "blake3", "blake3:", "blake3:xyz", "BLAKE3:" + "ab" * 32, "blake3:" + "AB" * 32,
     "blake3:" + "ab" * 31, "blake3:" + "a" * 63, ":" + "ab" * 32, "../../etc/passwd",
     "blake3:" + "ab" * 32 + "\n", "sha256:" + "ab" * 33, 7, None, ["blake3:" + "ab" * 32]],
)  # fmt: skip
def test_a_malformed_address_is_a_bad_request_and_the_connection_goes_on(
    daemon: Any, address: object
) -> None:
    with RawPeer(daemon.socket_path) as peer:
        for op in ("serve_object", "verify_object", "delete_object"):
            answer = peer.call(op, content_address=address)
            assert isinstance(answer, Failure)
            assert answer.code == "bad_request"
        assert isinstance(peer.call("list_backends"), Ok)


@pytest.mark.parametrize(
    "byte_range",
    [{}, {"offset": -1}, {"offset": 0, "length": 0}, {"offset": 0, "length": -3},
     {"offset": "0"}, {"offset": True}, [0, 5], 5],
)  # fmt: skip
def test_a_malformed_range_is_a_bad_request(daemon: Any, byte_range: object) -> None:
    with RawPeer(daemon.socket_path) as peer:
        address = "blake3:" + "ab" * 32
        answer = peer.call("serve_object", content_address=address, byte_range=byte_range)
        assert isinstance(answer, Failure)
        assert answer.code == "bad_request"


def test_an_unknown_operation_with_a_body_stays_in_step(
    daemon: Any, witness: Callable[[], None]
) -> None:
    with RawPeer(daemon.socket_path) as peer:
        out, connection = peer.socket.sendall, peer.connection
        out(connection.send(Request(op="transmogrify", body=BodyKind.STREAM)))
        answer = peer.event()
        assert isinstance(answer, Failure)
        assert answer.code == "unsupported"
        for _ in range(100):
            out(connection.send_data(len(PIECE)) + PIECE)
        out(connection.send(End(size_bytes=100 * len(PIECE))))
        assert isinstance(peer.call("list_backends"), Ok)
    witness()


def test_a_body_that_is_refused_and_never_ends_is_given_up(
    daemon: Any, witness: Callable[[], None]
) -> None:
    with RawPeer(daemon.socket_path) as peer:
        connection = peer.connection
        request = Request(op="ingest_stream", args={"backend_id": "nope"}, body=BodyKind.STREAM)
        peer.socket.sendall(connection.send(request))

        def send_125_mebibytes() -> None:
            for _ in range(2000):
                peer.socket.sendall(connection.send_data(len(PIECE)) + PIECE)

        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_125_mebibytes()
    witness()


def test_an_ingest_whose_client_vanishes_stores_nothing(
    daemon: Any, witness: Callable[[], None]
) -> None:
    with RawPeer(daemon.socket_path) as peer:
        peer.socket.sendall(peer.connection.send(Request(op="ingest_stream", body=BodyKind.STREAM)))
        for _ in range(64):
            peer.socket.sendall(peer.connection.send_data(len(PIECE)) + PIECE)
        peer.socket.sendall(peer.connection.send_data(len(PIECE)) + PIECE[:100])
    # A daemon that is asked to stop ends every session first, so nothing is left to wait for.
    assert daemon.stop() == 0
    assert daemon.files("staging") == []
    assert daemon.files("objects") == []  # the witness is small, and lives in the catalog
    daemon.start()
    witness()


CLIENT = """
import sys
from dataplane_client import blocking
from dataplane_protocol import ContentAddress

def pieces():
    yield bytes(8 << 20)
    print("sending", flush=True)
    sys.stdin.read()

with blocking.connect(sys.argv[1]) as plane:
    if sys.argv[2] == "ingest":
        plane.ingest_stream(pieces())
    else:
        body = plane.serve_object(ContentAddress(sys.argv[2]))
        next(body)
        print("reading", flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("what", ["ingest", "serve"])
def test_a_client_that_is_killed_half_way_harms_nobody(
    daemon: Any, witness: Callable[[], None], what: str
) -> None:
    with blocking.connect(daemon.socket_path) as plane:
        large = plane.ingest_stream([bytes(8 << 20)]).receipt.content_address
        argument = "ingest" if what == "ingest" else str(large)
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, daemon.socket_path, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with client:
            assert client.stdout is not None
            assert client.stdout.readline()
            client.kill()
        assert plane.verify_object(large).verified
        plane.delete_object(large)
    assert daemon.stop() == 0
    daemon.start()
    witness()


def test_a_client_library_that_finds_no_daemon_says_where_it_looked(short_path: Path) -> None:
    impostor = socket.socket(socket.AF_UNIX)
    with impostor, blocking.connect(short_path / "nobody.sock") as plane:
        with pytest.raises(DataPlaneError, match=r"nobody\.sock") as caught:
            plane.list_backends()
        assert caught.value.code == "unavailable"


def test_client_text_reaches_the_log_escaped(daemon: Any) -> None:
    evil = 'x\n{"event": "forged"}\x1b[31m\u202e'
    with RawPeer(daemon.socket_path) as peer:
        peer.call(evil)
        peer.call("serve_object", content_address=evil, backend_id=evil)
        peer.socket.sendall(struct.pack(">I", 9) + b"\xa1\x68" + b"\n" * 7)
        assert isinstance(peer.event(), Failure)
    daemon.stop()
    assert daemon.events("forged") == []
    assert daemon.events("raw") == []


def test_thousands_of_half_open_frames_cost_little(daemon: Any) -> None:
    def resident() -> int:
        status = Path(f"/proc/{daemon.pid}/statm").read_text().split()
        return int(status[1]) * os.sysconf("SC_PAGE_SIZE")

    request = Connection(Side.CLIENT)
    hello = request.send(Hello())
    peers = []
    try:
        before = resident()
        for _ in range(300):
            peer = socket.socket(socket.AF_UNIX)
            peers.append(peer)
            peer.connect(daemon.socket_path)
            # A control frame of 60 KB that is announced and never comes.
            peer.sendall(hello + struct.pack(">I", 60_000) + b"\xa3" + bytes(500))
        with RawPeer(daemon.socket_path) as other:
            assert isinstance(other.call("list_backends"), Ok)
        assert resident() - before < 300 * 320_000
    finally:
        for peer in peers:
            peer.close()


def test_an_expected_digest_that_is_wrong_stores_nothing(
    daemon: Any, witness: Callable[[], None]
) -> None:
    wrong = ContentAddress("sha256:" + hashlib.sha256(b"other").hexdigest()).to_digest()
    with (
        blocking.connect(daemon.socket_path) as plane,
        pytest.raises(DataPlaneError) as caught,
    ):
        plane.ingest_stream([PIECE] * 50, expected_digest=wrong)
    assert caught.value.code == "body_mismatch"
    witness()


@pytest.mark.parametrize("greets", [True, False], ids=["after-hello", "instead-of-hello"])
def test_a_peer_that_breaks_off_ends_only_its_own_connection(
    daemon: Any, witness: Callable[[], None], greets: bool
) -> None:
    # Its `error` is neither a hello nor a request; taking it for one once ended the daemon.
    with contextlib.ExitStack() as stack:
        peer = RawPeer(daemon.socket_path)
        stack.callback(peer.__exit__)
        if greets:
            peer.__enter__()
        peer.socket.sendall(peer.connection.send(Failure(code="protocol", message="bye")))
        assert isinstance(peer.event(), ConnectionClosed)
    witness()
    assert daemon.events("session_failed") == []
