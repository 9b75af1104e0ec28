"""A TCP proxy in front of an engine, that does to connections what networks do to them."""

import contextlib
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

_PIECE: Final = 65_536


class Proxy:
    """Passes bytes on, until it is told otherwise. `close` ends everything.

    Every fault holds from the next piece of bytes on, for the connections that are open too.

    Attributes:
        received: Bytes that have come from clients.
        sent: Bytes of them that have gone to the engine.
        given: Bytes that have gone to clients.
        refused: Connections that were refused.
        answered: Requests that were answered in the engine's place.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received = self.sent = self.given = self.refused = self.answered = 0
        self._changed = threading.Condition()
        self._is_refusing = self._is_holding = self._is_closed = False
        self._cuts = 0
        self._cut_after = 0
        self._cut_with_reset = True
        self._latency_s = 0.0
        self._answer: bytes | None = None
        self._garble_at: int | None = None
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pass_on(self) -> None:
        """Do nothing to anybody any more."""
        with self._changed:
            self._is_refusing = self._is_holding = False
            self._cuts, self._latency_s, self._answer = 0, 0.0, None
            self._changed.notify_all()

    def delay(self, latency_s: float) -> None:
        """Have every byte arrive so much later, and as many of them in a second as before."""
        self._latency_s = latency_s

    def cut(self, times: int, after: int, *, with_reset: bool = True) -> None:
        """End the next connections when so many bytes of an answer have passed.

        The end is a reset, or as if the engine had had no more to say.
        """
        self._cut_after, self._cut_with_reset, self._cuts = after, with_reset, times

    def garble(self, after: int) -> None:
        """Change one byte of what clients send, when so many more have passed."""
        self._garble_at = self.received + after

    def hold(self) -> None:
        """Pass nothing on, and say nothing: a black hole."""
        self._is_holding = True

    def refuse(self) -> None:
        """End every connection, and take none."""
        with self._changed:
            self._is_refusing = True
            for end in self._open:
                _reset(end)

    def answer(self, status: str, body: str = "") -> None:
        """Answer every request in the engine's place."""
        self._answer = (
            f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    @property
    def cuts_left(self) -> int:
        """Connections that are still to be cut."""
        return self._cuts

    @property
    def is_busy(self) -> bool:
        """Whether a connection is open."""
        return bool(self._open)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the counters holds."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout=60)

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            for end in self._open:
                _reset(end)
            self._changed.notify_all()
        # Wakes who accepts.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with self._changed:
                if self._is_closed:
                    client.close()
                    return
                if self._is_refusing:
                    self.refused += 1
                    self._changed.notify_all()
                    _reset(client)
                    client.close()
                    continue
                try:
                    engine = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                self._open |= {client, engine}
            pair = _Pair(client, engine)
            for way in (self._to_engine, self._to_client):
                thread = threading.Thread(target=way, args=(pair,))
                self._threads.append(thread)
                thread.start()

    def _to_engine(self, pair: "_Pair") -> None:
        with contextlib.suppress(OSError):
            for data in self._pieces(pair.client):
                self._count(received=len(data))
                if self._answer is not None:
                    # Without the rest of the request, as engines do too.
                    pair.client.sendall(self._answer)
                    self._count(answered=1)
                    break
                self._wait()
                pair.engine.sendall(self._garbled(data))
                self._count(sent=len(data))
        self._end(pair)

    def _to_client(self, pair: "_Pair") -> None:
        passed = 0
        with contextlib.suppress(OSError):
            for data in self._pieces(pair.engine):
                self._wait()
                if self._is_to_be_cut(passed + len(data)):
                    pair.client.sendall(data[: max(0, self._cut_after - passed)])
                    if self._cut_with_reset:
                        _reset(pair.client)
                    break
                pair.client.sendall(data)
                passed += len(data)
                self._count(given=len(data))
        self._end(pair)

    def _pieces(self, end: socket.socket) -> Iterator[bytes]:
        """What comes from one end, each piece at the time at which it is due at the other."""
        late: deque[tuple[float, bytes]] = deque()
        is_open = True
        while is_open or late:
            wait_s = max(0.0, late[0][0] - time.monotonic()) if late else None
            if select.select([end] if is_open else [], [], [], wait_s)[0]:
                data = end.recv(_PIECE)
                is_open = bool(data)
                if data:
                    late.append((time.monotonic() + self._latency_s, data))
            while late and late[0][0] <= time.monotonic():
                yield late.popleft()[1]

    def _garbled(self, data: bytes) -> bytes:
        with self._changed:
            place = self._garble_at
            if place is None or self.received <= place:
                return data
            self._garble_at = None
        changed = bytearray(data)
        changed[-1] ^= 1
        return bytes(changed)

    def _wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or not self._is_holding)

    def _is_to_be_cut(self, length: int) -> bool:
        with self._changed:
            if not self._cuts or length < self._cut_after:
                return False
            self._cuts -= 1
            self._changed.notify_all()
            return True

    def _count(self, **counts: int) -> None:
        with self._changed:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)
            self._changed.notify_all()

    def _end(self, pair: "_Pair") -> None:
        for end in (pair.client, pair.engine):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._changed:
            pair.ways -= 1
            if not pair.ways:
                for end in (pair.client, pair.engine):
                    self._open.discard(end)
                    end.close()
                self._changed.notify_all()


class _Pair:
    def __init__(self, client: socket.socket, engine: socket.socket) -> None:
        self.client = client
        self.engine = engine
        self.ways = 2


def _reset(end: socket.socket) -> None:
    """Have the other side see a reset and not an end."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
