import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import structlog
import trio
import trio.testing

from dataplane_protocol import (
    BodyKind,
    Connection,
    ConnectionClosed,
    End,
    Failure,
    Hello,
    Ok,
    Request,
    Side,
    UnavailableError,
)
from dataplaned.backends.filesystem import FilesystemBackend
from dataplaned.backends.memory import MemoryBackend
from dataplaned.config import (
    AccessConfig,
    Config,
    DaemonConfig,
    FilesystemConfig,
    LogConfig,
    MemoryConfig,
    MetricsConfig,
    SocketConfig,
)
from dataplaned.daemon import StartupError, serve
from dataplaned.door import Door, Services
from dataplaned.listening import Listener
from dataplaned.plane import LocalDataPlane
from dataplaned.roster import Roster
from dataplaned.stores import look_after
from dataplaned.systemd import Notifier

HEALTH = Request(op="backend_health")
INGEST = Request(op="ingest_stream", body=BodyKind.STREAM)
LEFT_OVER = "0123456789abcdef-0"


@pytest.fixture
def path(short_path):
    return str(short_path / "s")


def config_of(path, *, backends=None, **daemon):
    return Config(
        daemon=DaemonConfig(socket=path, **daemon), backend=backends or {"m": MemoryConfig()}
    )


class Running:
    """A daemon as a task."""

    def __init__(self):
        self.has_ended = trio.Event()

    async def run(self, config, task_status):
        await serve(config, task_status=task_status)
        self.has_ended.set()


@asynccontextmanager
async def running(config):
    daemon = Running()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: daemon.run(config, task_status))
            yield daemon
            nursery.cancel_scope.cancel()


class Client:
    """One connection."""

    def __init__(self, stream):
        self.stream = stream
        self.connection = Connection(Side.CLIENT)

    async def call(self, *messages):
        frames = b""
        for message in messages:
            if isinstance(message, bytes):
                frames += self.connection.send_data(len(message)) + message
            else:
                frames += self.connection.send(message)
        await self.stream.send_all(frames)
        return await self.receive()

    async def start_ingest(self):
        await self.stream.send_all(self.connection.send(INGEST))
        await trio.testing.wait_all_tasks_blocked()

    async def receive(self):
        while (event := self.connection.next_event()) is None:
            data = await self.stream.receive_some(65_536)
            if data:
                self.connection.receive(data)
            else:
                self.connection.receive_eof()
        return event


@asynccontextmanager
async def connected(path):
    async with await trio.open_unix_socket(path) as stream:
        client = Client(stream)
        assert isinstance(await client.call(Hello()), Hello)
        yield client


class Restless(MemoryBackend):
    """A backend whose background work fails at once."""

    def __init__(self, backend_id, **errors):
        super().__init__(backend_id)
        self.errors = errors

    async def sweep(self):
        if "sweep" in self.errors:
            raise self.errors["sweep"]

    async def scrub(self):
        raise self.errors["scrub"]


# Starting.


@pytest.mark.trio
async def test_it_listens_for_this_user_only_and_answers_until_it_is_cancelled(path):
    async with running(config_of(path)):
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
        async with connected(path) as client:
            answer = await client.call(HEALTH)
            assert answer.result["backend_id"] == "m"
    assert not os.path.lexists(path)


@pytest.mark.trio
async def test_the_first_backend_is_the_default(path, tmp_path):
    backends = {"z": FilesystemConfig(root=str(tmp_path / "z")), "a": MemoryConfig()}
    async with running(config_of(path, backends=backends)), connected(path) as client:
        assert (await client.call(HEALTH)).result["backend_id"] == "z"
        other = Request(op="backend_health", args={"backend_id": "a"})
        assert (await client.call(other)).result["backend_id"] == "a"


@pytest.mark.trio
async def test_a_backend_that_looks_after_its_disk_answers_an_operator(path, tmp_path):
    backends = {"f": FilesystemConfig(root=str(tmp_path / "f")), "m": MemoryConfig()}
    async with running(config_of(path, backends=backends)), connected(path) as client:
        answer = await client.call(Request(op="dataplaned.scrub_status"))
        assert answer.result["backend_id"] == "f"
        other = Request(op="dataplaned.scrub_status", args={"backend_id": "m"})
        assert (await client.call(other)).code == "unsupported"


@pytest.mark.trio
async def test_the_limit_of_an_object_holds(path):
    async with running(config_of(path, max_object_size=3)), connected(path) as client:
        assert isinstance(await client.call(INGEST, b"abc", End(size_bytes=3)), Ok)
        failure = await client.call(INGEST, b"abcd", End(size_bytes=4))
        assert failure.code == "too_large"


