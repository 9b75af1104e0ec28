import random
import socket
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from dataplane_protocol import (
    DATA_SIZE,
    BodyKind,
    Connection,
    ConnectionClosed,
    End,
    Failure,
    Hello,
    Ok,
    Request,
    Side,
    data_head,
    encode_frame,
)
from dataplaned.peer import BufferPool, Peer, PeerGoneError, PeerViolationError

INGEST = Request(op="ingest_stream", body=BodyKind.STREAM)
SERVE = Request(op="serve_object")


class Pair:
    """A peer under test, and the other end of its connection."""

    def __init__(self, ours, theirs):
        self.ours = ours
        self.connection = Connection(Side.CLIENT)
        self.buffers = BufferPool()
        self.peer = Peer(theirs, self.buffers)

    async def send(self, message):
        await self.send_bytes(self.connection.send(message))

    async def send_bytes(self, data):
        while data:
            data = data[await self.ours.send(data) :]

    async def start_call(self, request):
        """Exchange hellos and let the peer receive a request."""
        await self.send(Hello())
        await self.peer.receive()
        await self.peer.send(Hello())
        await self.receive()
        await self.send(request)
        assert await self.peer.receive() == request

    async def receive(self):
        """Give the next event, a piece of payload as bytes."""
        while (event := self.connection.next_event()) is None:
            self.connection.receive(await self.ours.recv(65_536))
        return bytes(event) if isinstance(event, memoryview) else event

    async def receive_body(self):
        body = b""
        while isinstance(event := await self.receive(), bytes):
            body += event
        return body, event


@pytest.fixture
async def pair():
    async with open_pair() as pair:
        yield pair


@asynccontextmanager
async def open_pair(wrap=lambda theirs: theirs):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    pair = Pair(trio.socket.from_stdlib_socket(ours), wrap(theirs))
    ours = pair.ours
    with ours, trio.fail_after(10):
        yield pair
        pair.peer.close()


# Receiving.


@pytest.mark.trio
async def test_events_come_in_order_and_however_they_are_cut(pair):
    await pair.start_call(INGEST)
    stream = pair.connection.send_data(5) + b"hello" + pair.connection.send(End(size_bytes=5))
    body = b""

    async def send_byte_by_byte():
        for at in range(len(stream)):
            await pair.send_bytes(stream[at : at + 1])
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_byte_by_byte)
        while isinstance(event := await pair.peer.receive(), memoryview):
            body += event
    assert body == b"hello"
    assert event == End(size_bytes=5)


@pytest.mark.trio
async def test_an_end_between_calls_is_an_event(pair):
    pair.ours.shutdown(socket.SHUT_WR)
    assert await pair.peer.receive() == ConnectionClosed(is_clean=True)


@pytest.mark.trio
@pytest.mark.parametrize("cut", [b"", b"\x00\x00", data_head(5) + b"he"])
async def test_an_end_in_the_middle_of_a_body_is_a_peer_that_is_gone(pair, cut):
    await pair.start_call(INGEST)
    await pair.send_bytes(cut)
    pair.ours.shutdown(socket.SHUT_WR)
    with pytest.raises(PeerGoneError, match="in the middle of a call"):
        while True:
            assert await pair.peer.receive() == b"he"


@pytest.mark.trio
async def test_a_reset_is_a_peer_that_is_gone(pair):
    await pair.start_call(SERVE)
    await pair.peer.send(Ok())
    pair.ours.close()  # with something unread: the kernel says so to the other end
    with pytest.raises(PeerGoneError, match="connection was lost: Connection reset by peer"):
        await pair.peer.receive()


@pytest.mark.trio
async def test_what_is_against_the_contract_is_a_violation_with_its_reason(pair):
    await pair.send_bytes(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(PeerViolationError, match="frame is 1195725856 bytes"):
        await pair.peer.receive()


@pytest.mark.trio
async def test_a_frame_out_of_order_is_a_violation(pair):
    await pair.send_bytes(encode_frame(End(size_bytes=0).to_wire()))
    with pytest.raises(PeerViolationError, match="client may not send end"):
        await pair.peer.receive()


@pytest.mark.trio
async def test_a_peer_that_breaks_off_is_gone(pair):
    await pair.start_call(INGEST)
    await pair.send(Failure(code="protocol", message="you broke it"))
    with pytest.raises(PeerGoneError, match="broke off"):
        await pair.peer.receive()


@pytest.mark.trio
async def test_a_peer_that_sends_nothing_that_is_due_is_gone(pair):
    pair.peer.stall_timeout_s = 0.01
    await pair.start_call(INGEST)
    with pytest.raises(PeerGoneError, match=r"no progress for 0\.01 s"):
        await pair.peer.receive()


# Buffers.


@pytest.mark.trio
async def test_whoever_waits_holds_no_buffer(pair):
    await pair.start_call(SERVE)
    assert pair.buffers._free == []
    await pair.peer.send(Ok())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.peer.wait)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pair.buffers._free) == 1
        await pair.receive()
        await pair.send(SERVE)
    assert await pair.peer.receive() == SERVE
    assert pair.buffers._free == []


@pytest.mark.trio
async def test_waiting_ends_with_the_connection(pair):
    pair.ours.close()
    await pair.peer.wait()


