"""docker-registry: the reference implementation of the OCI distribution API."""

from collections.abc import Sequence
from hashlib import sha256

from ..contestant import Contestant, Pieces
from ..load import Connect, Request
from .http import HttpConversation, header, request

_BLOBS = "/v2/bench/blobs"


class RegistryConversation(HttpConversation):
    """A blob is stored by two calls; the first one's answer says where the second goes."""

    def call(self, request: Request) -> int:
        """See `Conversation`; a request that begins with a digest is the content to store."""
        if not request.startswith(b"sha256:"):
            return super().call(request)
        name, content = request[:71].decode(), request[71:]
        self.store(name, len(content), (content,))
        return 0

    def store(self, name: str, size: int, pieces: Sequence[bytes] | Pieces) -> None:
        """Store a blob whose digest is known."""
        self.socket.sendall(request("POST", f"{_BLOBS}/uploads/"))
        head, _ = self.answer()
        place = (header(head, b"location") or b"").decode()
        path = "/" + place.split("/", 3)[3] if "://" in place else place
        lines = (
            f"PUT {path}&digest={name} HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/octet-stream",
            f"Content-Length: {size}",
            "",
            "",
        )
        self.socket.sendall("\r\n".join(lines).encode())
        for piece in pieces:
            self.socket.sendall(piece)
        self.answer()


class Registry(Contestant):
    """docker-registry with its filesystem driver."""

    NAME = "docker-registry"
    PROGRAM = "docker-registry"
    PROMISE = "the file is synced, its name is not"

    def command(self) -> Sequence[str]:
        config = self.directory / "config.yml"
        config.write_text(
            "version: 0.1\n"
            "log: {level: error, accesslog: {disabled: true}}\n"
            "storage:\n"
            f"  filesystem: {{rootdirectory: {self.directory}/data, maxthreads: 100}}\n"
            "  delete: {enabled: true}\n"
            "  maintenance: {uploadpurging: {enabled: false}}\n"
            f"http: {{net: unix, addr: {self.socket()}, secret: none}}\n"
        )
        return ("docker-registry", "serve", str(config))

    def connection(self) -> Connect:
        path = self.socket()
        return lambda: RegistryConversation(path)

    def ingest(self, content: bytes) -> Request:
        return f"sha256:{sha256(content).hexdigest()}".encode() + content

    def stat(self, content: bytes) -> Request:
        return request("HEAD", _path(content))

    def read(self, content: bytes) -> Request:
        return request("GET", _path(content))

    def delete(self, content: bytes) -> Request:
        return request("DELETE", _path(content))

    def ingest_large(self, pieces: Pieces) -> str:
        digest = sha256()
        for piece in pieces:
            digest.update(piece)
        name = f"sha256:{digest.hexdigest()}"
        RegistryConversation(self.socket()).store(name, pieces.size, pieces)
        return f"{_BLOBS}/{name}"

    def serve_large(self, name: str, size: int) -> None:
        if HttpConversation(self.socket()).call(request("GET", name)) != size:
            raise RuntimeError("the registry served another size")

    def range(self, name: str, offset: int, size: int) -> Request:
        return request("GET", name, f"Range: bytes={offset}-{offset + size - 1}")

    def delete_large(self, name: str) -> None:
        HttpConversation(self.socket()).call(request("DELETE", name))


def _path(content: bytes) -> str:
    return f"{_BLOBS}/sha256:{sha256(content).hexdigest()}"
