"""dataplaned itself, and an echo of its calls."""

import sys
from collections.abc import Sequence

from blake3 import blake3

from dataplane_client import blocking
from dataplane_protocol import (
    BodyKind,
    ContentAddress,
    End,
    Hello,
    Request as Call,
    data_head,
    encode_frame,
)

from .contestant import Contestant, Pieces
from .load import Connect, Received, Request, dial

_HELLO = encode_frame(Hello().to_wire())


class FramedConversation:
    """A connection that speaks the contract, as far as a clock needs it."""

    def __init__(self, path: str) -> None:
        self._socket = dial(path)
        self._received = Received(self._socket)
        self._socket.sendall(_HELLO)
        self._received.take(int.from_bytes(self._received.take(4), "big"))

    def call(self, request: Request) -> int:
        """See `Conversation`."""
        self._socket.sendall(request)
        answer = self._frame()
        if b"eerror" in answer[:8]:
            raise RuntimeError(f"the daemon answered {answer!r}")
        payload = 0
        if answer.endswith(b"dbodyfstream"):
            while True:
                size = int.from_bytes(self._received.take(4), "big")
                kind = self._received.take(1)[0]
                if kind >> 5 != 2:
                    rest = self._received.take(size - 1)
                    if b"error" in rest[:8]:
                        raise RuntimeError(f"the daemon broke off with {rest!r}")
                    break
                width = {0x58: 1, 0x59: 2, 0x5A: 4}.get(kind, 0)
                self._received.skip(size - 1)
                payload += size - 1 - width
        return payload

    def _frame(self) -> bytes:
        return self._received.take(int.from_bytes(self._received.take(4), "big"))


def _call(operation: str, **arguments: object) -> Request:
    return encode_frame(Call(op=operation, args=arguments).to_wire())


def _name(content: bytes) -> str:
    return f"blake3:{blake3(content).hexdigest()}"


class Daemon(Contestant):
    """The daemon with its defaults."""

    NAME = "dataplaned"
    PROGRAM = sys.executable
    PROMISE = "bytes and name are on disk, digests checked"

    def command(self) -> Sequence[str]:
        config = self.directory / "config.toml"
        config.write_text(
            f'[daemon]\nsocket = "{self.socket()}"\nserve_fd = {str(self.serves_fd()).lower()}\n'
            f'[backend.main]\ntype = "filesystem"\nroot = "{self.directory / "store"}"\n'
        )
        return (sys.executable, "-m", "dataplaned", "serve", "--config", str(config))

    def serves_fd(self) -> bool:
        """Whether clients may have a descriptor in place of the bytes."""
        return False

    def connection(self) -> Connect:
        path = self.socket()
        return lambda: FramedConversation(path)

    def ingest(self, content: bytes) -> Request:
        call = Call(op="ingest_stream", body=BodyKind.STREAM)
        end = End(size_bytes=len(content))
        return (
            encode_frame(call.to_wire())
            + data_head(len(content))
            + content
            + encode_frame(end.to_wire())
        )

    def stat(self, content: bytes) -> Request:
        return _call("stat_objects", content_addresses=[_name(content)])

    def read(self, content: bytes) -> Request:
        return _call("serve_object", content_address=_name(content))

    def delete(self, content: bytes) -> Request:
        return _call("delete_object", content_address=_name(content))

    def range(self, name: str, offset: int, size: int) -> Request:
        where = {"offset": offset, "length": size}
        return _call("serve_object", content_address=name, byte_range=where)

    def ingest_large(self, pieces: Pieces) -> str:
        with blocking.connect(self.socket()) as client:
            return str(client.ingest_stream(pieces).receipt.content_address)

    def serve_large(self, name: str, size: int) -> None:
        if (
            FramedConversation(self.socket()).call(_call("serve_object", content_address=name))
            != size
        ):
            raise RuntimeError("the daemon served another size")

    def delete_large(self, name: str) -> None:
        with blocking.connect(self.socket()) as client:
            client.delete_object(ContentAddress(name))


class DaemonByDescriptor(Daemon):
    """The daemon, read through the descriptors that it gives, by its own client."""

    NAME = "dataplaned by descriptor"

    def serves_fd(self) -> bool:
        return True

    def serve_large(self, name: str, size: int) -> None:
        with (
            blocking.connect(self.socket()) as client,
            client.serve_object(ContentAddress(name)) as served,
        ):
            if sum(map(len, served)) != size:
                raise RuntimeError("the daemon served another size")


class Echo(Contestant):
    """A trio server that decodes a call and answers with an empty one: no store, no checks."""

    NAME = "echo"
    PROGRAM = sys.executable
    HAS_LARGE = False
    SMALL_ROWS = ("stat",)

    def command(self) -> Sequence[str]:
        return (sys.executable, "-m", "tests.benchmarks.echo", self.socket())

    def connection(self) -> Connect:
        path = self.socket()
        return lambda: FramedConversation(path)

    def stat(self, content: bytes) -> Request:
        return _call("stat_objects", content_addresses=[_name(content)])