@pytest.mark.trio
async def test_a_socket_that_a_killed_daemon_left_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(path)
    async with running(config_of(path)), connected(path) as client:
        assert isinstance(await client.call(HEALTH), Ok)


@pytest.mark.trio
async def test_a_socket_in_use_is_refused_and_the_store_is_let_go(path, tmp_path):
    backends = {"b": FilesystemConfig(root=str(tmp_path / "store"))}
    async with running(config_of(path)):
        with pytest.raises(StartupError, match=f"cannot listen: {path} is in use by process"):
            await serve(config_of(path, backends=backends))
        async with connected(path) as client:
            assert isinstance(await client.call(HEALTH), Ok)
    backend = FilesystemBackend("b", FilesystemConfig(root=str(tmp_path / "store")))
    await backend.open()
    await backend.aclose()


@pytest.mark.trio
async def test_a_socket_that_cannot_be_made_is_refused(short_path):
    (short_path / "file").touch()
    with pytest.raises(StartupError, match="cannot listen: "):
        await serve(config_of(str(short_path / "file" / "s")))


@pytest.mark.trio
@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"metrics": MetricsConfig(listen="/not/there")}, "metrics.listen: /not/there: No such"),
        ({"log": LogConfig(audit="/not/there")}, "log.audit: /not/there: No such"),
        ({"access": AccessConfig(users={"not-there": ["read"]})}, "no user has the name"),
        ({"socket": {"x": SocketConfig()}}, "socket.x: has no path"),
    ],
)
async def test_what_the_machine_does_not_have_is_refused(path, tables, reason):
    with pytest.raises(StartupError, match=reason):
        await serve(replace(config_of(path), **tables))
    assert not os.path.lexists(path)


@pytest.mark.trio
async def test_a_store_in_use_is_refused_and_those_before_it_are_let_go(path, tmp_path):
    held = FilesystemBackend("held", FilesystemConfig(root=str(tmp_path / "held")))
    await held.open()
    backends = {
        "first": FilesystemConfig(root=str(tmp_path / "first")),
        "second": FilesystemConfig(root=str(tmp_path / "held")),
    }
    with pytest.raises(StartupError, match=rf"backend second: .*in use by process {os.getpid()}"):
        await serve(config_of(path, backends=backends))
    await held.aclose()
    async with running(config_of(path, backends=backends)):
        pass


@pytest.mark.trio
async def test_one_store_twice_is_refused(path, tmp_path):
    store = FilesystemConfig(root=str(tmp_path / "store"))
    with pytest.raises(StartupError, match=r"backend again: .*in use"):
        await serve(config_of(path, backends={"once": store, "again": store}))


@pytest.mark.trio
@pytest.mark.parametrize("error", [UnavailableError("the disk is gone"), ZeroDivisionError()])
async def test_background_work_that_fails_is_logged_and_no_more(error):
    with structlog.testing.capture_logs() as logs:
        await look_after(Restless("r", sweep=error, scrub=error))
    assert [line["event"] for line in logs] == ["sweep_failed", "scrub_failed"]
    assert {line["backend"] for line in logs} == {"r"}


@pytest.mark.trio
async def test_what_an_earlier_run_left_is_swept_while_serving(path, tmp_path):
    store = tmp_path / "store"
    backends = {"b": FilesystemConfig(root=str(store))}
    async with running(config_of(path, backends=backends)):
        pass
    (store / "staging" / LEFT_OVER).touch()
    with structlog.testing.capture_logs() as logs:
        async with running(config_of(path, backends=backends)):
            while not any(entry["event"] == "swept" for entry in logs):
                async with connected(path) as client:
                    assert isinstance(await client.call(HEALTH), Ok)
    assert list((store / "staging").iterdir()) == []


# Stopping.


@pytest.mark.trio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_at_once_when_no_call_is_open(path, number):
    async with running(config_of(path, drain_timeout_s=1000)) as daemon, connected(path):
        silent = await trio.open_unix_socket(path)
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(number)
        await daemon.has_ended.wait()
        await silent.aclose()
        assert not os.path.lexists(path)


@pytest.mark.trio
async def test_a_signal_lets_a_call_finish(path):
    async with running(config_of(path, drain_timeout_s=1000)) as daemon:
        async with connected(path) as client:
            await client.start_ingest()
            signal.raise_signal(signal.SIGTERM)
            await trio.testing.wait_all_tasks_blocked()
            assert not daemon.has_ended.is_set()
            assert isinstance(await client.call(b"data", End(size_bytes=4)), Ok)
            assert isinstance(await client.receive(), ConnectionClosed)
        await daemon.has_ended.wait()


