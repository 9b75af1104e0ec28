"""The blocking twin: the same calls, and what only threads can do to it."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataplane_client import blocking
from dataplane_client._threads import ThreadTurn, run
from dataplane_protocol import (
    DATA_SIZE,
    BackendList,
    BackendStatus,
    DeletionResult,
    End,
    Failure,
    InvalidRequestError,
    NoSpaceError,
    ObjectCorruptError,
    ObjectPage,
    Ok,
    UnavailableError,
    VerifyResult,
    backend_list_to_wire,
    deletion_result_to_wire,
    object_page_to_wire,
    stat_result_to_wire,
    verify_result_to_wire,
)


def answering(*answers):
    def script(peer):
        for answer in answers:
            peer.request()
            peer.send(answer)
        peer.expect_closed()

    return script


def test_the_operations_without_a_body(daemon, sample):
    verified = VerifyResult(sample.address, True, sample.blake3, sample.sha256, 12)
    deletion = DeletionResult(sample.address, "default", deleted=True)
    backends = BackendList((BackendStatus("default", "ok", writable=True),), "default")
    pages = [ObjectPage((sample.status,), True), ObjectPage((), False)]
    daemon.run(
        answering(
            Ok(result=verify_result_to_wire(verified)),
            Ok(result=deletion_result_to_wire(deletion)),
            sample.health,
            Ok(result=stat_result_to_wire([sample.status])),
            Ok(result=backend_list_to_wire(backends)),
            *[Ok(result=object_page_to_wire(page)) for page in pages],
        )
    )
    with blocking.connect(daemon.path) as client:
        assert client.verify_object(sample.address) == verified
        assert client.delete_object(sample.address, if_generation=1) == deletion
        assert client.backend_health() == backends.backends[0]
        assert client.stat_objects([sample.address]) == (sample.status,)
        assert client.list_backends() == backends
        assert list(client.list_objects()) == pages


def test_a_private_call(daemon):
    def script(peer):
        request = peer.request()
        assert (request.op, request.args) == ("org.example.compact", {"level": 3})
        peer.send(Ok(result={"saved": 1}))
        peer.expect_closed()

    daemon.run(script)
    with blocking.connect(daemon.path) as client:
        assert client.call_private("org.example.compact", {"level": 3}) == {"saved": 1}
        with pytest.raises(InvalidRequestError, match="name with a dot"):
            client.call_private("backend_health")


def test_a_walk_may_be_left_at_any_page(daemon, sample):
    page = ObjectPage((sample.status,), True)
    daemon.run(answering(Ok(result=object_page_to_wire(page))))
    with blocking.connect(daemon.path) as client:
        assert next(client.list_objects()) == page


def test_a_wrong_argument_of_a_walk_is_refused_at_the_call(tmp_path):
    with pytest.raises(InvalidRequestError):
        blocking.connect(tmp_path / "nobody").list_objects(page_size=0)


def test_ingest_from_any_iterable(daemon, sample):
    def script(peer):
        for _ in range(2):
            peer.request()
            assert peer.body() == (sample.data, End(size_bytes=12, digest=sample.sha256))
            peer.send(sample.stored(12))
        peer.expect_closed()

    daemon.run(script)
    with blocking.connect(daemon.path) as client:
        for stream in ([b"hello ", b"world\n"], iter([sample.data])):
            result = client.ingest_stream(stream, expected_digest=sample.sha256)
            assert result == sample.ingested(12)


@pytest.mark.parametrize("stream", [None, b"bytes", "text"])
def test_what_is_no_iterable_of_bytes_is_refused(daemon, sample, stream):
    daemon.run(answering(sample.health))
    with blocking.connect(daemon.path) as client:
        with pytest.raises(InvalidRequestError):
            client.ingest_stream(stream)
        client.backend_health()


def test_an_iterable_that_fails_is_called_off(daemon, sample):
    def script(peer):
        peer.request()
        assert peer.body() == (bytes(DATA_SIZE), Failure(code="cancelled"))
        peer.send(Failure(code="cancelled"))
        answering(sample.health)(peer)

    def failing():
        yield bytes(DATA_SIZE)
        raise KeyError("mine")

    daemon.run(script)
    with blocking.connect(daemon.path) as client:
        with pytest.raises(KeyError, match="mine"):
            client.ingest_stream(failing())
        client.backend_health()


def test_an_interrupt_closes_the_connection(daemon, sample):
    def interrupted(peer):
        peer.request()
        peer.expect_closed()

    def pressing():
        yield bytes(DATA_SIZE)
        raise KeyboardInterrupt

    daemon.run(interrupted, answering(sample.health))
    with blocking.connect(daemon.path, pool_size=1) as client:
        with pytest.raises(KeyboardInterrupt):
            client.ingest_stream(pressing())
        client.backend_health()


def test_an_early_refusal_stops_the_iterable(daemon, sample):
    def script(peer):
        peer.request()
        peer.send(Failure(code="no_space"))
        assert peer.body()[1] == Failure(code="cancelled")
        answering(sample.health)(peer)

    def endless():
        while True:
            yield bytes(DATA_SIZE)

    daemon.run(script)
    with blocking.connect(daemon.path) as client:
        with pytest.raises(NoSpaceError):
            client.ingest_stream(endless())
        client.backend_health()


def test_serve_to_the_end(daemon, sample):
    frames = [sample.serving(12), b"hello ", b"world\n", End(size_bytes=12)]

    def script(peer):
        peer.request()
        peer.send(*frames)
        answering(sample.health)(peer)

    daemon.run(script)
    with blocking.connect(daemon.path, pool_size=1) as client:
        with client.serve_object(sample.address) as served:
            assert (served.size, served.offset, served.length) == (12, 0, 12)
            assert b"".join(served) == sample.data
            assert list(served) == []
        client.backend_health()


def test_a_bad_end_replaces_the_last_piece(daemon, sample):
    def script(peer):
        peer.request()
        peer.send(sample.serving(12), sample.data, Failure(code="corrupt"))
        peer.expect_closed()

    daemon.run(script)
    with blocking.connect(daemon.path) as client:
        served = client.serve_object(sample.address)
        with pytest.raises(ObjectCorruptError):
            next(served)


def leaving(sample):
    def script(peer):
        peer.request()
        peer.send(sample.serving(12), b"hello ")
        peer.expect_closed()

    return script


def test_a_body_left_early_frees_its_place(daemon, sample):
    daemon.run(leaving(sample), answering(sample.health))
    with blocking.connect(daemon.path, pool_size=1) as client:
        served = client.serve_object(sample.address)
        assert next(served) == b"hello "
        served.close()
        served.close()
        client.backend_health()
        with pytest.raises(InvalidRequestError, match="closed before its end"):
            next(served)


def test_a_body_forgotten_warns_and_gives_a_waiting_thread_its_turn(daemon, sample):
    daemon.run(leaving(sample), answering(sample.health))
    with blocking.connect(daemon.path, pool_size=1) as client, ThreadPoolExecutor() as threads:
        served = client.serve_object(sample.address)
        asking = threads.submit(client.backend_health)
        with pytest.warns(ResourceWarning, match="unclosed"):
            del served
        assert asking.result(20).healthy


def test_threads_share_a_client(daemon, sample):
    def script(peer):
        while hasattr(event := peer.receive(), "op"):
            peer.send(Ok(result={**sample.health.result, "backend_id": event.args["backend_id"]}))

    daemon.run(*[script] * 4)
    with blocking.connect(daemon.path, pool_size=4) as client, ThreadPoolExecutor(16) as threads:
        # All four connections at once, so that every script gets its client.
        names = [str(number) for number in range(400)]
        found = threads.map(lambda name: client.backend_health(backend_id=name).backend_id, names)
        assert list(found) == names
        while daemon.accepted < 4:
            list(threads.map(lambda name: client.backend_health(backend_id=name), names))


def test_closing_wakes_threads_that_wait(daemon):
    arrived = threading.Event()

    def silent(peer):
        peer.request()
        arrived.set()
        peer.expect_closed()

    daemon.run(silent)
    client = blocking.connect(daemon.path, pool_size=1)
    with ThreadPoolExecutor() as threads:
        calls = [threads.submit(client.backend_health) for _ in range(3)]
        assert arrived.wait(20)
        client.close()
        for call in calls:
            assert isinstance(call.exception(20), UnavailableError)


def test_a_stall_inside_a_body_is_unavailable(daemon, sample):
    daemon.run(leaving(sample))
    with blocking.connect(daemon.path, stall_timeout=0.01) as client:
        served = client.serve_object(sample.address)
        next(served)
        with pytest.raises(UnavailableError, match=r"no progress for 0\.01 s"):
            next(served)


def test_a_stall_inside_a_frame_is_unavailable(daemon):
    def script(peer):
        peer.request()
        peer.sock.sendall(b"\x00")
        peer.expect_closed()

    daemon.run(script)
    with (
        blocking.connect(daemon.path, stall_timeout=0.01) as client,
        pytest.raises(UnavailableError, match="no progress"),
    ):
        client.backend_health()


def test_a_daemon_that_takes_no_bytes_is_unavailable(daemon):
    done = threading.Event()

    def deaf(peer):
        assert done.wait(20)
        peer.request()
        peer.expect_closed()

    daemon.run(deaf)
    with blocking.connect(daemon.path, stall_timeout=0.05) as client:
        with pytest.raises(UnavailableError, match="no progress"):
            client.ingest_stream([bytes(DATA_SIZE)] * 100)
        done.set()


def test_a_daemon_may_take_its_time_to_answer(daemon, sample):
    waits = threading.Event()

    def slow(peer):
        peer.request()
        assert waits.wait(20)
        peer.send(sample.health)
        peer.expect_closed()

    def noting(source, events, timeout):
        # Only a wait without a limit gets the answer.
        if timeout == math.inf:
            waits.set()
        poll(source, events, timeout)

    daemon.run(slow)
    with blocking.connect(daemon.path) as client:
        poll, client._client._waiting._poll = client._client._waiting._poll, noting
        assert client.backend_health().healthy


def test_a_stall_timeout_is_above_zero(tmp_path):
    for seconds in (0, -1, math.nan):
        with pytest.raises(InvalidRequestError, match="stall_timeout"):
            blocking.connect(tmp_path / "s", stall_timeout=seconds)


def test_a_turn_may_be_granted_before_it_is_waited_for():
    turn = ThreadTurn()
    turn.soon(turn.grant)
    run(turn.wait())


def test_a_coroutine_that_suspends_is_an_error_and_not_a_hang():
    class Suspends:
        def __await__(self):
            yield

    async def suspend():
        await Suspends()

    with pytest.raises(RuntimeError, match="suspended"):
        run(suspend())
