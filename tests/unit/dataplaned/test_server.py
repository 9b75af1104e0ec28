import random
import socket
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from dataplane_protocol import (
    BackendStatus,
    BodyKind,
    Connection,
    ConnectionClosed,
    DataPlaneError,
    DeleteArguments,
    Digest,
    End,
    Failure,
    HealthArguments,
    Hello,
    IngestArguments,
    ListArguments,
    ListBackendsArguments,
    NoSpaceError,
    Ok,
    RemoteProtocolError,
    Request,
    ServeArguments,
    Side,
    StatArguments,
    UnavailableError,
    VerifyArguments,
    data_head,
    encode_frame,
)
from dataplaned.access import ALL_ROLES, Caller
from dataplaned.backends.memory import MemoryBackend
from dataplaned.config import DaemonConfig
from dataplaned.digests import BLOCK_SIZE, Digester
from dataplaned.peer import BufferPool, Peer
from dataplaned.plane import LocalDataPlane
from dataplaned.roster import Roster
from dataplaned.server import Session, turn_away

CALLER = Caller(pid=1, uid=0, socket="test", roles=ALL_ROLES)
HEALTH = Request(op="backend_health")
INGEST = Request(op="ingest_stream", body=BodyKind.STREAM)
CONTENT = random.Random(1).randbytes(6 * BLOCK_SIZE + 5)


def digests_of(content):
    digester = Digester()
    digester.update([content])
    return digester.finish()


def request(arguments, *, body=None):
    return Request(op=arguments.OPERATION.value, args=arguments.to_wire(), body=body)


def serve(content, **more):
    return request(ServeArguments(content_address=digests_of(content).address, **more))


class Client:
    """A client that says what it is told, frame by frame."""

    def __init__(self, stream):
        self.stream = stream
        self.connection = Connection(Side.CLIENT)

    async def send(self, *messages):
        """Send control messages and, for bytes, data frames, in one write."""
        frames = b""
        for message in messages:
            if isinstance(message, bytes):
                frames += self.connection.send_data(len(message)) + message
            else:
                frames += self.connection.send(message)
        await self.stream.send_all(frames)

    async def receive(self):
        """Give the next event, a piece of payload as bytes."""
        while (event := self.connection.next_event()) is None:
            try:
                data = await self.stream.receive_some(65_536)
            except trio.BrokenResourceError:
                data = b""
            if data:
                self.connection.receive(data)
            else:
                self.connection.receive_eof()
        return bytes(event) if isinstance(event, memoryview) else event

    async def greet(self):
        await self.send(Hello())
        return await self.receive()

    async def call(self, *messages):
        await self.send(*messages)
        return await self.receive()

    async def receive_body(self):
        body = b""
        while isinstance(event := await self.receive(), bytes):
            body += event
        return body, event

    async def assert_usable(self):
        """Another call works, so the connection is in step."""
        answer = await self.call(HEALTH)
        assert isinstance(answer, Ok), answer
        assert answer.result["state"] == "ok"

    async def assert_closed(self):
        assert isinstance(await self.receive(), ConnectionClosed)

    async def assert_refused(self, code, *messages, **fields):
        failure = await self.call(*messages) if messages else await self.receive()
        assert isinstance(failure, Failure), failure
        assert failure.code == code
        for name, value in fields.items():
            assert getattr(failure, name) == value
        return failure


class Served:
    """A session at work: the client at the other end of it, and what it works on."""

    def __init__(self, client, session, buffers):
        self.client = client
        self.session = session
        self.buffers = buffers
        self.is_over = trio.Event()

    async def run(self):
        await self.session.run()
        self.is_over.set()


@pytest.fixture
def backend():
    return MemoryBackend("m")


@pytest.fixture
def plane(backend):
    return LocalDataPlane({"m": backend})


def socketpair():
    """Give two ends of a connection: a client's, as trio has it, and a server's."""
    ours, theirs = socket.socketpair()
    return trio.socket.from_stdlib_socket(ours), theirs


