"""Frames: a 4-byte length and one item, cut out of a stream of bytes (`SPEC.md` 2)."""

from collections.abc import Mapping
from typing import Final, TypeAlias, cast

from .cbor import CborError, decode, encode, head

MAX_CONTROL_SIZE: Final = 65_536
MAX_DATA_SIZE: Final = 1_048_576
MAX_LENGTH: Final = MAX_DATA_SIZE + 5

KINDS: Final = ("hello", "op", "ok", "error", "end")

Control: TypeAlias = dict[str, object]

#: A control frame, or the payload of a data frame.
Frame: TypeAlias = Control | bytes


class FrameError(ValueError):
    """What arrived is no frame that a sender may send."""


def control_frame(control: Mapping[str, object]) -> bytes:
    """Encode a whole control frame."""
    return frame(encode(control))


def data_frame(payload: bytes) -> bytes:
    """Encode a whole data frame."""
    return frame(head(2, len(payload)) + payload)


def frame(item: bytes) -> bytes:
    """Put the length before an item, whatever it is."""
    return len(item).to_bytes(4, "big") + item


def kind_of(control: Control) -> str:
    """Give the key that names the kind of a control frame.

    Raises:
        FrameError: It has none of them, or several.
    """
    kinds = [kind for kind in KINDS if kind in control]
    if len(kinds) != 1:
        raise FrameError(f"a control frame with {len(kinds)} of the keys {', '.join(KINDS)}")
    return kinds[0]


class FrameReader:
    """Whole frames out of bytes that arrive in any pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes that arrived and belong to no frame that was taken."""
        return len(self._buffer)

    def receive(self, data: bytes) -> None:
        """Take bytes that arrived."""
        self._buffer += data

    def next(self) -> Frame | None:
        """Give the next frame, or `None` when more bytes are needed.

        Raises:
            FrameError: What is there is against section 2 or 3, found as early as a receiver
                has to find it.
        """
        buffer = self._buffer
        if len(buffer) < 4:
            return None
        length = int.from_bytes(buffer[:4], "big")
        if not 1 <= length <= MAX_LENGTH:
            raise FrameError(f"a frame of {length} bytes, limit is {MAX_LENGTH}")
        if len(buffer) < 5:
            return None
        major_type = buffer[4] >> 5
        if major_type not in (2, 5):
            raise FrameError(f"a frame of CBOR major type {major_type}")
        if major_type == 5 and length > MAX_CONTROL_SIZE:
            raise FrameError(f"a control frame of {length} bytes, limit is {MAX_CONTROL_SIZE}")
        if len(buffer) < 4 + length:
            return None
        item = bytes(buffer[4 : 4 + length])
        del buffer[: 4 + length]
        return _control(item) if major_type == 5 else _payload(item)


def _control(item: bytes) -> Control:
    try:
        return cast("Control", decode(item))
    except CborError as exc:
        raise FrameError(f"a control frame that is not as it must be sent: {exc}") from None


def _payload(item: bytes) -> bytes:
    for size in (1, 2, 3, 5):
        payload = item[size:]
        if item[:size] == head(2, len(payload)):
            if not 1 <= len(payload) <= MAX_DATA_SIZE:
                raise FrameError(f"a data frame with {len(payload)} bytes of payload")
            return payload
    raise FrameError(f"a data frame with the head {item[:9].hex()} and {len(item)} bytes")
