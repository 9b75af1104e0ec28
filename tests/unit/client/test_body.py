"""A served object: its pieces, its end, and every way in which it is no good."""

import gc
import threading
import tracemalloc
from contextlib import suppress

import anyio
import pytest

from dataplane_client import blocking, connect
from dataplane_protocol import (
    DATA_SIZE,
    BodyMismatchError,
    ContentAddress,
    DataPlaneError,
    Digest,
    End,
    Failure,
    InvalidRequestError,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectStream,
    Ok,
    RemoteProtocolError,
    UnavailableError,
)


def serving(*frames, more=()):
    """A script that answers one request with frames, and further ones with an answer each."""

    def script(peer):
        peer.request()
        peer.send(*frames)
        for answer in more:
            peer.request()
            peer.send(answer)
        peer.expect_closed()

    return script


@pytest.mark.anyio
async def test_a_whole_object(daemon, sample):
    frames = [sample.serving(12), b"hello ", b"world\n", End(size_bytes=12, digest=sample.blake3)]
    daemon.run(serving(*frames, more=[sample.health]))
    async with connect(daemon.path) as client:
        served = await client.serve_object(sample.address)
        assert isinstance(served, ObjectStream)
        assert (served.size, served.offset, served.length) == (12, 0, 12)
        assert repr(served) == "<ServedObject: 12 bytes from 0 of 12>"
        pieces = [piece async for piece in served]
        assert b"".join(pieces) == sample.data
        assert {type(piece) for piece in pieces} == {bytes}
        # It is over, and has given its connection back.
        with pytest.raises(StopAsyncIteration):
            await anext(served)
        await client.backend_health()
        await served.aclose()


@pytest.mark.anyio
async def test_a_range_is_asked_for_in_the_bytes_of_the_contract(daemon, sample):
    def script(peer):
        peer.request()
        assert peer.raw == bytes.fromhex(
            "0000008d"
            "a2626f706c73657276655f6f626a6563746461726773a26a627974655f72616e6765a2666c656e6774681864666f6666"
            "736574066f636f6e74656e745f616464726573737847626c616b65333a64633561346564623832343062303138313234"
            "303532633333303237303639366639363737316136336234353235306135633137643330303065383233333535"
        )
        peer.send(sample.serving(6, size=12, offset=6), b"world\n", End(size_bytes=6))
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        served = await client.serve_object(sample.address, byte_range=(6, 105))
        assert (served.size, served.offset, served.length) == (12, 6, 6)
        assert b"".join([piece async for piece in served]) == b"world\n"


@pytest.mark.anyio
async def test_an_empty_object_has_no_pieces(daemon, sample):
    daemon.run(serving(sample.serving(0), End(size_bytes=0), more=[sample.health]))
    async with connect(daemon.path) as client:
        async with await client.serve_object(sample.address) as served:
            assert [piece async for piece in served] == []
        await client.backend_health()


@pytest.mark.anyio
async def test_a_missing_object_is_told_by_the_await(daemon, sample):
    daemon.run(serving(Failure(code="not_found"), more=[sample.health]))
    async with connect(daemon.path) as client:
        with pytest.raises(ObjectNotFoundError):
            await client.serve_object(sample.address)
        await client.backend_health()


@pytest.mark.anyio
async def test_the_last_piece_is_withheld_until_the_end_has_come(daemon, sample):
    asked = threading.Event()

    def script(peer):
        peer.request()
        peer.send(sample.serving(12), b"hello ", b"world\n")
        assert asked.wait(20)
        peer.send(End(size_bytes=12))
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        served = await client.serve_object(sample.address)
        async with served:
            assert await anext(served) == b"hello "
            last = []

            async def take():
                last.append(await anext(served))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                await anyio.wait_all_tasks_blocked()
                assert last == []
                asked.set()
            assert last == [b"world\n"]


async def collect(served, pieces):
    async for piece in served:
        pieces.append(piece)


async def broken(daemon, sample, frames, error, *, address=None, more=()):
    """Serve a body that ends badly; give the pieces that came out before the error."""
    daemon.run(serving(sample.serving(12), *frames, more=more))
    pieces = []
    async with connect(daemon.path) as client:
        served = await client.serve_object(address or sample.address)
        with pytest.raises(error) as caught:
            await collect(served, pieces)
        assert type(caught.value) is error
        # Broken it stays: nothing later can look like a good end.
        with pytest.raises(InvalidRequestError, match="closed before its end"):
            await anext(served)
        for _ in more:
            await client.backend_health()
    return pieces


@pytest.mark.anyio
async def test_an_error_in_place_of_the_end_replaces_the_last_piece(daemon, sample):
    frames = [b"hello ", b"world\n", Failure(code="corrupt")]
    pieces = await broken(daemon, sample, frames, ObjectCorruptError, more=[sample.health])
    assert pieces == [b"hello "]