@asynccontextmanager
async def serving(plane, *, stall_timeout_s=60.0, limits=None, **more):
    ours, theirs = socketpair()
    buffers = BufferPool()
    session = Session(
        Peer(theirs, buffers, stall_timeout_s),
        Roster(limits or DaemonConfig()).admit(CALLER),
        plane,
        **more,
    )
    served = Served(Client(trio.SocketStream(ours)), session, buffers)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.run)
            async with served.client.stream:
                yield served


@asynccontextmanager
async def calling(plane, **more):
    """As `serving`, with the hellos exchanged; gives the client."""
    async with serving(plane, **more) as served:
        assert isinstance(await served.client.greet(), Hello)
        yield served.client
    assert served.is_over.is_set()


async def store(plane, content):
    async def stream():
        yield content

    return await plane.ingest_stream(stream())


async def object_count(plane):
    return (await plane.backend_health()).object_count


# Hello.


@pytest.mark.trio
async def test_a_hello_is_answered_with_ours(plane):
    async with serving(plane) as served:
        hello = await served.client.greet()
        assert (hello.version, hello.features) == (1, ())
        assert hello.agent.startswith("dataplaned/")


@pytest.mark.trio
async def test_another_version_is_told_ours_and_let_go(plane):
    async with serving(plane) as served:
        await served.client.send(Hello(version=2))
        await served.client.assert_refused("unsupported", details={"versions": [1]})
        await served.client.assert_closed()


@pytest.mark.trio
async def test_a_peer_that_leaves_without_a_word_is_no_trouble(plane):
    async with serving(plane) as served:
        await served.client.stream.aclose()
        await served.is_over.wait()


@pytest.mark.trio
async def test_a_peer_that_says_nothing_is_let_go(plane):
    async with serving(plane, stall_timeout_s=0.01) as served:
        await served.client.assert_closed()


@pytest.mark.trio
@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        encode_frame(HEALTH.to_wire()),
        data_head(1) + b"x",
    ],
)
async def test_whoever_does_not_say_hello_is_told_and_let_go(plane, start):
    async with serving(plane) as served:
        await served.client.stream.send_all(start)
        await served.client.assert_refused("protocol")
        await served.client.assert_closed()


@pytest.mark.trio
async def test_a_peer_that_breaks_off_is_let_go(plane):
    async with calling(plane) as client:
        await client.stream.send_all(encode_frame(Failure(code="protocol").to_wire()))
        await client.assert_closed()


# Calls.


@pytest.mark.trio
async def test_every_operation_without_a_body_is_answered(plane):
    result = await store(plane, CONTENT)
    address = result.receipt.content_address
    async with calling(plane) as client:
        health = await client.call(request(HealthArguments()))
        assert health.result["object_count"] == 1
        backends = await client.call(request(ListBackendsArguments()))
        assert backends.result["default"] == "m"
        stat = await client.call(request(StatArguments(content_addresses=(address,))))
        page = await client.call(request(ListArguments(limit=1)))
        assert stat.result["objects"] == page.result["objects"]
        verified = await client.call(request(VerifyArguments(content_address=address)))
        assert verified.result["verified"] is True
        generation = result.receipt.generation
        await client.assert_refused(
            "conflict",
            request(DeleteArguments(content_address=address, if_generation=generation + 1)),
            details={"generation": generation},
        )
        deleted = await client.call(
            request(DeleteArguments(content_address=address, if_generation=generation))
        )
        assert deleted.result["deleted"] is True


@pytest.mark.trio
async def test_an_ingest_is_acknowledged_under_the_digests_of_its_bytes(plane):
    async with calling(plane) as client:
        arguments = IngestArguments(primary_algorithm="sha256", size_hint=5)
        answer = await client.call(
            request(arguments, body=BodyKind.STREAM), b"he", b"llo", End(size_bytes=5)
        )
        assert answer.result["primary_digest"] == str(digests_of(b"hello").named("sha256"))
        assert answer.result["receipt"]["outcome"] == "created"
    assert await object_count(plane) == 1


