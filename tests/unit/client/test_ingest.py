"""Ingest: how a body goes out, and everything that can end it early."""

import itertools
import threading
import weakref

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from dataplane_client import _ingest, connect
from dataplane_protocol import (
    DATA_SIZE,
    AccessDeniedError,
    BodyMismatchError,
    Digest,
    End,
    Failure,
    IngestHints,
    InvalidRequestError,
    NoSpaceError,
    RemoteProtocolError,
    UnavailableError,
    UnsupportedError,
    encode_frame,
)

CANCELLED = Failure(code="cancelled")


class Stream:
    """Gives its items, awaiting flags and raising exceptions on the way. Needs no closing."""

    def __init__(self, items):
        self.items = iter(items)

    def __aiter__(self):
        return self

    async def __anext__(self):
        for item in self.items:
            if isinstance(item, BaseException):
                raise item
            if not hasattr(item, "wait"):
                return item
            await item.wait()
        raise StopAsyncIteration


def stream(*items):
    return Stream(items)


def endless(size=DATA_SIZE):
    return Stream(itertools.repeat(bytes(size)))


@pytest.fixture
def patient(monkeypatch):
    """Keep small pieces back for company however slow the machine is."""
    monkeypatch.setattr(_ingest, "_LINGER", 1000)


def storing(sample, bodies):
    """A script that stores one body after the other."""

    def script(peer):
        while True:
            event = peer.receive()
            if not hasattr(event, "op"):
                return
            frames, end = peer.frames()
            bodies.append((event, frames, end))
            peer.send(sample.stored(end.size_bytes))

    return script


async def ingest(daemon, sample, pieces, **options):
    bodies = []
    daemon.run(storing(sample, bodies))
    async with connect(daemon.path) as client:
        result = await client.ingest_stream(stream(*pieces), **options)
    request, frames, end = bodies[0]
    assert result == sample.ingested(len(b"".join(frames)))
    return request, frames, end


@pytest.mark.anyio
async def test_a_small_object_is_one_write_of_the_fewest_bytes(daemon, sample, patient):
    def script(peer):
        # One write arrives whole, so that one read has it all.
        assert peer.sock.recv(65536) == bytes.fromhex(
            "00000024a3626f706d696e676573745f73747265616d6461726773a064626f64796673747265616d"
            "0000000d4c68656c6c6f20776f726c640a"
            "00000012a163656e64a16a73697a655f62797465730c"
        )
        peer.sock.sendall(encode_frame(sample.stored(12).to_wire()))

    daemon.run(script)
    async with connect(daemon.path) as client:
        result = await client.ingest_stream(stream(b"hello", b"", b" world\n"))
    assert result == sample.ingested(12)


@pytest.mark.anyio
async def test_hints_are_the_arguments(daemon, sample):
    hints = IngestHints(size_hint=5, primary_algorithm="sha256", backend_id="b")
    request, _, _ = await ingest(daemon, sample, [b"12345"], hints=hints)
    assert request.args == {"size_hint": 5, "primary_algorithm": "sha256", "backend_id": "b"}


@pytest.mark.anyio
async def test_an_empty_stream_is_an_empty_object(daemon, sample):
    _, frames, end = await ingest(daemon, sample, [b"", b""])
    assert (frames, end) == ([], End(size_bytes=0))


