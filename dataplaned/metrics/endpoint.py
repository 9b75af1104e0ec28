"""Metrics and readiness over HTTP/1.1, for whoever watches from the same machine."""

import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Final

import h11
import structlog
import trio

#: Connections at a time; one more is closed.
_MAX_CONNECTIONS: Final = 16

#: Bytes of a request's head.
_MAX_HEAD: Final = 8192

#: Seconds that a request and its answer may take, and that a connection may wait for the next.
_TIMEOUT_S: Final = 10.0

#: Bytes, and seconds, that a bad request may still go on for.
_MAX_DROPPED: Final = 65_536
_FAREWELL_S: Final = 1.0

#: Requests on one connection.
_MAX_REQUESTS: Final = 1000

_AGENT: Final = b"dataplaned"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is answered."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


#: Answers what is asked for at one path, given HTTP's `Accept`.
Page = Callable[[str], Awaitable[Answer]]


@contextlib.contextmanager
def open_endpoint(listen: str) -> Generator[trio.socket.SocketType]:
    """Listen for readers, and remove a socket that has a name at the end.

    Args:
        listen: A loopback address such as `127.0.0.1:9464`, or the path of a Unix socket, for
            this user and its group.

    Raises:
        OSError: It cannot listen there.
    """
    path = listen if listen.startswith("/") else None
    family = socket.AF_UNIX if path else socket.AF_INET6 if listen[0] == "[" else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        if path is None:
            host, _, port = listen.rpartition(":")
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host.strip("[]").replace("localhost", "127.0.0.1"), int(port)))
        else:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    os.unlink(path)  # of a run that was killed: the store's lock is held
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(path)
            os.chmod(path, 0o660)  # which the umask would have cut down
        listener.listen(_MAX_CONNECTIONS)
        listener.setblocking(False)
        try:
            yield trio.socket.from_stdlib_socket(listener)
        finally:
            if path is not None:
                with contextlib.suppress(OSError):
                    os.unlink(path)


async def serve_pages(listener: trio.socket.SocketType, pages: dict[str, Page]) -> None:
    """Answer until cancelled.

    Args:
        listener: Where; see `open_endpoint`.
        pages: By path.
    """
    site = _Site(pages)
    async with trio.open_nursery() as nursery:
        while True:
            try:
                accepted, _ = await listener.accept()
            except OSError as exc:
                _log.debug("metrics_accept_failed", reason=exc.strerror)
                await trio.sleep(1)
                continue
            nursery.start_soon(site.attend, trio.SocketStream(accepted))


class _Site:
    """The pages, and who reads them."""

    def __init__(self, pages: dict[str, Page]) -> None:
        self._pages = pages
        self._connections = 0

    async def attend(self, stream: trio.SocketStream) -> None:
        """Answer one connection to its end. Raises nothing."""
        async with stream:
            if self._connections >= _MAX_CONNECTIONS:
                return
            self._connections += 1
            try:
                await self._converse(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as exc:
                _log.debug("metrics_reader_gone", reason=str(exc))
            except Exception as exc:  # noqa: BLE001 - a reader must not end the daemon
                _log.error("metrics_failed", exc_info=exc)
            finally:
                self._connections -= 1

    async def _converse(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        for _ in range(_MAX_REQUESTS):
            with trio.move_on_after(_TIMEOUT_S):
                if not await self._answer_one(connection, stream):
                    return
                connection.start_next_cycle()
                continue
            return

    async def _answer_one(self, connection: h11.Connection, stream: trio.SocketStream) -> bool:
        """Answer a request; whether another one may follow."""
        try:
            request = await _receive(connection, stream)
        except h11.RemoteProtocolError as exc:
            status = max(exc.error_status_hint, 400)
            await _send(connection, stream, Answer(status=status, body=b"bad request\n"))
            await _drop_rest(stream)
            return False
        if request is None:
            return False
        answer = await self._find(request)
        await _send(connection, stream, answer, has_body=request.method != b"HEAD")
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _find(self, request: h11.Request) -> Answer:
        if request.method not in (b"GET", b"HEAD"):
            return Answer(status=405, body=b"only GET and HEAD\n")
        page = self._pages.get(request.target.partition(b"?")[0].decode("ascii", "replace"))
        if page is None:
            places = " ".join(self._pages)
            return Answer(status=404, body=f"nothing here; there is {places}\n".encode())
        accept = dict(request.headers).get(b"accept", b"")
        return await page(accept.decode("latin-1"))


async def _drop_rest(stream: trio.SocketStream) -> None:
    """Let what is still under way arrive: an end before would take the answer with it."""
    left = _MAX_DROPPED
    with trio.move_on_after(_FAREWELL_S):
        await stream.send_eof()
        while left > 0 and (piece := await stream.receive_some(4096)):
            left -= len(piece)


async def _receive(connection: h11.Connection, stream: trio.SocketStream) -> h11.Request | None:
    request: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(4096))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed):
            return None
        elif isinstance(event, h11.Data):
            # Nothing here takes a body.
            raise h11.RemoteProtocolError("body", error_status_hint=413)


async def _send(
    connection: h11.Connection,
    stream: trio.SocketStream,
    answer: Answer,
    *,
    has_body: bool = True,
) -> None:
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    headers = [
        (b"Content-Type", answer.content_type.encode()),
        (b"Content-Length", str(len(answer.body)).encode()),
        (b"Server", _AGENT),
    ]
    if answer.status >= 400 and answer.status != 503:
        headers.append((b"Connection", b"close"))
    if answer.status == 405:
        headers.append((b"Allow", b"GET, HEAD"))
    parts = [connection.send(h11.Response(status_code=answer.status, headers=headers))]
    if has_body:
        parts.append(connection.send(h11.Data(data=answer.body)))
    parts.append(connection.send(h11.EndOfMessage()))
    await stream.send_all(b"".join(part for part in parts if part))