@pytest.mark.trio
async def test_an_empty_object_is_ingested_and_served(plane):
    async with calling(plane) as client:
        assert isinstance(await client.call(INGEST, End(size_bytes=0)), Ok)
        answer = await client.call(serve(b""))
        assert answer.result == {"size_bytes": 0, "offset": 0, "length": 0}
        assert await client.receive() == End(size_bytes=0, digest=digests_of(b"").named("blake3"))
        await client.assert_usable()


@pytest.mark.trio
async def test_a_served_object_ends_with_its_digest_and_a_range_without(plane):
    await store(plane, CONTENT)
    async with calling(plane) as client:
        answer = await client.call(serve(CONTENT))
        assert answer.result == {"size_bytes": len(CONTENT), "offset": 0, "length": len(CONTENT)}
        body, end = await client.receive_body()
        assert body == CONTENT
        assert end == End(size_bytes=len(CONTENT), digest=digests_of(CONTENT).named("blake3"))
        answer = await client.call(serve(CONTENT, byte_range=(65_000, 300_000)))
        assert answer.result["offset"] == 65_000
        body, end = await client.receive_body()
        assert body == CONTENT[65_000:300_001]
        assert end == End(size_bytes=235_001)


@pytest.mark.trio
async def test_the_digest_of_an_object_served_by_its_other_name_is_of_that_kind(plane):
    result = await store(plane, b"hello")
    name = result.sha256_digest
    async with calling(plane) as client:
        await client.call(Request(op="serve_object", args={"content_address": str(name)}))
        assert await client.receive_body() == (b"hello", End(size_bytes=5, digest=name))


@pytest.mark.trio
@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (Request(op="stat_objects"), "bad_request"),
        (Request(op="serve_object", args={"content_address": "../etc/passwd"}), "bad_request"),
        (Request(op="serve_object", args={"content_address": "md5:00"}), "unsupported"),
        (Request(op="list_objects", args={"limit": 0}), "bad_request"),
        (Request(op="backend_health", args={"backend_id": "x"}), "unknown_backend"),
        (Request(op="format_disk"), "unsupported"),
        (Request(op="ingest_stream"), "bad_request"),
        (serve(b"nothing"), "not_found"),
        (request(VerifyArguments(content_address=digests_of(b"").address)), "not_found"),
    ],
)
async def test_a_refusal_costs_the_call_only(plane, bad, code):
    async with calling(plane) as client:
        await client.assert_refused(code, bad)
        await client.assert_usable()


@pytest.mark.trio
async def test_an_unsatisfiable_range_is_told_the_size(plane):
    await store(plane, b"hello")
    async with calling(plane) as client:
        await client.assert_refused(
            "out_of_range", serve(b"hello", byte_range=(5, 9)), details={"size_bytes": 5}
        )
        await client.assert_usable()


@pytest.mark.trio
@pytest.mark.parametrize("op", ["format_disk", "stat_objects", "backend_health", "serve_object"])
async def test_a_body_that_nobody_asked_for_is_skipped(plane, op):
    async with calling(plane) as client:
        body = [b"x" * 100_000] * 3
        await client.send(Request(op=op, body=BodyKind.STREAM), *body, End(size_bytes=300_000))
        await client.assert_refused("unsupported" if op == "format_disk" else "bad_request")
        await client.assert_usable()


@pytest.mark.trio
async def test_calls_that_arrive_together_are_answered_one_after_the_other(plane):
    async with calling(plane) as client:
        await client.stream.send_all(encode_frame(HEALTH.to_wire()) * 3)
        for _ in range(3):
            client.connection.send(HEALTH)
            assert isinstance(await client.receive(), Ok)


# Refusals in the middle of a body.


@pytest.mark.trio
async def test_a_refusal_does_not_wait_for_the_body(backend):
    plane = LocalDataPlane({"m": backend}, max_object_size=10)
    async with calling(plane) as client:
        await client.send(request(IngestArguments(size_hint=11), body=BodyKind.STREAM))
        await client.assert_refused("too_large", details={"limit_bytes": 10})
        await client.send(b"x" * 100_000, End(size_bytes=100_000))
        await client.assert_usable()
        await client.send(INGEST, b"x" * 11)
        await client.assert_refused("too_large")
        await client.send(Failure(code="cancelled"))
        await client.assert_usable()
    assert await object_count(plane) == 0


