"""containerd's content store, over its own API."""

import struct
from collections.abc import Sequence
from hashlib import sha256

from ..contestant import Contestant, Pieces
from ..load import Connect, Request
from .grpc import GrpcConversation, call, field

_SERVICE = "/containerd.services.content.v1.Content"
_METADATA = (("containerd-namespace", "bench"),)
_WRITE, _COMMIT = 1, 2


class ContainerdConversation(GrpcConversation):
    """Of a read, only the object's bytes count."""

    def call(self, request: Request) -> int:
        """See `Conversation`."""
        if b"/Read" not in request[:200]:
            super().call(request)
            return 0
        self.begin(request)
        return sum(len(_data_of(message)) for message in self.messages())


class Containerd(Contestant):
    """containerd with nothing but what its content store needs."""

    NAME = "containerd"
    PROGRAM = "containerd"
    PROMISE = "the file is synced, its name is not"

    def command(self) -> Sequence[str]:
        config = self.directory / "config.toml"
        config.write_text(
            f"""version = 2
            root = "{self.directory}/root"
            state = "{self.directory}/state"
            disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.gc.v1.scheduler",
                "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart"]
            [grpc]
            address = "{self.socket()}"
            """
        )
        return ("containerd", "--config", str(config), "--log-level", "error")

    def connection(self) -> Connect:
        path = self.socket()
        return lambda: ContainerdConversation(path)

    def ingest(self, content: bytes) -> Request:
        digest = _digest(content)
        message = (
            field(1, _COMMIT)
            + field(2, digest)
            + field(3, len(content))
            + field(4, digest)
            + field(6, content)
        )
        return call(f"{_SERVICE}/Write", message, metadata=_METADATA)

    def stat(self, content: bytes) -> Request:
        return call(f"{_SERVICE}/Info", field(1, _digest(content)), metadata=_METADATA)

    def read(self, content: bytes) -> Request:
        return call(f"{_SERVICE}/Read", field(1, _digest(content)), metadata=_METADATA)

    def delete(self, content: bytes) -> Request:
        return call(f"{_SERVICE}/Delete", field(1, _digest(content)), metadata=_METADATA)

    def ingest_large(self, pieces: Pieces) -> str:
        conversation = ContainerdConversation(self.socket())
        conversation.begin(call(f"{_SERVICE}/Write", metadata=_METADATA), is_all=False)
        digest, offset = sha256(), 0
        for piece in pieces:
            digest.update(piece)
            message = field(1, _WRITE) + field(2, "large") + field(5, offset) + field(6, piece)
            conversation.send(b"\0" + struct.pack(">I", len(message)) + message)
            offset += len(piece)
        name = f"sha256:{digest.hexdigest()}"
        message = (
            field(1, _COMMIT) + field(2, "large") + field(3, offset) + field(4, name)
            + field(5, offset)
        )  # fmt: skip
        conversation.send(b"\0" + struct.pack(">I", len(message)) + message, is_last=True)
        conversation.finish()
        return name

    def serve_large(self, name: str, size: int) -> None:
        request = call(f"{_SERVICE}/Read", field(1, name), metadata=_METADATA)
        # The heads of messages count here, and are few bytes to a megabyte.
        if GrpcConversation(self.socket()).call(request) < size:
            raise RuntimeError("containerd served another size")

    def range(self, name: str, offset: int, size: int) -> Request:
        message = field(1, name) + field(2, offset) + field(3, size)
        return call(f"{_SERVICE}/Read", message, metadata=_METADATA)

    def delete_large(self, name: str) -> None:
        request = call(f"{_SERVICE}/Delete", field(1, name), metadata=_METADATA)
        GrpcConversation(self.socket()).call(request)


def _digest(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()}"


def _data_of(message: bytes) -> bytes:
    """Give field 2, the data, of a `ReadContentResponse`."""
    place = 0
    while place < len(message):
        key = message[place]
        value, place = _varint_at(message, place + 1)
        if key == 2 << 3 | 2:
            return message[place : place + value]
        place += value if key & 7 == 2 else 0
    return b""


def _varint_at(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
