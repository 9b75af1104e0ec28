"""HTTP/1.1 as far as a clock needs it, and nginx with WebDAV: files without a digest or a sync."""

from collections.abc import Sequence
from hashlib import sha256

from ..contestant import Contestant, Pieces
from ..load import Connect, Received, Request, dial


class HttpConversation:
    """A kept connection."""

    def __init__(self, path: str) -> None:
        self.socket = dial(path)
        self.received = Received(self.socket)

    def call(self, request: Request) -> int:
        """See `Conversation`."""
        self.socket.sendall(request)
        _, size = self.answer(has_body=not request.startswith(b"HEAD"))
        return size if request.startswith(b"GET") else 0

    def answer(self, *, has_body: bool = True) -> tuple[bytes, int]:
        """Receive an answer: its head, and the bytes of its body, which are forgotten."""
        head = self.received.take_until(b"\r\n\r\n")
        if head[9:10] != b"2":
            raise RuntimeError(f"the peer answered {head!r}")
        size = int(header(head, b"content-length") or 0)
        if has_body:
            self.received.skip(size)
        return head, size


def header(head: bytes, name: bytes) -> bytes | None:
    """Give the value of a header."""
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return None


def request(method: str, path: str, *headers: str, body: bytes = b"") -> Request:
    """Make a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body or method in ("PUT", "POST", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def send_pieces(conversation: HttpConversation, head: bytes, pieces: Pieces) -> str:
    """Send a body of known length; give its SHA-256 value."""
    digest = sha256()
    conversation.socket.sendall(head)
    for piece in pieces:
        digest.update(piece)
        conversation.socket.sendall(piece)
    return digest.hexdigest()


class Nginx(Contestant):
    """nginx with its WebDAV module."""

    NAME = "nginx"
    PROGRAM = "nginx"
    PROMISE = "nothing is synced, no digest"

    def command(self) -> Sequence[str]:
        for name in ("data", "temp"):
            (self.directory / name).mkdir()
        config = self.directory / "nginx.conf"
        config.write_text(
            f"""
            daemon off; worker_processes 2; pid {self.directory}/pid; user root;
            error_log {self.directory}/error.log;
            events {{ worker_connections 256; }}
            http {{
                access_log off; sendfile on; client_max_body_size 0; keepalive_requests 1000000;
                client_body_temp_path {self.directory}/temp;
                server {{
                    listen unix:{self.socket()};
                    location / {{ root {self.directory}/data; dav_methods PUT DELETE; }}
                }}
            }}
            """
        )
        return ("nginx", "-c", str(config), "-e", str(self.directory / "error.log"))

    def connection(self) -> Connect:
        path = self.socket()
        return lambda: HttpConversation(path)

    def ingest(self, content: bytes) -> Request:
        return request("PUT", _path(content), body=content)

    def stat(self, content: bytes) -> Request:
        return request("HEAD", _path(content))

    def read(self, content: bytes) -> Request:
        return request("GET", _path(content))

    def delete(self, content: bytes) -> Request:
        return request("DELETE", _path(content))

    def ingest_large(self, pieces: Pieces) -> str:
        conversation = HttpConversation(self.socket())
        head = f"PUT /large HTTP/1.1\r\nHost: x\r\nContent-Length: {pieces.size}\r\n\r\n"
        conversation.socket.sendall(head.encode())
        for piece in pieces:
            conversation.socket.sendall(piece)
        conversation.answer()
        return "/large"

    def serve_large(self, name: str, size: int) -> None:
        if HttpConversation(self.socket()).call(request("GET", name)) != size:
            raise RuntimeError("nginx served another size")

    def range(self, name: str, offset: int, size: int) -> Request:
        return request("GET", name, f"Range: bytes={offset}-{offset + size - 1}")

    def delete_large(self, name: str) -> None:
        HttpConversation(self.socket()).call(request("DELETE", name))


def _path(content: bytes) -> str:
    return f"/{sha256(content).hexdigest()}"
