"""Frames: a 4-byte big-endian length, then exactly one CBOR item (`SPEC.md` 2).

A byte string is data and a map is control, so the item's first byte is the frame's type.
Payloads never pass through the CBOR library, which copies them two or three times: the head
of a data frame is made and read here, and a payload is handed out in place, in whatever
pieces arrive. Nothing is set aside for an announced length.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from ._codec import decode_control, encode_control
from ._errors import LocalProtocolError, RemoteProtocolError
from ._limits import MAX_CONTROL_SIZE, MAX_DATA_SIZE

Buffer: TypeAlias = bytes | bytearray | memoryview

_NOTHING: Final = memoryview(b"")
_LENGTH_SIZE: Final = 4
_MAJOR_TYPE_BYTES: Final = 2
_MAJOR_TYPE_MAP: Final = 5
_MAX_FRAME_LENGTH: Final = MAX_DATA_SIZE + 5

#: For each additional information that carries a length: its size, and the least value that
#: needs it. Below 24 the length is in the initial byte itself (RFC 8949 section 3).
_LONG_HEADS: Final = {24: (1, 24), 25: (2, 256), 26: (4, 65536)}


def encode_frame(message: Mapping[str, object]) -> bytes:
    """Encode a whole control frame.

    Raises:
        LocalProtocolError: As `encode_control`.
    """
    item = encode_control(message)
    return len(item).to_bytes(_LENGTH_SIZE, "big") + item


def data_head(size: int) -> bytes:
    """Give the 5 to 9 bytes that go before a payload of `size` bytes.

    Raises:
        LocalProtocolError: The payload is empty or larger than `MAX_DATA_SIZE`.
    """
    if not 1 <= size <= MAX_DATA_SIZE:
        raise LocalProtocolError(f"data frame has {size} bytes, must have 1 to {MAX_DATA_SIZE}")
    if size >= 65536:
        return struct.pack(">IBI", size + 5, 0x5A, size)
    if size >= 256:
        return struct.pack(">IBH", size + 3, 0x59, size)
    if size >= 24:
        return struct.pack(">IBB", size + 2, 0x58, size)
    return struct.pack(">IB", size + 1, 0x40 + size)


def unsent(buffers: Sequence[Buffer], sent: int) -> Sequence[Buffer]:
    """Give what is left of buffers of which the first `sent` bytes are gone (sendmsg(2))."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[index + 1 :]]
        sent -= len(buffer)
    return []


class FrameDecoder:
    """Cut received bytes into control maps and pieces of payload, however they were split.

    Give it bytes with `receive`, take everything with `next` until it gives `None`, then
    give it more. A piece of payload is a view of the very buffer that was given: it is good
    until that buffer is written to again, that is, until the next `receive`.

    After an error the stream cannot be followed any more, and every `next` raises it again.
    """

    def __init__(self) -> None:
        self._input = _NOTHING
        self._partial = bytearray()
        self._payload_left = 0
        self._error: RemoteProtocolError | None = None

    @property
    def is_between_frames(self) -> bool:
        """Whether every byte received so far belongs to a frame that was taken."""
        return not (self._payload_left or self._partial or self._input)

    @property
    def due_payload(self) -> int:
        """How many of the next bytes to arrive are payload for sure."""
        return 0 if self._input else self._payload_left

    def receive(self, data: Buffer) -> None:
        """Take bytes that arrived. What was not taken before is kept, at the cost of a copy."""
        self._input = memoryview(bytes(self._input) + bytes(data) if self._input else data)

    def next(self) -> Mapping[str, object] | memoryview | None:
        """Give the next control map or piece of payload, or `None` when more is needed.

        Raises:
            RemoteProtocolError: What arrived is not a frame, or is over a limit.
        """
        if self._error is not None:
            raise self._error
        try:
            return self._next()
        except RemoteProtocolError as exc:
            self._error = exc
            raise
        finally:
            if not self._input:
                # An empty view would keep the caller's whole buffer alive while it is idle.
                self._input = _NOTHING

    def _next(self) -> Mapping[str, object] | memoryview | None:
        if self._payload_left:
            return self._take_payload()
        prefix = self._peek(_LENGTH_SIZE)
        if prefix is None:
            return None
        length = int.from_bytes(prefix, "big")
        if not 1 <= length <= _MAX_FRAME_LENGTH:
            raise RemoteProtocolError(f"frame is {length} bytes, limit is {_MAX_FRAME_LENGTH}")
        start = self._peek(_LENGTH_SIZE + 1)
        if start is None:
            return None
        major_type, information = start[-1] >> 5, start[-1] & 31
        if major_type == _MAJOR_TYPE_MAP:
            return self._take_control(length)
        if major_type == _MAJOR_TYPE_BYTES:
            return self._take_payload() if self._take_data_head(length, information) else None
        raise RemoteProtocolError(
            f"frame is CBOR major type {major_type}, must be a byte string or a map"
        )

    def _take_control(self, length: int) -> Mapping[str, object] | None:
        if length > MAX_CONTROL_SIZE:
            raise RemoteProtocolError(
                f"control frame is {length} bytes, limit is {MAX_CONTROL_SIZE}"
            )
        frame = self._peek(_LENGTH_SIZE + length)
        if frame is None:
            return None
        self._drop(_LENGTH_SIZE + length)
        return decode_control(frame[_LENGTH_SIZE:])

    def _take_data_head(self, length: int, information: int) -> bool:
        size, width = information, 0
        if information >= 24:
            if information not in _LONG_HEADS:
                raise RemoteProtocolError("data frame has no definite length")
            width, least = _LONG_HEADS[information]
            head = self._peek(_LENGTH_SIZE + 1 + width)
            if head is None:
                return False
            size = int.from_bytes(head[-width:], "big")
            if size < least:
                raise RemoteProtocolError(f"data frame states {size} bytes in too long a head")
        if not 1 <= size <= MAX_DATA_SIZE:
            raise RemoteProtocolError(
                f"data frame has {size} bytes, must have 1 to {MAX_DATA_SIZE}"
            )
        if length != 1 + width + size:
            raise RemoteProtocolError(
                f"data frame is {length} bytes long but states {size} bytes of data"
            )
        self._drop(_LENGTH_SIZE + 1 + width)
        self._payload_left = size
        return True

    def _take_payload(self) -> memoryview | None:
        piece = self._input[: self._payload_left]
        if not piece:
            return None
        self._input = self._input[len(piece) :]
        self._payload_left -= len(piece)
        return piece

    def _peek(self, size: int) -> bytes | None:
        """Give the first `size` unread bytes, or set aside what there is and give `None`."""
        if not self._partial and len(self._input) >= size:
            return bytes(self._input[:size])
        missing = size - len(self._partial)
        if missing > 0:
            self._partial += self._input[:missing]
            self._input = self._input[missing:]
        return bytes(self._partial[:size]) if len(self._partial) >= size else None

    def _drop(self, size: int) -> None:
        """Drop the `size` bytes that the last `_peek` gave."""
        if self._partial:
            self._partial.clear()
        else:
            self._input = self._input[size:]
