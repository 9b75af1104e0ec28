"""Calls of the usual shape, read and answered in one step.

Nearly all requests that a daemon gets are of four shapes, and one deterministic encoding
(`SPEC.md` 3) makes each of them a pattern of bytes. What matches such a pattern is a valid
frame of the half-machines by that alone, and is read many times as fast as by the codec; what
does not match says nothing, and goes to a `Connection`. The answers of these calls are spelled out
in `_usual_answers.py`. Nothing in here is another contract: the tests hold both ways against
each other.

Only whole calls are read here, request and body, on a connection that is `is_reusable`: they
leave it as they found it.
"""

import re
import struct
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeAlias

from ._frames import data_head
from ._limits import DATA_SIZE, MAX_INTEGER


class UsualStat(NamedTuple):
    """`stat_objects`. Addresses are text, as they came."""

    addresses: tuple[str, ...]
    backend_id: str | None


class UsualServe(NamedTuple):
    """`serve_object`; `byte_range` is inclusive, as in `ServeArguments`."""

    address: str
    byte_range: tuple[int, int] | None
    backend_id: str | None
    accept_fd: bool


class UsualIngest(NamedTuple):
    """`ingest_stream` with the whole body, in one frame; `digest` is what its end states."""

    content: bytes
    digest: str | None
    primary_algorithm: str | None
    backend_id: str | None
    size_hint: int | None


class UsualDelete(NamedTuple):
    """`delete_object`."""

    address: str
    backend_id: str | None
    if_generation: int | None


UsualCall: TypeAlias = UsualStat | UsualServe | UsualIngest | UsualDelete

# Pieces of patterns: a text's head is its length plus 0x60, or 0x78 and its length; every
# address of this version is 71 bytes. Short texts are matched as few bytes as fit, and their
# length is compared afterwards.
_UINT: Final = rb"([\x00-\x17]|\x18.|\x19..|\x1a....|\x1b\x00.{7})"
_ADDRESS: Final = rb"xG((?:blake3|sha256):[0-9a-f]{64})"
_BACKEND: Final = rb"(?:jbackend_id([\x61-\x77][!-~]{1,23}?))?"


def _pattern(*parts: bytes) -> re.Pattern[bytes]:
    return re.compile(b"".join(parts), re.DOTALL)


_STAT: Final = _pattern(
    rb"\xa2boplstat_objectsdargs([\xa1\xa2])",
    _BACKEND,
    rb"qcontent_addresses([\x81-\x97]|\x98[\x18-\x80])",
    rb"((?:xG(?:blake3|sha256):[0-9a-f]{64}){1,128})",
)
_SERVE: Final = _pattern(
    rb"([\xa2\xa3])boplserve_objectdargs([\xa1-\xa3])",
    _BACKEND,
    rb"(?:jbyte_range(?:\xa1|\xa2flength" + _UINT + rb")foffset" + _UINT + rb")?",
    rb"ocontent_address" + _ADDRESS,
    rb"(iaccept_fd\xf5)?",
)
_INGEST: Final = _pattern(
    rb"\xa3bopmingest_streamdargs([\xa0-\xa3])",
    rb"(?:isize_hint" + _UINT + rb")?",
    _BACKEND,
    rb"(?:qprimary_algorithmf(blake3|sha256))?",
    rb"dbodyfstream",
)
_DELETE: Final = _pattern(
    rb"\xa2bopmdelete_objectdargs([\xa1-\xa3])",
    _BACKEND,
    rb"(?:mif_generation" + _UINT + rb")?",
    rb"ocontent_address" + _ADDRESS,
)
_END: Final = _pattern(
    rb"\xa1cend([\xa1\xa2])(?:fdigest" + _ADDRESS + rb")?jsize_bytes" + _UINT,
)

#: Where the first letters of the operation are in a frame.
_LETTERS: Final = slice(9, 11)
_LENGTH_SIZE: Final = 4
_ADDRESS_SIZE: Final = 71

#: For each head of an integer: how its bytes are read, and the least that needs so many.
_WIDE: Final = {0x18: (">B", 24), 0x19: (">H", 256), 0x1A: (">I", 65_536), 0x1B: (">Q", 2**32)}


class _OddShapeError(Exception):
    """It looked like a usual call and is none."""