@pytest.mark.trio
async def test_whoever_goes_on_sending_after_a_refusal_is_let_go(plane, monkeypatch):
    monkeypatch.setattr("dataplaned.server.MAX_DISCARD", 100_000)
    async with calling(plane) as client:
        await client.send(Request(op="format_disk", body=BodyKind.STREAM))
        await client.assert_refused("unsupported")
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await client.send(b"x" * 10_000)
        await client.assert_closed()


@pytest.mark.trio
async def test_a_body_within_the_bound_of_what_is_skipped_keeps_the_connection(plane, monkeypatch):
    monkeypatch.setattr("dataplaned.server.MAX_DISCARD", 100_000)
    async with calling(plane) as client:
        await client.send(
            Request(op="format_disk", body=BodyKind.STREAM), b"x" * 100_000, End(size_bytes=100_000)
        )
        await client.assert_refused("unsupported")
        await client.assert_usable()


@pytest.mark.trio
async def test_whoever_sends_nothing_after_a_refusal_is_let_go(plane, monkeypatch):
    monkeypatch.setattr("dataplaned.server.DISCARD_TIMEOUT", 0.01)
    async with calling(plane) as client:
        await client.send(Request(op="format_disk", body=BodyKind.STREAM))
        await client.assert_refused("unsupported")
        await client.assert_closed()


# Bodies that end badly.


@pytest.mark.trio
@pytest.mark.parametrize("stated", [0, 4, 6])
async def test_a_body_of_another_size_than_stated_is_not_stored(plane, stated):
    async with calling(plane) as client:
        await client.assert_refused(
            "body_mismatch", INGEST, b"hello", End(size_bytes=stated), details={"size_bytes": 5}
        )
        await client.assert_usable()
    assert await object_count(plane) == 0


@pytest.mark.trio
async def test_a_body_of_another_digest_than_stated_is_not_stored(plane):
    async with calling(plane) as client:
        for algorithm in ("blake3", "sha256"):
            end = End(size_bytes=5, digest=digests_of(b"hallo").named(algorithm))
            await client.assert_refused("body_mismatch", INGEST, b"hello", end)
        end = End(size_bytes=5, digest=Digest("md5", "00" * 16))
        await client.assert_refused("unsupported", INGEST, b"hello", end)
        assert await object_count(plane) == 0
        end = End(size_bytes=5, digest=digests_of(b"hello").named("sha256"))
        assert isinstance(await client.call(INGEST, b"hello", end), Ok)


@pytest.mark.trio
async def test_a_body_given_up_is_not_stored(plane):
    async with calling(plane) as client:
        for code in ("cancelled", "a_word_of_a_later_version"):
            await client.assert_refused("cancelled", INGEST, b"half", Failure(code=code))
        await client.assert_usable()
    assert await object_count(plane) == 0


@pytest.mark.trio
@pytest.mark.parametrize("size", [0, 5, 3_000_000])
async def test_a_body_cut_off_is_not_stored(plane, size):
    async with serving(plane) as served:
        await served.client.greet()
        await served.client.send(INGEST)
        for _ in range(0, size, 100_000):
            await served.client.send(b"x" * min(size, 100_000))
        await served.client.stream.aclose()
        await served.is_over.wait()
    assert await object_count(plane) == 0


@pytest.mark.trio
async def test_a_body_that_breaks_the_contract_is_told_and_not_stored(plane):
    async with calling(plane) as client:
        await client.send(INGEST, b"half")
        await client.stream.send_all(encode_frame(HEALTH.to_wire()))
        await client.assert_refused("protocol")
        await client.assert_closed()
    assert await object_count(plane) == 0


@pytest.mark.trio
async def test_a_body_that_stalls_is_not_stored(plane):
    async with serving(plane, stall_timeout_s=0.01) as served:
        await served.client.greet()
        await served.client.send(INGEST, b"half")
        await served.client.assert_closed()
    assert await object_count(plane) == 0


@pytest.mark.trio
async def test_a_reader_that_stalls_is_let_go(plane):
    content = bytes(5_000_000)
    await store(plane, content)
    async with serving(plane, stall_timeout_s=0.01) as served:
        await served.client.greet()
        await served.client.send(serve(content))
        await served.is_over.wait()


