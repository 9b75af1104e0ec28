"""nix-daemon: objects as archives (NAR) of one file, over its worker protocol."""

import struct
from collections.abc import Sequence
from hashlib import sha256

from ..contestant import Contestant, Pieces
from ..load import Connect, Received, Request, dial

_CLIENT_MAGIC, _DAEMON_MAGIC, _VERSION = 0x6E697863, 0x6478696F, 0x121
_IS_VALID_PATH, _COLLECT_GARBAGE, _NAR_FROM_PATH, _ADD_TO_STORE_NAR = 1, 20, 38, 39
_LAST, _NEXT, _ERROR = 0x616C7473, 0x6F6C6D67, 0x63787470
_DELETE_SPECIFIC = 3
_ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"


def number(value: int) -> bytes:
    """Encode a number."""
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    """Encode a string, padded to eight bytes."""
    raw = value.encode() if isinstance(value, str) else value
    return number(len(raw)) + raw + bytes(-len(raw) % 8)


_BEFORE = b"".join(map(text, ("nix-archive-1", "(", "type", "regular", "contents")))
_AFTER = text(")")


class NixConversation:
    """One connection to the daemon."""

    def __init__(self, path: str) -> None:
        self.socket = dial(path)
        self.received = Received(self.socket)
        self.socket.sendall(number(_CLIENT_MAGIC))
        if self._number() != _DAEMON_MAGIC:
            raise RuntimeError("no nix-daemon")
        self._number()
        self.socket.sendall(number(_VERSION) + number(0) + number(0))
        self._text()
        self.finish()

    def call(self, request: Request) -> int:
        """See `Conversation`."""
        self.socket.sendall(request)
        self.finish()
        (operation,) = struct.unpack("<Q", request[:8])
        if operation == _IS_VALID_PATH and not self._number():
            raise RuntimeError("the peer has no such object")
        if operation == _COLLECT_GARBAGE:
            for _ in range(self._number()):
                self._text()
            self.received.skip(16)
        return self._archive() if operation == _NAR_FROM_PATH else 0

    def finish(self) -> None:
        """Receive what the daemon says until it is done."""
        while (word := self._number()) != _LAST:
            if word != _NEXT:
                raise RuntimeError(f"the peer answered {word:x}: {self.received.take(100)!r}")
            self._text()

    def _archive(self) -> int:
        self.received.skip(len(_BEFORE))
        size = self._number()
        self.received.skip(size + -size % 8 + len(_AFTER))
        return size

    def _number(self) -> int:
        (value,) = struct.unpack("<Q", self.received.take(8))
        return int(value)

    def _text(self) -> bytes:
        size = self._number()
        value = self.received.take(size)
        self.received.skip(-size % 8)
        return value


class Nix(Contestant):
    """nix-daemon on a store of its own.

    It reads no ranges, and a delete is a collection of garbage, which looks through every
    process of the machine first: small objects stay.
    """

    NAME = "nix-daemon"
    PROGRAM = "nix-daemon"
    PROMISE = "its database is synced, the files are not"
    HAS_RANGES = False
    SMALL_ROWS = ("ingest", "stat", "read")

    def command(self) -> Sequence[str]:
        for name in ("store", "var", "log-dir", "conf"):
            (self.directory / name).mkdir()
        (self.directory / "conf" / "nix.conf").write_text(
            "build-users-group =\ntrusted-users = *\nsandbox = false\n"
        )
        settings = (
            f"NIX_STORE_DIR={self._store()}",
            f"NIX_STATE_DIR={self.directory}/var",
            f"NIX_LOG_DIR={self.directory}/log-dir",
            f"NIX_CONF_DIR={self.directory}/conf",
            f"NIX_DAEMON_SOCKET_PATH={self.socket()}",
        )
        return ("env", *settings, "nix-daemon", "--daemon")

    def connection(self) -> Connect:
        path = self.socket()
        return lambda: NixConversation(path)

    def ingest(self, content: bytes) -> Request:
        size = len(content)
        archive = _BEFORE + number(size) + content + bytes(-size % 8) + _AFTER
        digest = sha256(archive).hexdigest()
        head = self._add(self._path(content), digest, len(archive))
        return head + number(len(archive)) + archive + number(0)

    def stat(self, content: bytes) -> Request:
        return number(_IS_VALID_PATH) + text(self._path(content))

    def read(self, content: bytes) -> Request:
        return number(_NAR_FROM_PATH) + text(self._path(content))

    def ingest_large(self, pieces: Pieces) -> str:
        digest = sha256(_BEFORE + number(pieces.size))
        for piece in pieces:
            digest.update(piece)
        digest.update(_AFTER)
        size = len(_BEFORE) + 8 + pieces.size + len(_AFTER)
        path = self._path(digest.digest())
        conversation = NixConversation(self.socket())
        conversation.socket.sendall(self._add(path, digest.hexdigest(), size))
        start = _BEFORE + number(pieces.size)
        conversation.socket.sendall(number(len(start)) + start)
        for piece in pieces:
            conversation.socket.sendall(number(len(piece)))
            conversation.socket.sendall(piece)
        conversation.socket.sendall(number(len(_AFTER)) + _AFTER + number(0))
        conversation.finish()
        return path

    def serve_large(self, name: str, size: int) -> None:
        request = number(_NAR_FROM_PATH) + text(name)
        if NixConversation(self.socket()).call(request) != size:
            raise RuntimeError("nix-daemon served another size")

    def delete_large(self, name: str) -> None:
        NixConversation(self.socket()).call(self._delete(name))

    def _store(self) -> str:
        return str(self.directory / "store")

    def _path(self, content: bytes) -> str:
        name = "".join(_ALPHABET[byte % 32] for byte in sha256(content).digest())
        return f"{self._store()}/{name}-object"

    def _add(self, path: str, digest: str, size: int) -> bytes:
        return (
            number(_ADD_TO_STORE_NAR)
            + text(path)
            + text("")  # what it was built from
            + text(digest)
            + number(0)  # references
            + number(0)  # time of registration
            + number(size)
            + number(0)  # whether it was built here
            + number(0)  # signatures
            + text("")  # content address
            + number(0)  # whether to repair
            + number(1)  # whether to believe it without a signature
        )

    def _delete(self, path: str) -> Request:
        return (
            number(_COLLECT_GARBAGE)
            + number(_DELETE_SPECIFIC)
            + number(1)
            + text(path)
            + number(0)  # whether to ignore who needs it
            + number(2**63 - 1)  # bytes to free at most
            + bytes(24)
        )
