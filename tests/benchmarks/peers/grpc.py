"""gRPC over HTTP/2 as far as a clock needs it: frames by hand, no library between (RFC 9113).

Headers are literals that no table remembers, so that every request can be made beforehand but
for its stream's number. Of an answer's trailers nothing is decoded: a call that failed has no
message.
"""

import struct
from collections.abc import Iterable
from typing import Final

from ..load import Received, Request, dial

_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_WINDOW: Final = 2**31 - 1
_MAX_FRAME: Final = 16_384


def varint(value: int) -> bytes:
    """Encode a number as protobuf does."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def field(number: int, value: int | bytes | str) -> bytes:
    """Encode a field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def call(path: str, *messages: bytes, metadata: tuple[tuple[str, str], ...]) -> Request:
    """Make a request: the header block, and the messages, each with its length before it."""
    block = b"\x83\x86" + _literal(":path", path) + _literal(":authority", "localhost")
    block += _literal("content-type", "application/grpc") + _literal("te", "trailers")
    for name, value in metadata:
        block += _literal(name, value)
    body = b"".join(b"\0" + struct.pack(">I", len(each)) + each for each in messages)
    return struct.pack(">I", len(block)) + block + body


def _literal(name: str, value: str) -> bytes:
    return b"\0" + bytes([len(name)]) + name.encode() + _length(len(value)) + value.encode()


def _length(size: int) -> bytes:
    return bytes([size]) if size < 127 else b"\x7f" + varint(size - 127)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class GrpcConversation:
    """One HTTP/2 connection, one call at a time."""

    def __init__(self, path: str) -> None:
        self._socket = dial(path)
        self._received = Received(self._socket)
        self._stream = -1
        self._window = self._stream_window = 65_535
        self._first_window = 65_535
        settings = struct.pack(">HIHI", 2, 0, 4, _WINDOW)
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - 65_535))
        )
        while self._take_frame()[0] != _SETTINGS:
            pass

    def call(self, request: Request) -> int:
        """See `Conversation`; the payload is that of all messages, their heads included."""
        self.begin(request)
        return self.finish()

    def begin(self, request: Request, *, is_all: bool = True) -> None:
        """Send a request; `is_all` says that no more messages follow."""
        (size,) = struct.unpack(">I", request[:4])
        block, body = request[4 : 4 + size], request[4 + size :]
        self._stream += 2
        self._stream_window = self._first_window
        frames = _frame(_HEADERS, _END_HEADERS, self._stream, block)
        if is_all and len(body) <= min(_MAX_FRAME, self._window, self._stream_window):
            self._window -= len(body)
            self._socket.sendall(frames + _frame(_DATA, _END_STREAM, self._stream, body))
            return
        self._socket.sendall(frames)
        self.send(body, is_last=is_all)

    def send(self, body: bytes, *, is_last: bool = False) -> None:
        """Send a part of the body, as far and as soon as the peer's windows allow."""
        view = memoryview(body)
        while view:
            room = min(len(view), self._window, self._stream_window)
            if room <= 0:
                self._take_frame()
                continue
            out = bytearray()
            part, view = view[:room], view[room:]
            self._window -= room
            self._stream_window -= room
            for start in range(0, room, _MAX_FRAME):
                piece = part[start : start + _MAX_FRAME]
                is_end = is_last and not view and start + len(piece) == room
                out += _frame(_DATA, _END_STREAM if is_end else 0, self._stream, bytes(piece))
            self._socket.sendall(out)

    def finish(self) -> int:
        """Receive until the end of the answer."""
        payload, has_message = 0, False
        while True:
            kind, flags, stream, size = self._take_frame()
            if stream == self._stream:
                if kind == _DATA:
                    payload += size
                    has_message = True
                if flags & _END_STREAM and kind in (_DATA, _HEADERS):
                    break
        if not has_message:
            raise RuntimeError("the peer refused the call")
        return payload

    def messages(self) -> Iterable[bytes]:
        """Receive the messages of an answer, for a look at them."""
        self._keep = b""
        data = b""
        while True:
            kind, flags, stream, _ = self._take_frame(keeps=True)
            if stream == self._stream and kind == _DATA:
                data += self._keep
            if stream == self._stream and flags & _END_STREAM:
                break
        while data:
            (size,) = struct.unpack(">I", data[1:5])
            yield data[5 : 5 + size]
            data = data[5 + size :]

    def _take_frame(self, *, keeps: bool = False) -> tuple[int, int, int, int]:
        """Take a frame, and do what it asks for: kind, flags, stream, size."""
        head = self._received.take(9)
        size = int.from_bytes(head[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        if kind == _DATA and not keeps:
            self._received.skip(size)
            return kind, flags, stream, size
        payload = self._received.take(size)
        self._keep = payload
        if kind == _WINDOW_UPDATE:
            (more,) = struct.unpack(">I", payload)
            if stream == 0:
                self._window += more
            elif stream == self._stream:
                self._stream_window += more
        elif kind == _SETTINGS and not flags & _ACK:
            for start in range(0, size, 6):
                key, value = struct.unpack(">HI", payload[start : start + 6])
                if key == 4:
                    self._stream_window += value - self._first_window
                    self._first_window = value
            self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            raise RuntimeError(f"the peer goes away: {payload!r}")
        return kind, flags, stream, size
