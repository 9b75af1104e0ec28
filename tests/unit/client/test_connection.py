"""One connection: opening, framing, stalls, and every way in which it breaks."""

import socket
import threading

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from dataplane_client import _connection, blocking, connect
from dataplane_client._anyio import AnyioWaiting
from dataplane_client._connection import DaemonConnection
from dataplane_protocol import (
    MAX_CONTROL_SIZE,
    AccessDeniedError,
    BodyKind,
    End,
    Failure,
    Hello,
    RemoteProtocolError,
    Request,
    UnavailableError,
    UnsupportedError,
    encode_frame,
)


@pytest.mark.anyio
async def test_the_client_says_who_it_is_and_waits_for_the_answer(daemon, sample):
    def script(peer):
        hello = peer.receive()
        assert hello.agent.startswith("dataplane-client/")
        assert hello.features == ("serve_fd",)
        peer.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.sock.recv(1)
        peer.sock.settimeout(20)
        peer.send(Hello(features=("from the future",)))
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(script, greets=False)
    async with connect(daemon.path) as client:
        await client.backend_health()


@pytest.mark.anyio
async def test_nobody_there_is_unavailable_and_worth_another_try(tmp_path):
    async with connect(tmp_path / "nobody") as client:
        with pytest.raises(UnavailableError, match=r"cannot connect to .*nobody") as caught:
            await client.backend_health()
    assert caught.value.retry


@pytest.mark.anyio
async def test_a_socket_that_this_user_may_not_open_is_denied(tmp_path, monkeypatch):
    # The superuser may open every socket, and the tests may run as one.
    class Guarded(socket.socket):
        def connect(self, address):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_connection.socket, "socket", Guarded)
    async with connect(tmp_path / "s") as client:
        with pytest.raises(AccessDeniedError, match="Permission denied"):
            await client.backend_health()


@pytest.mark.anyio
async def test_no_descriptors_left_is_unavailable_and_costs_no_place(tmp_path, monkeypatch):
    def exhausted(*args):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(_connection.socket, "socket", exhausted)
    async with connect(tmp_path / "s", pool_size=1) as client:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="Too many open files"):
                await client.backend_health()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (Failure(code="denied", message="not you"), AccessDeniedError),
        (Failure(code="unavailable", message="full", retry=True), UnavailableError),
    ],
)
async def test_a_daemon_may_refuse_in_place_of_its_hello(daemon, failure, error):
    def script(peer):
        peer.receive()
        peer.send(failure)
        peer.expect_closed()

    daemon.run(script, greets=False)
    async with connect(daemon.path) as client:
        with pytest.raises(error, match=failure.message):
            await client.backend_health()


@pytest.mark.anyio
async def test_a_daemon_of_another_version_is_not_supported(daemon):
    def script(peer):
        peer.receive()
        peer.send(Hello(version=2))
        peer.expect_closed()

    daemon.run(script, greets=False)
    async with connect(daemon.path) as client:
        with pytest.raises(UnsupportedError, match="version 2") as caught:
            await client.backend_health()
    assert caught.value.details == {"versions": [2]}


def garbage():
    yield "not frames", b"HTTP/1.1 400 Bad Request\r\n\r\n"
    yield "an empty frame", bytes(4)
    yield "an integer", bytes.fromhex("0000000101")
    yield "too long a control frame", (MAX_CONTROL_SIZE + 1).to_bytes(4, "big") + b"\xa1"
    yield "no kind", bytes.fromhex("00000001a0")
    yield "data out of turn", bytes.fromhex("0000000241" + "00")
    yield "a request", encode_frame(Request(op="x").to_wire())


GARBAGE = dict(garbage())


@pytest.mark.anyio
@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_in_place_of_a_hello_is_a_violation(daemon, kind):
    def script(peer):
        peer.receive()
        peer.sock.sendall(GARBAGE[kind])
        peer.expect_closed()

    daemon.run(script, greets=False)
    async with connect(daemon.path) as client:
        with pytest.raises(RemoteProtocolError):
            await client.backend_health()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_in_place_of_an_answer_is_a_violation_and_costs_the_connection(
    daemon, sample, kind
):
    def wrong(peer):
        peer.request()
        peer.sock.sendall(GARBAGE[kind])
        peer.expect_closed()

    def right(peer):
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(wrong, right)
    async with connect(daemon.path) as client:
        with pytest.raises(RemoteProtocolError):
            await client.backend_health()
        await client.backend_health()


@pytest.mark.anyio
async def test_more_than_an_answer_costs_the_connection(daemon, sample):
    def wrong(peer):
        peer.request()
        frame = encode_frame(sample.health.to_wire())
        peer.sock.sendall(frame + frame[:3])
        peer.expect_closed()

    def right(peer):
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(wrong, right)
    async with connect(daemon.path) as client:
        await client.backend_health()
        await client.backend_health()