def sizes_on_the_wire(data):
    """Give the payload size of each data frame of a raw client half, its request apart."""
    sizes, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        head = data[at + 4]
        if head >> 5 == 2:
            sizes.append(length - (1 if head & 31 < 24 else 1 + 2 ** (head & 31 - 24)))
        at += 4 + length
    return sizes


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([2 * DATA_SIZE + 5], [DATA_SIZE, DATA_SIZE, 5]),
        ([DATA_SIZE], [DATA_SIZE]),
        ([DATA_SIZE - 1, 1], [DATA_SIZE]),
        ([65536] * 9, [DATA_SIZE, DATA_SIZE, 65536]),
        ([1, DATA_SIZE, 1], [DATA_SIZE, 2]),
        ([3 * DATA_SIZE // 2] * 2, [DATA_SIZE] * 3),
        ([100] * 3000, [DATA_SIZE, 300_000 - DATA_SIZE]),
    ],
    ids=str,
)
async def test_pieces_of_any_size_become_frames_of_the_recommended_size(
    daemon, sample, patient, pieces, expected
):
    numbers = itertools.cycle(range(251))
    data = [
        bytes(next(numbers) for _ in range(min(size, 997))) * (size // 997 + 1) for size in pieces
    ]
    data = [piece[:size] for piece, size in zip(data, pieces, strict=True)]
    raw = []

    def script(peer):
        peer.request()
        got, end = peer.body()
        assert got == b"".join(data)
        assert end == End(size_bytes=sum(pieces))
        raw.append(peer.raw)
        peer.send(sample.stored(end.size_bytes))
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        await client.ingest_stream(stream(*data))
    assert sizes_on_the_wire(raw[0]) == expected


@pytest.mark.anyio
@pytest.mark.parametrize("size", [10, 300_000])
async def test_the_memory_of_a_piece_may_be_used_again(daemon, sample, patient, size):
    async def reusing():
        piece = bytearray(size)
        for number in (1, 2, 3):
            piece[:] = bytes([number]) * size
            yield memoryview(piece)

    bodies = []
    daemon.run(storing(sample, bodies))
    async with connect(daemon.path) as client:
        await client.ingest_stream(reusing())
    assert b"".join(bodies[0][1]) == b"".join(bytes([n]) * size for n in (1, 2, 3))


@pytest.mark.anyio
async def test_a_slow_stream_is_not_kept_back(daemon, sample, monkeypatch, make_flag):
    # A clock that says at each look that a second has passed.
    clock = itertools.count()
    monkeypatch.setattr(_ingest.time, "monotonic", lambda: float(next(clock)))
    arrived = make_flag()

    def script(peer):
        peer.request()
        assert peer.receive() == b"first"
        arrived.set()
        assert peer.body() == (b"second", End(size_bytes=11))
        peer.send(sample.stored(11))
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        await client.ingest_stream(stream(b"first", arrived, b"second"))


@pytest.mark.anyio
async def test_at_most_a_frame_and_a_piece_are_held(daemon, sample):
    class Piece(bytearray):
        pass

    alive = weakref.WeakSet()
    most = 0

    async def watched():
        nonlocal most
        for _ in range(64):
            piece = Piece(DATA_SIZE)
            alive.add(piece)
            most = max(most, len(alive))
            yield piece
            del piece

    bodies = []
    daemon.run(storing(sample, bodies))
    # A set of equal bytearrays is one by identity only.
    Piece.__hash__ = object.__hash__
    Piece.__eq__ = object.__eq__
    async with connect(daemon.path) as client:
        await client.ingest_stream(watched())
    assert bodies[0][2] == End(size_bytes=64 * DATA_SIZE)
    assert most <= 3


@pytest.mark.anyio
async def test_the_expected_digest_goes_into_the_end(daemon, sample):
    _, _, end = await ingest(daemon, sample, [sample.data], expected_digest=sample.sha256)
    assert end == End(size_bytes=12, digest=sample.sha256)


@pytest.mark.anyio
async def test_a_digest_function_is_asked_after_the_last_byte(daemon, sample):
    seen = []

    async def hashing():
        yield sample.data
        seen.append("all")

    def digest():
        assert seen == ["all"]
        return sample.blake3

    bodies = []
    daemon.run(storing(sample, bodies))
    async with connect(daemon.path) as client:
        await client.ingest_stream(hashing(), expected_digest=digest)
    assert bodies[0][2].digest == sample.blake3


@pytest.mark.anyio
async def test_a_digest_function_may_know_none(daemon, sample):
    _, _, end = await ingest(daemon, sample, [b"x"], expected_digest=lambda: None)
    assert end.digest is None


@pytest.mark.anyio
async def test_a_digest_of_another_algorithm_is_left_to_the_daemon(daemon):
    def script(peer):
        peer.request()
        _, end = peer.body()
        assert end.digest.algorithm == "md5"
        peer.send(Failure(code="unsupported"))
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(UnsupportedError):
            await client.ingest_stream(stream(b"x"), expected_digest=Digest("md5", "00"))


@pytest.mark.anyio
async def test_a_mismatch_is_the_daemons_error_and_leaves_the_connection_in_use(daemon, sample):
    def script(peer):
        peer.request()
        peer.body()
        peer.send(Failure(code="body_mismatch"))
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(BodyMismatchError):
            await client.ingest_stream(stream(b"x"), expected_digest=sample.blake3)
        await client.backend_health()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("given", "options"),
    [
        (b"bytes", {}),
        (None, {}),
        (stream(), {"expected_digest": "sha256:00"}),
        (stream(), {"hints": IngestHints(size_hint=-1)}),
    ],
    ids=["bytes", "none", "text as digest", "size hint"],
)
async def test_wrong_arguments_are_refused_before_anything_is_sent(tmp_path, given, options):
    async with connect(tmp_path / "nobody") as client:
        with pytest.raises(InvalidRequestError):
            await client.ingest_stream(given, **options)


# Early answers.


@pytest.mark.anyio
async def test_an_early_refusal_ends_the_stream_and_leaves_the_connection_in_use(daemon, sample):
    def script(peer):
        peer.request()
        peer.receive()
        peer.send(Failure(code="no_space", message="full"))
        assert peer.body()[1] == CANCELLED
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(NoSpaceError, match="full"):
            await client.ingest_stream(endless())
        await client.backend_health()


@pytest.mark.anyio
async def test_a_refusal_of_a_body_already_sent_is_its_answer(daemon, sample):
    def script(peer):
        peer.request()
        peer.send(Failure(code="no_space"))
        assert peer.body() == (b"small", End(size_bytes=5))
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(NoSpaceError):
            await client.ingest_stream(stream(b"small"))
        await client.backend_health()