# Limits.


@pytest.mark.trio
async def test_bodies_that_memory_has_no_room_for_are_refused_for_now(plane):
    small, large = b"x" * 900, b"x" * 5000
    await store(plane, large)
    limits = DaemonConfig(max_bytes_in_flight=1000)
    async with calling(plane, limits=limits) as client:
        for content, code in ((large, "unavailable"), (small, None), (large, "unavailable")):
            await client.send(INGEST, content, End(size_bytes=len(content)))
            answer = await client.receive()
            assert getattr(answer, "code", None) == code
        refused = await client.call(serve(large))
        assert (refused.code, refused.retry) == ("unavailable", True)
        part = await client.call(serve(large, byte_range=(0, 99)))
        assert isinstance(part, Ok)
        assert await client.receive() == large[:100]
        assert isinstance(await client.receive(), End)


@pytest.mark.trio
async def test_calls_that_are_too_many_are_refused_for_now(plane):
    async with calling(plane, limits=DaemonConfig(max_calls=0)) as client:
        refused = await client.call(HEALTH)
        assert (refused.code, refused.retry) == ("unavailable", True)


# Planes that fail.


class FailingPlane(LocalDataPlane):
    """Fails its health probe with whatever it is given."""

    failure = Exception()

    async def backend_health(self, *, backend_id=None):
        if self.failure is not None:
            raise self.failure
        return await super().backend_health(backend_id=backend_id)


@pytest.mark.trio
@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("the password is hunter2"),
        ExceptionGroup("hunter2", [NoSpaceError("hunter2"), ValueError("hunter2")]),
        RemoteProtocolError("hunter2"),
    ],
)
async def test_what_nobody_foresaw_is_internal_and_tells_nothing(backend, failure):
    plane = FailingPlane({"m": backend})
    plane.failure = failure
    async with calling(plane) as client:
        refusal = await client.assert_refused("internal", HEALTH)
        assert "hunter2" not in refusal.message
        plane.failure = None
        await client.assert_usable()


@pytest.mark.trio
async def test_an_error_of_the_plane_is_told_as_it_is(backend):
    plane = FailingPlane({"m": backend})
    plane.failure = DataPlaneError("later", code="new_word", retry=True, details={"a": [1]})
    async with calling(plane) as client:
        refusal = await client.assert_refused("new_word", HEALTH)
        assert refusal == Failure(code="new_word", message="later", retry=True, details={"a": [1]})


@pytest.mark.trio
async def test_a_long_message_is_cut(backend):
    plane = FailingPlane({"m": backend})
    plane.failure = NoSpaceError("x" * 100_000)
    async with calling(plane) as client:
        await client.assert_refused("no_space", HEALTH, message="x" * 1000)
        plane.failure = None
        await client.assert_usable()


@pytest.mark.trio
async def test_an_answer_that_no_frame_can_hold_is_internal(backend):
    class WordyPlane(LocalDataPlane):
        async def backend_health(self, *, backend_id=None):
            return BackendStatus(
                backend_id="m", state="ok", writable=True, message="x" * self.length
            )

    plane = WordyPlane({"m": backend})
    plane.length = 70_000
    async with calling(plane) as client:
        await client.assert_refused("internal", HEALTH)
        plane.length = 0
        await client.assert_usable()


@pytest.mark.trio
async def test_an_answer_before_the_end_of_a_body_is_never_sent(plane, backend):
    class HastyPlane(LocalDataPlane):
        async def ingest_stream(self, stream, **_):
            return await super().ingest_stream(aiter_of(b"something else"))

    async with calling(HastyPlane({"m": backend})) as client:
        await client.send(INGEST, b"he")
        await client.assert_refused("internal")
        await client.send(b"llo", End(size_bytes=5))
        await client.assert_usable()


async def aiter_of(*pieces):
    for piece in pieces:
        yield piece


