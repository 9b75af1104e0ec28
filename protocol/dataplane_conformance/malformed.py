"""Encodings of a proper control frame that a receiver must refuse, each with one fault only.

Whoever overlooks the fault finds a frame that is good in every other way, and so shows it.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from .cbor import encode
from .frames import frame

#: Longer than every other key, so that it comes last.
_KEY: Final = encode("zzzzzzzzzzzzzzzzzzzz")

#: Items that may not stand anywhere, not even under a key that is ignored.
_VALUES: Final[Mapping[str, str]] = {
    "a time": "c100",
    "a big number": "c249010000000000000000",
    "a regular expression": "d8236161",
    "a shared reference to itself": "d81c81d81d00",
    "an unknown tag": "d9fffe00",
    "the tag that describes itself": "d9d9f700",
    "a byte string of indefinite length": "5f4161ff",
    "a text of indefinite length": "7f6161ff",
    "an array of indefinite length": "9f00ff",
    "a map of indefinite length": "bf616100ff",
    "an integer as key": "a10000",
    "a byte string as key": "a1416100",
    "true as key": "a1f500",
    "an array as key": "a18000",
    "a map as key": "a1a000",
    "the same key twice": "a2616100616101",
    "a byte that is not UTF-8": "61ff",
    "a surrogate": "63eda080",
    "an overlong character": "62c080",
    "a character beyond Unicode": "64f4908080",
    "a reserved head": "1c",
    "a break": "ff",
    "a small simple value in two bytes": "f818",
    "a text that is cut off": "6261",
    "an array that is cut off": "8201",
    "9 containers within each other": "818181818181818101",
    "9 containers within each other, the last one empty": "8181818181818180",
    "9 maps within each other": "a16161" * 7 + "a0",
}


def malformed(control: Mapping[str, object]) -> Iterator[tuple[str, bytes]]:
    """Give each fault in words, and a whole frame that has it."""
    good = encode(control)
    for name, value in _VALUES.items():
        yield name, frame(_with(good, bytes.fromhex(value)))
    yield "a byte behind the item", frame(good + b"\0")
    yield "the item twice", frame(good + good)
    yield "a map of indefinite length around it", frame(b"\xbf" + good[1:] + b"\xff")
    yield "a tag before it", frame(b"\xd9\xd9\xf7" + good)
    yield "the same key twice in it", frame(_with(_with(good, b"\xf4"), b"\xf4"))
    yield "two kinds", frame(encode({**control, **_other_kind(control)}))


def _with(item: bytes, value: bytes) -> bytes:
    """Add an entry to a map of few entries."""
    return bytes([item[0] + 1]) + item[1:] + _KEY + value


def _other_kind(control: Mapping[str, object]) -> Mapping[str, object]:
    if "error" in control:
        return {"end": {"size_bytes": 0}}
    return {"error": {"code": "internal", "message": ""}}