@pytest.mark.anyio
async def test_after_a_broken_pipe_the_reason_is_still_read(daemon):
    def script(peer):
        peer.request()
        peer.send(Failure(code="denied", message="not you"))
        # Closing with bytes unread resets the connection; the error outlives that.

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(AccessDeniedError, match="not you"):
            await client.ingest_stream(endless())


@pytest.mark.anyio
async def test_a_connection_that_breaks_without_a_reason_is_unavailable(daemon):
    daemon.run(lambda peer: peer.request())
    async with connect(daemon.path) as client:
        with pytest.raises(UnavailableError) as caught:
            await client.ingest_stream(endless())
    assert caught.value.retry


@pytest.mark.anyio
async def test_an_ok_before_the_end_is_a_violation(daemon, sample, make_flag):
    gate = make_flag()

    def script(peer):
        peer.request()
        peer.sock.sendall(encode_frame(sample.stored(1).to_wire()))
        gate.set()
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(RemoteProtocolError, match="may not send ok"):
            await client.ingest_stream(stream(bytes(DATA_SIZE), gate, bytes(DATA_SIZE)))


@pytest.mark.anyio
async def test_a_result_of_another_size_is_a_violation(daemon, sample):
    def script(peer):
        peer.request()
        peer.body()
        peer.send(sample.stored(13))
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(RemoteProtocolError, match="13 bytes were stored, 12 were sent"):
            await client.ingest_stream(stream(sample.data))


# A stream that fails.


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("pieces", "options", "error"),
    [
        ([bytes(DATA_SIZE), KeyError("mine")], {}, KeyError),
        ([bytes(DATA_SIZE), UnavailableError("of another daemon")], {}, UnavailableError),
        ([bytes(DATA_SIZE), "text"], {}, InvalidRequestError),
        ([bytes(DATA_SIZE), 7], {}, InvalidRequestError),
        ([bytes(DATA_SIZE)], {"expected_digest": lambda: 1 / 0}, ZeroDivisionError),
        ([bytes(DATA_SIZE)], {"expected_digest": lambda: "sha256:00"}, InvalidRequestError),
    ],
    ids=["error", "ours", "text", "number", "digest fails", "digest is text"],
)
async def test_a_body_that_fails_is_called_off_and_the_cause_raised(
    daemon, sample, pieces, options, error
):
    def script(peer):
        peer.request()
        assert peer.body() == (bytes(DATA_SIZE), CANCELLED)
        peer.send(CANCELLED)
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(error):
            await client.ingest_stream(stream(*pieces), **options)
        await client.backend_health()


@pytest.mark.anyio
async def test_a_body_that_fails_before_it_began_costs_nothing(daemon, sample):
    def script(peer):
        assert peer.request().op == "backend_health"
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(KeyError):
            await client.ingest_stream(stream(b"x", KeyError()))
        await client.backend_health()


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [Failure(code="no_space"), Failure(code="internal")])
async def test_whatever_the_daemon_says_to_a_failed_body_the_cause_is_raised(
    daemon, sample, answer
):
    def script(peer):
        peer.request()
        peer.body()
        peer.send(answer)
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(KeyError):
            await client.ingest_stream(stream(bytes(DATA_SIZE), KeyError()))
        await client.backend_health()


@pytest.mark.anyio
async def test_a_daemon_that_stores_a_failed_body_is_not_asked_again_there(daemon, sample):
    def wrong(peer):
        peer.request()
        peer.body()
        peer.send(sample.stored(DATA_SIZE))
        peer.expect_closed()

    def right(peer):
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(wrong, right)
    async with connect(daemon.path) as client:
        with pytest.raises(KeyError):
            await client.ingest_stream(stream(bytes(DATA_SIZE), KeyError()))
        await client.backend_health()


@pytest.mark.anyio
async def test_a_daemon_that_is_gone_does_not_hide_the_cause(daemon):
    def script(peer):
        peer.request()
        peer.body()

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(KeyError):
            await client.ingest_stream(stream(bytes(DATA_SIZE), KeyError()))


@pytest.mark.anyio
async def test_a_cancelled_ingest_closes_the_connection(daemon, make_flag):
    arrived = make_flag()

    def script(peer):
        peer.request()
        peer.receive()
        arrived.set()
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.ingest_stream, stream(bytes(DATA_SIZE), make_flag()))
        await arrived.wait()
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_an_ingest_cancelled_inside_a_frame_closes_the_connection(daemon, sample, make_flag):
    arrived, cancelled = make_flag(), threading.Event()

    def busy(peer):
        peer.request()
        peer.receive()
        arrived.set()
        cancelled.wait(20)
        peer.expect_closed()

    def idle(peer):
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(busy, idle)
    async with connect(daemon.path) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.ingest_stream, endless())
            await arrived.wait()
            # The daemon reads no more, so this is when its buffer is full.
            await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        cancelled.set()
        await client.backend_health()