@pytest.mark.trio
async def test_whoever_comes_while_it_stops_is_told_so(path):
    async with running(config_of(path, drain_timeout_s=1000)) as daemon:
        async with connected(path) as client:
            await client.start_ingest()
            signal.raise_signal(signal.SIGTERM)
            await trio.testing.wait_all_tasks_blocked()
            async with await trio.open_unix_socket(path) as stream:
                refusal = await Client(stream).receive()
                assert isinstance(refusal, Failure)
                assert (refusal.code, refusal.retry) == ("unavailable", True)
            assert not daemon.has_ended.is_set()
        await daemon.has_ended.wait()


@pytest.mark.trio
async def test_whoever_comes_by_a_socket_that_systemd_keeps_waits_for_the_next(path):
    config = replace(config_of(path), daemon=DaemonConfig())
    with socket.socket(socket.AF_UNIX) as kept, trio.fail_after(20):
        kept.bind(path)
        kept.listen()
        async with trio.open_nursery() as nursery:
            first = partial(serve, config, passed_on={"clients": [kept.dup()]})
            await nursery.start(first)
            async with connected(path) as client:
                await client.start_ingest()
                signal.raise_signal(signal.SIGTERM)
                await trio.testing.wait_all_tasks_blocked()
                async with await trio.open_unix_socket(path) as stream:
                    newcomer = Client(stream)
                    await stream.send_all(newcomer.connection.send(Hello()))
                    await trio.testing.wait_all_tasks_blocked()
                    ended = await client.call(b"x", End(size_bytes=1))
                    assert isinstance(ended, Ok)
                    await client.stream.aclose()
                    # The first is over; the second finds who waits.
                    second = partial(serve, config, passed_on={"clients": [kept.dup()]})
                    await nursery.start(second)
                    assert isinstance(await newcomer.receive(), Hello)
                    assert isinstance(await newcomer.call(HEALTH), Ok)
            nursery.cancel_scope.cancel()
    assert os.path.lexists(path)


@pytest.mark.trio
async def test_a_call_that_takes_too_long_to_finish_is_cut_off(path):
    async with running(config_of(path, drain_timeout_s=0.01)) as daemon, connected(path) as client:
        await client.start_ingest()
        signal.raise_signal(signal.SIGTERM)
        await daemon.has_ended.wait()


@pytest.mark.trio
async def test_systemd_is_told_how_long_the_calls_may_take(path, short_path):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        contextlib.closing(Notifier({"NOTIFY_SOCKET": str(short_path / "n")})) as notifier,
    ):
        manager.bind(str(short_path / "n"))
        manager.setblocking(False)
        async with trio.open_nursery() as nursery:
            config = config_of(path, drain_timeout_s=1000)
            await nursery.start(partial(serve, config, notifier=notifier))
            signal.raise_signal(signal.SIGTERM)
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(manager.recv(4096).decode())
    # What is left for closing the stores is added.
    assert told[told.index("STOPPING=1") + 1] == "EXTEND_TIMEOUT_USEC=1030000000"


@pytest.mark.trio
async def test_a_second_signal_ends_it_at_once(path):
    async with running(config_of(path, drain_timeout_s=1000)) as daemon, connected(path) as client:
        await client.start_ingest()
        signal.raise_signal(signal.SIGTERM)
        await trio.testing.wait_all_tasks_blocked()
        assert not daemon.has_ended.is_set()
        signal.raise_signal(signal.SIGTERM)
        await daemon.has_ended.wait()


@pytest.mark.trio
async def test_an_ingest_that_is_cut_off_leaves_nothing(path, tmp_path):
    store = tmp_path / "store"
    backends = {"b": FilesystemConfig(root=str(store))}
    async with running(config_of(path, backends=backends)), connected(path) as client:
        await client.start_ingest()
        await client.stream.send_all(client.connection.send_data(1_048_576) + bytes(1_048_576))
        await trio.testing.wait_all_tasks_blocked()
    assert list((store / "staging").iterdir()) == []
    assert [file for file in (store / "objects").rglob("*") if file.is_file()] == []


# Too many.


@pytest.mark.trio
async def test_one_connection_too_many_is_told_to_try_again(path):
    async with running(config_of(path, max_connections=2)):
        async with connected(path), connected(path) as client:
            async with await trio.open_unix_socket(path) as stream:
                refusal = await Client(stream).receive()
                assert isinstance(refusal, Failure)
                assert (refusal.code, refusal.retry) == ("unavailable", True)
                assert refusal.message == "daemon has 2 connections"
            assert isinstance(await client.call(HEALTH), Ok)
        await trio.testing.wait_all_tasks_blocked()
        async with connected(path) as client:
            assert isinstance(await client.call(HEALTH), Ok)


class ExhaustedListener:
    """Fails to accept for want of descriptors, so many times, and then has nobody to accept."""

    def __init__(self, failures):
        self.failures = failures

    async def accept(self):
        await trio.lowlevel.checkpoint()
        if not self.failures:
            await trio.sleep_forever()
        raise self.failures.pop()


