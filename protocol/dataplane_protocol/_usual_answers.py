"""The answers of the calls that `_usual.py` reads, as whole frames.

Each gives the very bytes that a `Connection` would, whose codec takes any map, and longer.
"""

import struct
from collections.abc import Sequence
from typing import Final

from ._frames import Buffer, data_head
from ._limits import DATA_SIZE

_SERVED: Final = b"\xa2bok\xa3flength"
_STREAM: Final = b"dbodyfstream"


def usual_object_entry(
    *,
    blake3: str,
    sha256: str,
    size: int,
    generation: int,
    stored_at_ms: int,
    verified_at_ms: int,
    is_quarantined: bool,
) -> bytes:
    """Give the item that describes an object; the digests are 64 hexadecimal digits."""
    return (
        (b"\xa7estatekquarantinedjgeneration" if is_quarantined else b"\xa6jgeneration")
        + _head(0, generation)
        + b"jsize_bytes"
        + _head(0, size)
        + b"lstored_at_ms"
        + _head(0, stored_at_ms)
        + b"msha256_digestxGsha256:"
        + sha256.encode()
        + b"nverified_at_ms"
        + _head(0, verified_at_ms)
        + b"ocontent_addressxGblake3:"
        + blake3.encode()
    )


def usual_stat_answer(entries: Sequence[bytes]) -> bytes:
    """Answer a `stat_objects` with the objects that are present, at most `MAX_BATCH`."""
    return _frame(b"\xa1bok\xa1gobjects" + _head(0x80, len(entries)) + b"".join(entries))


def usual_serve_answer(
    size: int, offset: int, content: bytes | memoryview, address: str | None
) -> list[Buffer]:
    """Answer a `serve_object` with all of its body.

    Args:
        size: Bytes of the whole object.
        offset: Where in it the body starts.
        content: The body.
        address: The digest of the body, 71 bytes of text, if its end is to state one.
    """
    length = _head(0, len(content))
    answer = _SERVED + length + b"foffset" + _head(0, offset) + b"jsize_bytes" + _head(0, size)
    frames: list[Buffer] = [_frame(answer + _STREAM)]
    for start in range(0, len(content), DATA_SIZE):
        piece = content[start : start + DATA_SIZE]
        frames += (data_head(len(piece)), piece)
    stated = b"\xa1" if address is None else b"\xa2fdigestxG" + address.encode()
    frames.append(_frame(b"\xa1cend" + stated + b"jsize_bytes" + length))
    return frames


def usual_ingest_answer(
    *,
    primary: str,
    sha256: str,
    size: int,
    backend_id: str,
    outcome: str,
    generation: int,
    stored_at_ms: int,
) -> bytes:
    """Answer an `ingest_stream`; `primary` and `sha256` are digests, 71 bytes of text."""
    return _frame(
        b"\xa1bok\xa4greceipt\xa4goutcome"
        + _text(outcome)
        + b"jbackend_id"
        + _text(backend_id)
        + b"jgeneration"
        + _head(0, generation)
        + b"lstored_at_ms"
        + _head(0, stored_at_ms)
        + b"jsize_bytes"
        + _head(0, size)
        + b"msha256_digestxG"
        + sha256.encode()
        + b"nprimary_digestxG"
        + primary.encode()
    )


def usual_delete_answer(address: str, backend_id: str, *, deleted: bool) -> bytes:
    """Answer a `delete_object` of an address of 71 bytes."""
    return _frame(
        b"\xa1bok\xa3gdeleted"
        + (b"\xf5" if deleted else b"\xf4")
        + b"jbackend_id"
        + _text(backend_id)
        + b"ocontent_addressxG"
        + address.encode()
    )


def _frame(item: bytes) -> bytes:
    return len(item).to_bytes(4, "big") + item


def _text(text: str) -> bytes:
    item = text.encode()
    return _head(0x60, len(item)) + item


def _head(major: int, value: int) -> bytes:
    """Give the shortest head of an item (RFC 8949 section 3)."""
    if value < 24:
        return bytes((major + value,))
    if value < 0x100:
        return bytes((major + 24, value))
    if value < 0x10000:
        return struct.pack(">BH", major + 25, value)
    if value < 0x100000000:
        return struct.pack(">BI", major + 26, value)
    return struct.pack(">BQ", major + 27, value)
