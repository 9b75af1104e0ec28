"""A scripted daemon: the server's half of real sockets, played by threads."""

import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace

import anyio
import anyio.from_thread
import pytest
from anyio.lowlevel import current_token

from dataplane_protocol import (
    BodyKind,
    Connection,
    ConnectionClosed,
    ContentAddress,
    Digest,
    End,
    Failure,
    Hello,
    IngestResult,
    Message,
    ObjectStatus,
    Ok,
    Request,
    ServeResult,
    Side,
    StorageReceipt,
    ingest_result_to_wire,
)

TIMEOUT = 20


class Peer:
    """One connection as the daemon has it. Scripts call it; a failed check fails the test."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.protocol = Connection(Side.SERVER)
        self.raw = bytearray()

    def receive(self) -> Message | ConnectionClosed | bytes:
        while (event := self.protocol.next_event()) is None:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            self.raw += data
            if data:
                self.protocol.receive(data)
            else:
                self.protocol.receive_eof()
        return bytes(event) if isinstance(event, memoryview) else event

    def greet(self) -> None:
        assert isinstance(self.receive(), Hello)
        self.send(Hello(agent="scripted"))
        self.raw.clear()

    def request(self) -> Request:
        request = self.receive()
        assert isinstance(request, Request), request
        return request

    def frames(self) -> tuple[list[bytes], End | Failure]:
        """Take a body: its pieces as they come, and how it ends."""
        pieces = []
        while isinstance(event := self.receive(), bytes):
            pieces.append(event)
        assert isinstance(event, End | Failure), event
        return pieces, event

    def body(self) -> tuple[bytes, End | Failure]:
        pieces, end = self.frames()
        return b"".join(pieces), end

    def expect_closed(self) -> None:
        while isinstance(event := self.receive(), bytes):
            pass
        assert isinstance(event, ConnectionClosed), event

    def send(self, *items: Message | bytes) -> None:
        """Send messages, and bytes as data frames, in one write."""
        self.sock.sendall(b"".join(self._frame(item) for item in items))

    def _frame(self, item: Message | bytes) -> bytes:
        if isinstance(item, bytes):
            return self.protocol.send_data(len(item)) + item
        return self.protocol.send(item)


Script = Callable[[Peer], object]


class Daemon:
    """Runs one script for each connection that is made, in the order they are made."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.accepted = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self._scripts: list[Script] = []
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def run(self, *scripts: Script, greets: bool = True) -> None:
        self._scripts += scripts
        self._start(lambda: self._accept(len(scripts), greets=greets))

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT)
        self.listener.close()
        assert not any(thread.is_alive() for thread in self._threads)
        if self._errors:
            raise self._errors[0]

    def _accept(self, count: int, *, greets: bool) -> None:
        self.listener.settimeout(TIMEOUT)
        for _ in range(count):
            sock, _ = self.listener.accept()
            sock.settimeout(TIMEOUT)
            script = self._scripts[self.accepted]
            self.accepted += 1
            self._start(self._play, script, sock, greets)

    def _play(self, script: Script, sock: socket.socket, greets: bool) -> None:
        with sock:
            peer = Peer(sock)
            if greets:
                peer.greet()
            script(peer)

    def _start(self, target: Callable[..., object], *args: object) -> None:
        def guarded() -> None:
            try:
                target(*args)
            except BaseException as exc:
                self._errors.append(exc)

        thread = threading.Thread(target=guarded, daemon=True)
        self._threads.append(thread)
        thread.start()


class Flag:
    """An event that a script sets from its thread and a task of the test waits for."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._token = current_token()

    def set(self) -> None:
        anyio.from_thread.run_sync(self._event.set, token=self._token)

    async def wait(self) -> None:
        await self._event.wait()


@pytest.fixture
def make_flag() -> type[Flag]:
    return Flag


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def daemon(tmp_path) -> Iterator[Daemon]:
    daemon = Daemon(str(tmp_path / "s"))
    yield daemon
    daemon.finish()


@pytest.fixture
def sample() -> SimpleNamespace:
    """One object, and what a daemon says about it."""
    blake3 = "dc5a4edb8240b018124052c330270696f96771a63b45250a5c17d3000e823355"
    sha256 = "a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447"
    data = b"hello world\n"
    primary = Digest("blake3", blake3)
    secondary = Digest("sha256", sha256)
    address = ContentAddress.from_digest(primary)
    moment = datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC)

    def ingested(size: int) -> IngestResult:
        receipt = StorageReceipt("default", address, size, "created", 1, moment)
        return IngestResult(primary, secondary, size, receipt)

    def serving(length: int, *, size: int | None = None, offset: int = 0) -> Ok:
        size = length if size is None else size
        result = ServeResult(size_bytes=size, offset=offset, length=length)
        return Ok(result=result.to_wire(), body=BodyKind.STREAM)

    return SimpleNamespace(
        data=data,
        blake3=primary,
        sha256=secondary,
        address=address,
        sha256_address=ContentAddress.from_digest(secondary),
        status=ObjectStatus(address, len(data), secondary, 1, moment),
        moment=moment,
        ingested=ingested,
        stored=lambda size: Ok(result=ingest_result_to_wire(ingested(size))),
        serving=serving,
        health=Ok(result={"backend_id": "default", "state": "ok", "writable": True}),
    )