@pytest.mark.trio
async def test_running_out_of_descriptors_is_said_once(path, autojump_clock):
    listener = ExhaustedListener([OSError(24, "Too many open files") for _ in range(50)])
    services = Services(
        plane=LocalDataPlane({"m": object()}), roster=Roster(DaemonConfig()), access={}
    )
    door = Door([Listener(name="main", socket=listener)], services)
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(door.run, nursery)
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
    assert listener.failures == []
    assert [entry["event"] for entry in logs] == ["out_of_descriptors"]


# As a process.


def connect(path):
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(20)
    peer.connect(path)
    return peer


def exchange(peer, data):
    peer.sendall(data)
    return peer.recv(65_536)


HELLO = Connection(Side.CLIENT).send(Hello())


@pytest.mark.slow
def test_sigterm_ends_the_process_well(daemon):
    with connect(daemon.socket_path) as idle:
        assert b"hello" in exchange(idle, HELLO)
        assert stat.S_IMODE(os.lstat(daemon.socket_path).st_mode) == 0o600
        assert daemon.stop() == 0
        assert idle.recv(1) == b""
    assert not os.path.lexists(daemon.socket_path)
    assert daemon.events("stopping")[0]["signal"] == "SIGTERM"
    assert len(daemon.events("stopped")) == 1


@pytest.mark.slow
def test_two_signals_end_the_process_well_with_a_call_open(daemon):
    client = Connection(Side.CLIENT)
    with connect(daemon.socket_path) as peer:
        client.receive(exchange(peer, client.send(Hello())))
        client.next_event()
        peer.sendall(client.send(INGEST))
        for _ in range(8):  # more than the socket holds: the call is open when all is sent
            peer.sendall(client.send_data(262_144) + bytes(262_144))
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.wait_for("stopping")
        assert daemon.stop() == 0
        # An end, which is a reset where the daemon had not read everything.
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(1) == b""
        assert len(daemon.events("stopping_at_once")) == 1
    assert daemon.files("staging") == daemon.files("objects") == []


@pytest.mark.slow
@pytest.mark.parametrize("taken", ["socket", "root"])
def test_a_second_daemon_on_one_socket_or_store_says_why_it_ends(daemon, short_path, taken):
    places = {"socket": str(short_path / "s"), "root": str(short_path / "store")}
    places[taken] = {"socket": daemon.socket_path, "root": str(daemon.root)}[taken]
    command = [sys.executable, "-m", "dataplaned", "serve"]
    for option, place in places.items():
        command += [f"--{option}", place]
    second = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert second.returncode == 75
    assert "in use by" in second.stderr
    assert "Traceback" not in second.stderr
    with connect(daemon.socket_path) as peer:
        assert b"hello" in exchange(peer, HELLO)


FEW_DESCRIPTORS = (
    "import os, resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
    "os.execvp(sys.argv[1], sys.argv[1:])\n"
)


LARGE = bytes(65_536)


def ingest_of(client, content):
    """Give what a client sends to ingest some bytes."""
    sent = client.send(INGEST) + client.send_data(len(content)) + content
    return sent + client.send(End(size_bytes=len(content)))


@pytest.mark.slow
def test_a_daemon_without_descriptors_goes_on_serving_those_it_has(daemon):
    daemon.stop()
    daemon.start(wrapper=[sys.executable, "-c", FEW_DESCRIPTORS])
    assert daemon.wait_for("swept")
    peers = [connect(daemon.socket_path)]
    client = Connection(Side.CLIENT)
    client.receive(exchange(peers[0], client.send(Hello())))
    client.next_event()
    peers += [connect(daemon.socket_path) for _ in range(100)]
    assert daemon.wait_for("out_of_descriptors")
    empty = Request(op="list_objects")
    client.receive(exchange(peers[0], client.send(empty)))
    assert client.next_event() == Ok(result={"objects": [], "more": False})
    client.receive(exchange(peers[0], ingest_of(client, LARGE)))
    refusal = client.next_event()
    assert (refusal.code, refusal.retry) == ("unavailable", True)
    client.receive(exchange(peers[0], ingest_of(client, b"needs no file")))
    assert client.next_event().result["receipt"]["outcome"] == "created"
    for peer in peers[1:]:
        peer.close()
    # A new connection is answered once those before it were accepted and found to be closed.
    with connect(daemon.socket_path) as peer:
        assert b"hello" in exchange(peer, HELLO)
    client.receive(exchange(peers[0], ingest_of(client, LARGE)))
    assert client.next_event().result["receipt"]["outcome"] == "created"
    peers[0].close()
    assert daemon.stop() == 0
    assert len(daemon.events("out_of_descriptors")) < 5