def read_usual(data: bytes) -> UsualCall | None:
    """Read bytes that are one whole call of a usual shape, and nothing after it.

    Returns:
        The call; `None` when the bytes are anything else, a violation perhaps.
    """
    read = _READERS.get(data[_LETTERS])
    if read is None:
        return None
    try:
        return read(data)
    except _OddShapeError:
        return None


def _read_stat(data: bytes) -> UsualStat:
    count, backend, head, addresses = _whole(_STAT, data)
    size = head[0] - 0x80 if len(head) == 1 else head[1]
    texts = addresses.decode()
    step = _ADDRESS_SIZE + 2
    if size * step != len(texts) or count[0] != 0xA1 + bool(backend):
        raise _OddShapeError
    found = tuple(texts[start : start + step][2:] for start in range(0, len(texts), step))
    return UsualStat(found, _text(backend))


def _read_serve(data: bytes) -> UsualServe:
    outer, count, backend, length, offset, address, accept_fd = _whole(_SERVE, data)
    arguments = 0xA1 + bool(backend) + bool(offset)
    if outer[0] != 0xA2 + bool(accept_fd) or count[0] != arguments:
        raise _OddShapeError
    byte_range = None
    if offset:
        first = _integer(offset)
        last = first + _integer(length) - 1 if length else MAX_INTEGER
        if last < first:
            raise _OddShapeError
        byte_range = (first, last)
    return UsualServe(address.decode(), byte_range, _text(backend), bool(accept_fd))


def _read_delete(data: bytes) -> UsualDelete:
    count, backend, generation, address = _whole(_DELETE, data)
    if count[0] != 0xA1 + bool(backend) + bool(generation):
        raise _OddShapeError
    if_generation = _integer(generation) if generation else None
    return UsualDelete(address.decode(), _text(backend), if_generation)


def _read_ingest(data: bytes) -> UsualIngest:
    start, (count, hint, backend, algorithm) = _frame(_INGEST, data, 0)
    if count[0] != 0xA0 + sum(map(bool, (hint, backend, algorithm))):
        raise _OddShapeError
    start, size = _read_data_head(data, start)
    content = data[start : start + size]
    end, (count, digest, stated) = _frame(_END, data, start + size)
    if end != len(data) or count[0] != 0xA1 + bool(digest) or _integer(stated) != size:
        raise _OddShapeError
    return UsualIngest(
        content,
        digest.decode() or None,
        algorithm.decode() or None,
        _text(backend),
        _integer(hint) if hint else None,
    )


_READERS: Final[Mapping[bytes, Callable[[bytes], UsualCall]]] = {
    b"st": _read_stat,
    b"se": _read_serve,
    b"in": _read_ingest,
    b"de": _read_delete,
}


def _whole(pattern: re.Pattern[bytes], data: bytes) -> tuple[bytes, ...]:
    """Match a frame that is all there is."""
    end, groups = _frame(pattern, data, 0)
    if end != len(data):
        raise _OddShapeError
    return groups


def _frame(pattern: re.Pattern[bytes], data: bytes, start: int) -> tuple[int, tuple[bytes, ...]]:
    """Match one control frame; where it ends, and the groups, those that are absent empty."""
    item = start + _LENGTH_SIZE
    end = item + int.from_bytes(data[start:item], "big")
    match = pattern.fullmatch(data, item, end) if end <= len(data) else None
    if match is None:
        raise _OddShapeError
    return end, match.groups(b"")


def _read_data_head(data: bytes, start: int) -> tuple[int, int]:
    """Give where the payload of a data frame starts, and its size."""
    size = int.from_bytes(data[start : start + _LENGTH_SIZE], "big")
    # The head takes 1 to 5 bytes, and says the same in another way.
    for width in (1, 2, 3, 5):
        payload = size - width
        if 1 <= payload <= DATA_SIZE:
            head = data_head(payload)
            if data[start : start + len(head)] == head:
                return start + len(head), payload
    raise _OddShapeError


def _integer(item: bytes) -> int:
    if len(item) == 1:
        return item[0]
    form, least = _WIDE[item[0]]
    (value,) = struct.unpack(form, item[1:])
    if not least <= value <= MAX_INTEGER:
        raise _OddShapeError
    return int(value)


def _text(item: bytes) -> str | None:
    if not item:
        return None
    if item[0] - 0x60 != len(item) - 1:
        raise _OddShapeError
    return item[1:].decode()