@pytest.mark.anyio
async def test_an_error_in_the_middle_leaves_the_connection_in_use(daemon, sample):
    frames = [b"hello ", Failure(code="unavailable", retry=True)]
    pieces = await broken(daemon, sample, frames, UnavailableError, more=[sample.health])
    assert pieces == [b"hello "]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "frames",
    [
        [b"hello ", b"world\n", End(size_bytes=11)],
        [b"hello ", End(size_bytes=12)],
        [b"hello ", End(size_bytes=6)],
        [b"hello ", b"world\n", b"!", End(size_bytes=13)],
        [b"hello ", b"world\n!", End(size_bytes=13)],
    ],
    ids=["wrong size", "short", "short and says so", "long", "long in one frame"],
)
async def test_a_body_of_another_size_has_no_last_piece(daemon, sample, frames):
    assert await broken(daemon, sample, frames, BodyMismatchError) == [b"hello "]


@pytest.mark.anyio
async def test_a_body_that_differs_from_its_digest_is_a_mismatch(daemon, sample):
    frames = [b"hello ", b"World\n", End(size_bytes=12, digest=sample.sha256)]
    address = sample.sha256_address
    assert await broken(daemon, sample, frames, BodyMismatchError, address=address) == [b"hello "]


@pytest.mark.anyio
async def test_an_object_that_is_not_the_one_asked_for_is_corrupt(daemon, sample):
    frames = [b"hello ", b"World\n", End(size_bytes=12)]
    address = sample.sha256_address
    assert await broken(daemon, sample, frames, ObjectCorruptError, address=address) == [b"hello "]


@pytest.mark.anyio
async def test_a_daemon_that_says_it_sent_another_object_is_believed(daemon, sample):
    other = Digest("blake3", "00" * 32)
    frames = [b"hello ", b"world\n", End(size_bytes=12, digest=other)]
    assert await broken(daemon, sample, frames, ObjectCorruptError) == [b"hello "]


@pytest.mark.anyio
@pytest.mark.parametrize("algorithm", ["sha256", "blake3", None])
async def test_an_object_asked_for_by_sha256_is_checked_here(daemon, sample, algorithm):
    digests = {"sha256": sample.sha256, "blake3": sample.blake3, None: None}
    end = End(size_bytes=12, digest=digests[algorithm])
    daemon.run(serving(sample.serving(12), sample.data, end))
    async with connect(daemon.path) as client:
        served = await client.serve_object(sample.sha256_address)
        assert [piece async for piece in served] == [sample.data]


@pytest.mark.anyio
async def test_a_range_cannot_be_checked_against_the_object(daemon, sample):
    answer = sample.serving(5, size=12)
    daemon.run(serving(answer, b"wrong", End(size_bytes=5)))
    async with connect(daemon.path) as client:
        served = await client.serve_object(sample.sha256_address, byte_range=(0, 4))
        assert [piece async for piece in served] == [b"wrong"]


@pytest.mark.anyio
async def test_a_connection_lost_in_the_middle_is_unavailable(daemon, sample):
    def script(peer):
        peer.request()
        peer.send(sample.serving(12), b"hello ")

    daemon.run(script)
    async with connect(daemon.path) as client:
        served = await client.serve_object(sample.address)
        assert await anext(served) == b"hello "
        with pytest.raises(UnavailableError) as caught:
            await anext(served)
    assert caught.value.retry


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("size", "offset", "length"), [(12, 0, 3), (12, 6, 3), (12, 3, 4), (3, 3, 0), (12, 0, 12)]
)
async def test_an_answer_for_another_range_is_a_violation(daemon, sample, size, offset, length):
    daemon.run(serving(sample.serving(length, size=size, offset=offset)))
    async with connect(daemon.path) as client:
        with pytest.raises(RemoteProtocolError, match="asked for"):
            await client.serve_object(sample.address, byte_range=(3, 5))


@pytest.mark.anyio
async def test_an_answer_without_its_body_is_a_violation(daemon, sample):
    daemon.run(serving(Ok(result=sample.serving(12).result)))
    async with connect(daemon.path) as client:
        with pytest.raises(RemoteProtocolError, match="has a body, or lacks one"):
            await client.serve_object(sample.address)


# Leaving early.


def endless(sample):
    """A script that serves until the client is gone."""

    def script(peer):
        peer.request()
        peer.send(sample.serving(2**40))
        with suppress(BrokenPipeError, ConnectionResetError):
            while True:
                peer.send(bytes(DATA_SIZE))

    return script


def answering(sample):
    return serving(sample.health)


@pytest.mark.anyio
async def test_a_body_left_early_closes_its_connection_and_frees_its_place(daemon, sample):
    daemon.run(endless(sample), answering(sample))
    async with connect(daemon.path, pool_size=1) as client:
        async with await client.serve_object(sample.address) as served:
            await anext(served)
        await client.backend_health()
        with pytest.raises(InvalidRequestError, match="closed before its end"):
            await anext(served)