@pytest.mark.trio
async def test_damage_in_the_middle_ends_the_body_and_not_the_connection(plane, backend):
    await store(plane, CONTENT)
    (entry,) = backend._entries.values()
    entry.data = CONTENT[: 5 * BLOCK_SIZE] + b"!" + CONTENT[5 * BLOCK_SIZE + 1 :]
    async with calling(plane) as client:
        assert isinstance(await client.call(serve(CONTENT)), Ok)
        body, failure = await client.receive_body()
        assert CONTENT.startswith(body)
        assert len(body) <= 5 * BLOCK_SIZE
        assert failure.code == "corrupt"
        await client.assert_usable()
        await client.assert_refused("corrupt", serve(CONTENT))
        await client.assert_usable()


@pytest.mark.trio
async def test_a_peer_that_leaves_during_a_serve_lets_go_of_the_object(backend):
    closed = trio.Event()

    class WatchedPlane(LocalDataPlane):
        async def serve_object(self, *args, **kwargs):
            stream = await super().serve_object(*args, **kwargs)
            close = stream.aclose

            async def close_and_tell():
                await close()
                closed.set()

            stream.aclose = close_and_tell
            return stream

    plane = WatchedPlane({"m": backend})
    content = bytes(5_000_000)
    await store(plane, content)
    async with serving(plane) as served:
        await served.client.greet()
        assert isinstance(await served.client.call(serve(content)), Ok)
        await served.client.stream.aclose()
        await served.is_over.wait()
    assert closed.is_set()


# A verify, which may take long.


class SlowPlane(LocalDataPlane):
    """Verifies until it is told to stop."""

    def __init__(self, backends):
        super().__init__(backends)
        self.has_begun = trio.Event()
        self.may_end = trio.Event()
        self.was_cancelled = False

    async def verify_object(self, content_address, *, backend_id=None):
        self.has_begun.set()
        try:
            await self.may_end.wait()
        except trio.Cancelled:
            self.was_cancelled = True
            raise
        return await super().verify_object(content_address, backend_id=backend_id)


@pytest.mark.trio
async def test_a_verify_is_abandoned_when_its_peer_leaves(backend):
    plane = SlowPlane({"m": backend})
    async with serving(plane) as served:
        await served.client.greet()
        await served.client.send(request(VerifyArguments(content_address=digests_of(b"").address)))
        await plane.has_begun.wait()
        await served.client.stream.aclose()
        await served.is_over.wait()
    assert plane.was_cancelled


@pytest.mark.trio
async def test_a_verify_goes_on_while_its_peer_waits_and_even_talks(backend):
    plane = SlowPlane({"m": backend})
    await store(plane, b"hello")
    verify = request(VerifyArguments(content_address=digests_of(b"hello").address))
    async with calling(plane) as client:
        await client.send(verify)
        await plane.has_begun.wait()
        await client.stream.send_all(encode_frame(HEALTH.to_wire()))
        await trio.testing.wait_all_tasks_blocked()
        plane.may_end.set()
        answer = await client.receive()
        assert answer.result["verified"] is True
        client.connection.send(HEALTH)
        assert isinstance(await client.receive(), Ok)


# Operations beside the contract's.

PRIVATE = "dataplaned.example"


def further(function):
    return {PRIVATE: function}


@pytest.mark.trio
async def test_a_further_operation_gets_its_arguments_and_gives_the_result(plane):
    async def echo(args):
        return {"got": dict(args)}

    async with calling(plane, operations=further(echo)) as client:
        answer = await client.call(Request(op=PRIVATE, args={"number": 7}))
        assert answer == Ok(result={"got": {"number": 7}})
        await client.assert_refused("unsupported", Request(op=PRIVATE + "s"))
        await client.assert_usable()


@pytest.mark.trio
async def test_there_is_none_unless_it_is_given(plane):
    async with calling(plane) as client:
        await client.assert_refused("unsupported", Request(op=PRIVATE))
        await client.assert_usable()


