"""CBOR as `SPEC.md` 3 has it, both ways and strictly.

The decoder allows what a sender may send and nothing else. A long head or an unsorted map is
well-formed all the same, so it is found by encoding the value again and comparing.
"""

from collections.abc import Mapping, Sequence
from typing import Final, cast

MAX_DEPTH: Final = 8
MAX_INTEGER: Final = 2**53 - 1

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(7)
_SIMPLE: Final[Mapping[int, object]] = {20: False, 21: True, 22: None}


class CborError(ValueError):
    """Bytes that are not one item within the profile."""


def encode(value: object) -> bytes:
    """Encode deterministically: shortest heads, definite lengths, sorted keys.

    Raises:
        TypeError: The value is not of the profile.
    """
    if value is None or isinstance(value, bool):
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
    if isinstance(value, int):
        return head(_UNSIGNED, value) if value >= 0 else head(_NEGATIVE, -1 - value)
    if isinstance(value, bytes):
        return head(_BYTES, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return head(_TEXT, len(text)) + text
    if isinstance(value, list | tuple):
        items = cast("Sequence[object]", value)
        return head(_ARRAY, len(items)) + b"".join(map(encode, items))
    if isinstance(value, dict):
        entries = cast("Mapping[str, object]", value)
        pairs = sorted((encode(key), encode(item)) for key, item in entries.items())
        return head(_MAP, len(pairs)) + b"".join(key + item for key, item in pairs)
    raise TypeError(f"{type(value).__name__} is not of the profile")


def head(major_type: int, argument: int) -> bytes:
    """Give the shortest head."""
    first = major_type << 5
    if argument < 24:
        return bytes([first + argument])
    for information, width in ((24, 1), (25, 2), (26, 4)):
        if argument < 1 << (8 * width):
            return bytes([first + information]) + argument.to_bytes(width, "big")
    return bytes([first + 27]) + argument.to_bytes(8, "big")


def decode(item: bytes) -> object:
    """Decode exactly one item.

    Raises:
        CborError: A sender must not send these bytes.
    """
    reader = _Reader(item)
    value = reader.value(MAX_DEPTH)
    if reader.left:
        raise CborError(f"{reader.left} bytes after the item")
    if encode(value) != item:
        raise CborError("not in deterministic encoding: a longer head, or keys out of order")
    return value


class _Reader:
    def __init__(self, item: bytes) -> None:
        self._item = item
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._item) - self._position

    def value(self, depth: int) -> object:
        major_type, argument = self._head()
        if major_type in (_UNSIGNED, _NEGATIVE):
            value = argument if major_type == _UNSIGNED else -1 - argument
            if abs(value) > MAX_INTEGER:
                raise CborError(f"integer {value} is beyond 2^53-1")
            return value
        if major_type == _BYTES:
            return self._take(argument)
        if major_type == _TEXT:
            return self._text(argument)
        if major_type == _TAG:
            raise CborError(f"tag {argument}")
        if major_type not in (_ARRAY, _MAP):
            if argument not in _SIMPLE:
                raise CborError(f"simple value {argument}")
            return _SIMPLE[argument]
        if not depth:
            raise CborError(f"nested deeper than {MAX_DEPTH}")
        if argument > self.left:
            raise CborError("the frame ends inside the item")
        if major_type == _ARRAY:
            return [self.value(depth - 1) for _ in range(argument)]
        return self._map(argument, depth - 1)

    def _map(self, size: int, depth: int) -> dict[str, object]:
        result: dict[str, object] = {}
        for _ in range(size):
            key = self.value(depth)
            if not isinstance(key, str):
                raise CborError("a key that is not text")
            if key in result:
                raise CborError(f"duplicate key {key!r:.60}")
            result[key] = self.value(depth)
        return result

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise CborError("text that is not UTF-8") from None

    def _head(self) -> tuple[int, int]:
        major_type, information = divmod(self._take(1)[0], 32)
        if information < 24:
            return major_type, information
        if information == 31:
            raise CborError("indefinite length")
        if information > 27:
            raise CborError("not well-formed")
        if major_type == 7:
            raise CborError("float or simple value in more than one byte")
        return major_type, int.from_bytes(self._take(1 << (information - 24)), "big")

    def _take(self, size: int) -> bytes:
        if size > self.left:
            raise CborError("the frame ends inside the item")
        start, self._position = self._position, self._position + size
        return self._item[start : self._position]