def test_a_pool_keeps_few_buffers_and_gives_them_again():
    pool = BufferPool(keep=2)
    buffers = [pool.take() for _ in range(3)]
    assert len({id(buffer) for buffer in buffers}) == 3
    for buffer in buffers:
        pool.give(buffer)
    assert pool.take() is buffers[1]
    assert pool.take() is buffers[0]
    assert pool.take() is not buffers[2]


# Sending.


class Reluctant:
    """A socket that takes at most so many bytes at a time, and counts how often it is asked."""

    def __init__(self, inner, most):
        self._inner = inner
        self._most = most
        self.sends = 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def sendmsg(self, buffers, _ancillary=(), _flags=0):
        self.sends += 1
        return self._inner.send(b"".join(buffers)[: self._most])


@pytest.mark.trio
@pytest.mark.parametrize("most", [1, 7, 1000])
async def test_what_the_socket_did_not_take_is_sent_again(most):
    body = random.Random(1).randbytes(2000)
    async with open_pair(lambda theirs: Reluctant(theirs, most)) as pair:
        await pair.start_call(SERVE)

        async def serve():
            pair.peer.queue(Ok(result={"some": "thing"}, body=BodyKind.STREAM))
            for start in range(0, 2000, 100):
                await pair.peer.send_data(body[start : start + 100])
            await pair.peer.send(End(size_bytes=2000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            assert await pair.receive() == Ok(result={"some": "thing"}, body=BodyKind.STREAM)
            assert await pair.receive_body() == (body, End(size_bytes=2000))


@pytest.mark.trio
async def test_a_large_body_arrives_whole_at_a_reader_that_is_slower(pair):
    body = random.Random(1).randbytes(3_000_000)
    await pair.start_call(SERVE)

    async def serve():
        pair.peer.queue(Ok(body=BodyKind.STREAM))
        await pair.peer.send_data(memoryview(body))
        await pair.peer.send(End(size_bytes=len(body)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        assert await pair.receive() == Ok(body=BodyKind.STREAM)
        assert await pair.receive_body() == (body, End(size_bytes=len(body)))
    assert pair.peer.connection.sent_bytes == len(body)


@pytest.mark.trio
async def test_a_small_answer_with_its_body_is_one_write():
    sockets = []

    def wrap(theirs):
        sockets.append(Reluctant(theirs, 1_000_000))
        return sockets[0]

    async with open_pair(wrap) as pair:
        await pair.start_call(SERVE)
        sockets[0].sends = 0
        pair.peer.queue(Ok(body=BodyKind.STREAM))
        await pair.peer.send_data(b"small")
        await pair.peer.send(End(size_bytes=5))
        assert sockets[0].sends == 1


@pytest.mark.trio
async def test_a_piece_is_cut_into_frames_of_the_usual_size(pair):
    await pair.start_call(SERVE)
    pair.peer.queue(Ok(body=BodyKind.STREAM))
    received = bytearray()

    async def receive():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while len(received) < 2 * DATA_SIZE + 1:
                received.extend(await pair.ours.recv(65_536))

    async def send():
        await pair.peer.send_data(bytes(2 * DATA_SIZE + 1))
        await pair.peer.flush()

    await receive()
    assert bytes(received).count(data_head(DATA_SIZE)) == 2
    assert received.endswith(data_head(1) + b"\x00")


@pytest.mark.trio
async def test_any_number_of_tiny_pieces_can_be_sent(pair):
    await pair.start_call(SERVE)
    pair.peer.queue(Ok(body=BodyKind.STREAM))

    async def send():
        for _ in range(5_000):
            await pair.peer.send_data(b"x")
        await pair.peer.send(End(size_bytes=5_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await pair.receive()
        assert await pair.receive_body() == (b"x" * 5_000, End(size_bytes=5_000))


@pytest.mark.trio
async def test_sending_to_a_peer_that_closed_says_that_it_is_gone(pair):
    await pair.start_call(SERVE)
    pair.ours.close()
    with pytest.raises(PeerGoneError, match="connection was lost: Broken pipe"):
        await pair.peer.send(Ok())


@pytest.mark.trio
async def test_a_peer_that_takes_nothing_is_gone(pair):
    pair.peer.stall_timeout_s = 0.01
    await pair.start_call(SERVE)
    pair.peer.queue(Ok(body=BodyKind.STREAM))
    with pytest.raises(PeerGoneError, match="no progress"):
        await pair.peer.send_data(bytes(10_000_000))


# Watching.


@pytest.mark.trio
async def test_a_watched_peer_that_closes_is_gone(pair):
    await pair.start_call(SERVE)

    async def close():
        await trio.testing.wait_all_tasks_blocked()
        pair.ours.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        with pytest.raises(PeerGoneError, match="while the call was worked on"):
            await pair.peer.raise_when_gone()


@pytest.mark.trio
async def test_watching_ends_when_bytes_arrive_and_leaves_them(pair):
    await pair.start_call(SERVE)
    await pair.send_bytes(encode_frame(SERVE.to_wire()))
    await pair.peer.raise_when_gone()
    await pair.peer.send(Ok())
    assert await pair.peer.receive() == SERVE