@pytest.mark.anyio
async def test_a_cancelled_reader_closes_the_connection_and_frees_its_place(
    daemon, sample, make_flag
):
    def stuck(peer):
        peer.request()
        peer.send(sample.serving(12), b"hello ")
        peer.expect_closed()

    daemon.run(stuck, answering(sample))
    async with connect(daemon.path, pool_size=1) as client:
        served = await client.serve_object(sample.address)
        async with anyio.create_task_group() as tasks:

            async def read():
                async for _ in served:
                    reading.set()

            reading = anyio.Event()
            tasks.start_soon(read)
            await reading.wait()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await client.backend_health()


@pytest.mark.anyio
async def test_a_cancelled_reader_gets_no_piece_that_is_already_here(daemon, sample):
    daemon.run(serving(sample.serving(12), sample.data, End(size_bytes=12)))
    async with connect(daemon.path) as client:
        served = await client.serve_object(sample.address)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(served)
        assert scope.cancelled_caught


@pytest.mark.anyio
async def test_closing_a_body_wakes_the_task_that_reads_it(daemon, sample):
    def stuck(peer):
        peer.request()
        peer.send(sample.serving(12))
        peer.expect_closed()

    daemon.run(stuck)

    async def read():
        with pytest.raises(UnavailableError, match="closed on this side"):
            await anext(served)

    async with connect(daemon.path) as client:
        served = await client.serve_object(sample.address)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await served.aclose()


@pytest.mark.anyio
async def test_a_second_reader_is_refused_and_the_first_goes_on(daemon, sample):
    go = threading.Event()

    def script(peer):
        peer.request()
        peer.send(sample.serving(12))
        assert go.wait(20)
        peer.send(sample.data, End(size_bytes=12))
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        served = await client.serve_object(sample.address)
        async with served:

            async def read():
                assert await anext(served) == sample.data

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(InvalidRequestError, match="another task"):
                    await anext(served)
                go.set()


@pytest.mark.anyio
async def test_a_body_forgotten_warns_and_frees_its_place(daemon, sample):
    daemon.run(endless(sample), answering(sample))
    async with connect(daemon.path, pool_size=1) as client:
        served = await client.serve_object(sample.address)
        with pytest.warns(ResourceWarning, match="unclosed <ServedObject"):
            del served
        await client.backend_health()


def clear_in_a_thread(bodies):
    thread = threading.Thread(target=bodies.clear)
    thread.start()
    thread.join()


@pytest.mark.anyio
@pytest.mark.parametrize("forget", [list.clear, clear_in_a_thread])
async def test_a_body_forgotten_anywhere_gives_a_waiter_its_turn(daemon, sample, forget):
    daemon.run(endless(sample), answering(sample))
    async with connect(daemon.path, pool_size=1) as client:
        bodies = [await client.serve_object(sample.address)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.backend_health)
            await anyio.wait_all_tasks_blocked()
            with pytest.warns(ResourceWarning):
                forget(bodies)


@pytest.mark.anyio
async def test_a_body_read_to_its_end_need_not_be_closed(daemon, sample):
    daemon.run(serving(sample.serving(12), sample.data, End(size_bytes=12)))
    async with connect(daemon.path) as client:
        served = await client.serve_object(sample.address)
        assert [piece async for piece in served] == [sample.data]
        del served
        gc.collect()


@pytest.mark.anyio
async def test_memory_is_flat_whatever_the_size(daemon, sample):
    count = 128
    piece = bytes(DATA_SIZE)
    ready = threading.Event()

    def script(peer):
        peer.request()
        head = peer.protocol
        peer.send(sample.serving(count * DATA_SIZE))
        assert ready.wait(20)
        for _ in range(count):
            peer.sock.sendall(head.send_data(DATA_SIZE))
            peer.sock.sendall(piece)
        peer.send(End(size_bytes=count * DATA_SIZE))
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        served = await client.serve_object(sample.address)
        async with served:
            tracemalloc.start()
            try:
                ready.set()
                received = 0
                async for part in served:
                    received += len(part)
                    del part
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    assert received == count * DATA_SIZE
    assert peak < 3 * DATA_SIZE


@pytest.mark.anyio
async def test_errors_of_a_body_are_errors_of_the_data_plane(daemon, sample):
    unknown = ContentAddress("md5:00")
    daemon.run(serving(Failure(code="unsupported")))
    async with connect(daemon.path) as client:
        with pytest.raises(DataPlaneError):
            await client.serve_object(unknown)


def test_a_body_that_is_too_long_fails_without_waiting_for_more(daemon, sample):
    def script(peer):
        peer.request()
        peer.send(sample.serving(12), b"hello world\n and more")
        peer.expect_closed()

    daemon.run(script)
    with blocking.connect(daemon.path) as client, client.serve_object(sample.address) as served:
        with pytest.raises(BodyMismatchError, match="more than the 12 bytes"):
            next(served)
