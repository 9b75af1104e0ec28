"""What the benchmark's own wire code makes and reads."""

import hashlib
import os
import re
import socket
import struct
import threading

import pytest

from tests.benchmarks.contestant import Pieces
from tests.benchmarks.load import Received
from tests.benchmarks.peers.containerd import _data_of
from tests.benchmarks.peers.grpc import GrpcConversation, call, field, varint
from tests.benchmarks.peers.http import header, request
from tests.benchmarks.peers.nix import Nix, number, text


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_received_bytes_are_taken_as_asked_for(pair):
    ours, theirs = pair
    received = Received(ours)
    theirs.sendall(b"head\r\n\r\nbody" + bytes(100_000) + b"rest")
    assert received.take_until(b"\r\n\r\n") == b"head\r\n\r\n"
    assert received.take(4) == b"body"
    received.skip(100_000)
    assert received.take(4) == b"rest"
    theirs.close()
    with pytest.raises(RuntimeError, match="closed"):
        received.take(1)


def test_pieces_are_the_same_every_time_and_other_for_another_stamp():
    base = os.urandom(Pieces.SIZE)
    pieces = Pieces(base, 3 * Pieces.SIZE, 1)
    content = b"".join(pieces)
    assert len(content) == 3 * Pieces.SIZE
    assert b"".join(pieces) == content
    assert len(set(pieces)) == 3
    assert b"".join(Pieces(base, 3 * Pieces.SIZE, 2)) != content


@pytest.mark.parametrize(
    ("value", "encoded"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")]
)
def test_numbers_are_encoded_as_protobuf_says(value, encoded):
    assert varint(value) == encoded


def test_fields_are_encoded_as_protobuf_says():
    assert field(1, 150) == b"\x08\x96\x01"
    assert field(2, "testing") == b"\x12\x07testing"


def test_the_data_of_a_read_is_found_behind_other_fields():
    assert _data_of(field(1, 300) + field(2, b"data")) == b"data"
    assert _data_of(field(1, 300)) == b""


def test_a_header_is_found_in_any_spelling():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert header(head, b"content-length") == b"5"
    assert header(head, b"location") is None


def test_a_request_states_the_length_of_its_body():
    assert request("PUT", "/a", body=b"abc").endswith(b"Content-Length: 3\r\n\r\nabc")
    assert b"Content-Length" not in request("GET", "/a", "Range: bytes=0-1")


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def test_a_body_waits_for_the_windows_of_its_peer(tmp_path):
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    got, acknowledged = bytearray(), []

    def serve():
        peer, _ = listener.accept()
        with peer:
            received = Received(peer)
            received.take(24 + 9 + 12 + 9 + 4)
            peer.sendall(frame(4, 0, 0, b""))
            while True:
                head = received.take(9)
                if head[3] == 4:
                    acknowledged.append(head[4])
                    continue
                size = int.from_bytes(head[:3], "big")
                kind, flags, stream = struct.unpack(">BBI", head[3:])
                payload = received.take(size)
                if kind == 0:
                    got.extend(payload)
                    more = struct.pack(">I", max(1, size))
                    peer.sendall(frame(8, 0, 0, more) + frame(8, 0, stream, more))
                    if flags & 1:
                        break
            message = b"\0" + struct.pack(">I", 2) + b"ok"
            peer.sendall(frame(6, 0, 0, b"12345678") + frame(0, 0, stream, message))
            peer.sendall(frame(1, 5, stream, b"\x88"))
            acknowledgement = received.take(9 + 8)
            assert (acknowledgement[3], acknowledgement[4]) == (6, 1)
            assert acknowledged == [1]

    thread = threading.Thread(target=serve)
    thread.start()
    body = os.urandom(400_000)
    conversation = GrpcConversation(path)
    assert conversation.call(call("/x", body, metadata=())) == 7
    thread.join(10)
    conversation._socket.close()
    listener.close()
    assert not thread.is_alive()
    assert got == b"\0" + struct.pack(">I", len(body)) + body


def test_an_archive_of_one_file_is_made_as_nix_reads_it(tmp_path):
    content = b"hello"
    nix = Nix(tmp_path)
    path = nix._path(content)
    assert re.fullmatch(rf"{tmp_path}/nix-daemon/store/[0-9a-z]{{32}}-object", path)
    made = nix.ingest(content)
    assert made.startswith(number(39) + text(path))
    archive = b"".join(
        map(text, ("nix-archive-1", "(", "type", "regular", "contents", content, ")"))
    )
    assert made.endswith(number(len(archive)) + archive + number(0))
    assert text(hashlib.sha256(archive).hexdigest()) in made