@pytest.mark.anyio
@pytest.mark.parametrize("size", [0, 1, 5, 20])
async def test_a_daemon_that_closes_inside_a_frame_is_unavailable(daemon, sample, size):
    def script(peer):
        peer.request()
        peer.sock.sendall(encode_frame(sample.health.to_wire())[:size])

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(UnavailableError, match="closed the connection") as caught:
            await client.backend_health()
    assert caught.value.retry


@pytest.mark.anyio
async def test_an_answer_may_come_in_any_pieces(daemon, sample):
    frame = encode_frame(sample.health.to_wire())

    def script(peer):
        peer.request()
        for byte in frame:
            peer.sock.sendall(bytes([byte]))
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        assert (await client.backend_health()).healthy


@pytest.mark.anyio
async def test_a_call_cancelled_while_it_waits_closes_its_connection(daemon, make_flag):
    arrived = make_flag()

    def script(peer):
        peer.request()
        arrived.set()
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.backend_health)
        await arrived.wait()
        tasks.cancel_scope.cancel()


def fill(path):
    """Connect until the listener's backlog is full."""
    waiting = []
    while True:
        filler = socket.socket(socket.AF_UNIX)
        filler.setblocking(False)
        waiting.append(filler)
        try:
            filler.connect(path)
        except BlockingIOError:
            return waiting


@pytest.mark.anyio
async def test_a_full_backlog_is_waited_for(daemon, sample):
    def script(peer):
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.listener.listen(0)
    fillers = fill(daemon.path)
    async with connect(daemon.path) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.backend_health)
        await wait_all_tasks_blocked()
        for _ in fillers[1:]:
            daemon.listener.accept()[0].close()
        daemon.run(script)
    for filler in fillers:
        filler.close()


@pytest.mark.anyio
async def test_a_full_backlog_is_left_when_the_client_closes(daemon):
    daemon.listener.listen(0)
    fillers = fill(daemon.path)
    client = connect(daemon.path)

    async def ask():
        with pytest.raises(UnavailableError, match="closed on this side"):
            await client.backend_health()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await wait_all_tasks_blocked()
        await client.aclose()
    for filler in fillers:
        filler.close()


def test_a_full_backlog_is_a_stall_for_a_thread(daemon):
    daemon.listener.listen(0)
    fillers = fill(daemon.path)
    with (
        blocking.connect(daemon.path, stall_timeout=0.002) as client,
        pytest.raises(UnavailableError, match=r"backlog of .* was full"),
    ):
        client.backend_health()
    for filler in fillers:
        filler.close()


@pytest.mark.anyio
async def test_a_frame_cut_off_is_remembered_even_if_both_halves_are_over(daemon, make_flag):
    refused, given_up = make_flag(), threading.Event()

    def script(peer):
        peer.request()
        peer.send(Failure(code="no_space"))
        refused.set()
        assert given_up.wait(20)
        peer.expect_closed()

    daemon.run(script)
    connection = DaemonConnection(daemon.path, AnyioWaiting())
    await connection.open()
    await connection.send(connection.begin(Request(op="x", body=BodyKind.STREAM)))
    await refused.wait()
    assert isinstance(connection.poll(), Failure)
    size, count = 1_000_000, 8  # more than the kernel takes at once
    frames = []
    for _ in range(count):
        frames += [connection.protocol.send_data(size), bytes(size)]
    frames.append(connection.protocol.send(End(size_bytes=count * size)))
    assert connection.is_reusable
    with anyio.CancelScope() as scope:
        scope.cancel()
        await connection.send(*frames)
    assert scope.cancelled_caught
    assert connection.protocol.is_reusable
    assert not connection.is_reusable
    connection.close()
    given_up.set()


@pytest.mark.anyio
async def test_an_error_of_the_socket_that_is_no_broken_pipe_is_unavailable(daemon, monkeypatch):
    class Short(socket.socket):
        def sendmsg(self, *args):
            raise OSError(105, "No buffer space available")

    def script(peer):
        peer.expect_closed()

    monkeypatch.setattr(_connection.socket, "socket", Short)
    daemon.run(script, greets=False)
    async with connect(daemon.path) as client:
        with pytest.raises(UnavailableError, match="No buffer space"):
            await client.backend_health()


@pytest.mark.anyio
async def test_reads_do_not_starve_other_tasks(daemon, sample):
    # A whole body is in the client's buffer; taking it piece by piece lets others run.
    count = 100

    def script(peer):
        peer.request()
        peer.send(sample.serving(count), *[b"x"] * count, End(size_bytes=count))
        peer.expect_closed()

    daemon.run(script)
    steps = 0

    async def other():
        nonlocal steps
        while True:
            await anyio.lowlevel.checkpoint()
            steps += 1

    async with connect(daemon.path) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        async with await client.serve_object(sample.address) as served:
            before = steps
            assert len([piece async for piece in served]) == count
        tasks.cancel_scope.cancel()
    assert steps - before >= count // 2


def test_a_connection_that_is_closed_is_stale(tmp_path):
    connection = DaemonConnection(str(tmp_path / "s"), AnyioWaiting())
    connection.close()
    assert connection.is_stale