@pytest.mark.trio
async def test_a_further_operation_takes_no_body(plane):
    async def never(args):
        raise AssertionError("called")

    async with calling(plane, operations=further(never)) as client:
        await client.send(Request(op=PRIVATE, body=BodyKind.STREAM), b"body", End(size_bytes=4))
        await client.assert_refused("bad_request")
        await client.assert_usable()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("error", "code"),
    [(NoSpaceError("full"), "no_space"), (KeyError("bug"), "internal")],
    ids=["foreseen", "not foreseen"],
)
async def test_a_further_operation_that_fails_costs_the_call_only(plane, error, code):
    async def fail(args):
        raise error

    async with calling(plane, operations=further(fail)) as client:
        await client.assert_refused(code, Request(op=PRIVATE))
        await client.assert_usable()


@pytest.mark.trio
async def test_a_result_that_cannot_be_sent_costs_the_call_only(plane):
    async def give_too_much(args):
        return {"text": "x" * 65_536}

    async with calling(plane, operations=further(give_too_much)) as client:
        await client.assert_refused("internal", Request(op=PRIVATE))
        await client.assert_usable()


@pytest.mark.trio
async def test_no_further_operation_takes_the_place_of_one_of_the_contract(plane):
    async def never(args):
        raise AssertionError("called")

    async with calling(plane, operations={"backend_health": never}) as client:
        await client.assert_usable()


@pytest.mark.trio
async def test_a_further_operation_is_given_up_when_its_peer_leaves(plane):
    has_begun, was_cancelled = trio.Event(), trio.Event()

    async def take_long(args):
        has_begun.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            was_cancelled.set()
            raise

    async with serving(plane, operations=further(take_long)) as served:
        await served.client.greet()
        await served.client.send(Request(op=PRIVATE))
        await has_begun.wait()
        await served.client.stream.aclose()
        await served.is_over.wait()
    assert was_cancelled.is_set()


# Idle, draining and turned away.


@pytest.mark.trio
async def test_an_idle_session_holds_no_buffer(plane):
    async with serving(plane) as served:
        await trio.testing.wait_all_tasks_blocked()
        assert served.buffers._free == []
        await served.client.greet()
        for _ in range(3):
            await served.client.assert_usable()
            await trio.testing.wait_all_tasks_blocked()
            assert len(served.buffers._free) == 1


@pytest.mark.trio
async def test_draining_ends_an_idle_session_at_once(plane):
    async with serving(plane) as served:
        await served.client.greet()
        await trio.testing.wait_all_tasks_blocked()
        served.session.drain()
        await served.is_over.wait()
        await served.client.assert_closed()


@pytest.mark.trio
async def test_draining_tells_a_peer_that_has_not_said_hello(plane):
    async with serving(plane) as served:
        await trio.testing.wait_all_tasks_blocked()
        served.session.drain()
        await served.client.assert_refused("unavailable", retry=True)
        await served.client.assert_closed()


@pytest.mark.trio
async def test_draining_before_the_session_runs_ends_it_too(plane):
    ours, theirs = socketpair()
    session = Session(Peer(theirs, BufferPool()), Roster(DaemonConfig()).admit(CALLER), plane)
    session.drain()
    with trio.fail_after(10), ours:
        await session.run()


@pytest.mark.trio
async def test_draining_lets_a_call_finish(plane):
    async with serving(plane) as served:
        client = served.client
        await client.greet()
        await client.send(INGEST, b"hel")
        await trio.testing.wait_all_tasks_blocked()
        served.session.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert not served.is_over.is_set()
        assert isinstance(await client.call(b"lo", End(size_bytes=5)), Ok)
        await client.assert_closed()
    assert await object_count(plane) == 1


@pytest.mark.trio
async def test_whoever_is_turned_away_is_told_why():
    ours, theirs = socketpair()
    client = Client(trio.SocketStream(ours))
    async with client.stream:
        await turn_away(Peer(theirs, BufferPool()), UnavailableError("daemon is full"))
        client.connection.send(Hello())
        await client.assert_refused("unavailable", message="daemon is full", retry=True)
        await client.assert_closed()


@pytest.mark.trio
async def test_turning_away_whoever_has_left_already_is_no_trouble():
    ours, theirs = socketpair()
    ours.close()
    await turn_away(Peer(theirs, BufferPool()), UnavailableError("daemon is full"))
    assert theirs.fileno() == -1
