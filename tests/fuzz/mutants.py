"""Random changes to valid streams: of bytes, of CBOR heads, of values, and of whole frames.

Everything random comes out of the generator that is passed, so one seed gives one sequence.
"""

import random
from collections.abc import Sequence
from typing import Final

import cbor2

from dataplane_protocol._codec import _BUILT_IN_TAGS

_LENGTH_SIZE: Final = 4
_MAX_LENGTH: Final = 1_048_581

#: More than any list of the contract may have.
_MANY: Final = 130

#: Bytes that mean something: heads at the edges of their kinds, breaks, tags, simple values.
_HEADS: Final = bytes.fromhex(
    "00171818191a1b1c1f20373838393b4057585859595a5b5f60777878797a7b7f80979899"
    "9a9b9fa0b7b8b9babbbfc0c1c2c4d7d8d9dbe0f3f4f5f6f7f8f9fafbff"
)

#: Values that are at the edge of what a field takes, and some that no sender may send.
_VALUES: Final[Sequence[object]] = (
    *(0, 1, -1, 23, 24, 128, 129, 2**53 - 1, 2**53, 2**64 - 1, -(2**64)),
    *(1.5, float("nan"), True, False, None, cbor2.undefined, cbor2.CBORSimpleValue(16)),
    *("", "stream", "fd", "blake3:" + "0" * 64, "sha256:" + "f" * 64, "md5:00", "blake3:0", "x\0"),
    *(b"", b"\xff", [], {}, [[]], {"offset": 0, "length": 1}, {"offset": 2**53 - 1}, ["serve_fd"]),
    *("protocol", "cancelled", "serve_fd", "ingest_fd", "not_found"),
    *(253402300799999, 253402300800000),
)

_KEYS: Final = (
    *("hello", "op", "ok", "error", "end", "body", "args", "accept_fd", "trace", "version"),
    *("features", "agent", "code", "message", "retry", "details", "size_bytes", "digest"),
    *("content_address", "content_addresses", "byte_range", "offset", "length", "backend_id"),
    *("after", "limit", "if_generation", "size_hint", "primary_algorithm", "x"),
)


def frames_of(stream: bytes) -> list[bytes]:
    """Cut a stream where its lengths say, as far as they make sense; the rest is one more."""
    frames: list[bytes] = []
    position = 0
    while position + _LENGTH_SIZE <= len(stream):
        length = int.from_bytes(stream[position : position + _LENGTH_SIZE], "big")
        following = position + _LENGTH_SIZE + length
        if not length or following > len(stream):
            break
        frames.append(stream[position:following])
        position = following
    if position < len(stream):
        frames.append(stream[position:])
    return frames


def frame(item: bytes) -> bytes:
    """Put the length before an item."""
    return len(item).to_bytes(_LENGTH_SIZE, "big") + item


def mutate_stream(stream: bytes, rng: random.Random, vocabulary: Sequence[bytes]) -> bytes:
    """Change a stream of frames in one to three places.

    Args:
        stream: What a peer sends, length prefixes included.
        rng: Where chance comes from.
        vocabulary: Frames to put in; also what items are spliced with.
    """
    frames = frames_of(stream)
    for _ in range(1 + (rng.random() < 0.4) + (rng.random() < 0.2)):
        _change_frames(frames, rng, vocabulary)
    return b"".join(frames)


def mutate_item(item: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Change one item: its value half of the time, its bytes otherwise."""
    if rng.random() < 0.5:
        return mutate_value(item, rng)
    return mutate_bytes(item, rng, others)


def mutate_bytes(item: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Flip, insert, delete, copy or splice bytes, or put another head in place of one."""
    data = bytearray(item or b"\0")
    for _ in range(1 + (rng.random() < 0.3)):
        at = int(rng.random() * len(data))
        way = int(rng.random() * 7)
        if way == 0:
            data[at] ^= 1 << int(rng.random() * 8)
        elif way == 1:
            data[at] = _HEADS[int(rng.random() * len(_HEADS))]
        elif way == 2:
            data[at:at] = bytes([int(rng.random() * 256)])
        elif way == 3:
            del data[at : at + 1 + int(rng.random() * 4)]
        elif way == 4:
            data[at:at] = data[at : at + 1 + int(rng.random() * 16)]
        elif way == 5:
            other = others[int(rng.random() * len(others))]
            data[at:] = other[int(rng.random() * len(other)) :]
        else:
            _lengthen_head(data, at, rng)
        if not data:
            return b"\0"
    return bytes(data)


def mutate_value(item: bytes, rng: random.Random) -> bytes:
    """Decode, change one value or key, and encode; bytes that do not decode stay as they are."""
    try:
        value = cbor2.loads(item, tag_hook=_refuse, semantic_decoders=_REFUSED, max_depth=12)
        places = _places(value)
        if places:
            holder, key = places[int(rng.random() * len(places))]
            _change_value(holder, key, rng, is_small=len(item) < _MANY)
        return cbor2.dumps(value, canonical=True)
    except (cbor2.CBORError, ValueError, TypeError):
        return item


def _change_frames(frames: list[bytes], rng: random.Random, vocabulary: Sequence[bytes]) -> None:
    if not frames:
        frames.append(rng.choice(vocabulary))
        return
    at = int(rng.random() * len(frames))
    way = int(rng.random() * 16)
    if way < 7:
        frames[at] = frame(mutate_item(frames[at][_LENGTH_SIZE:], rng, vocabulary))
    elif way < 10:
        frames.insert(at + (rng.random() < 0.5), rng.choice(vocabulary))
    elif way == 10:
        frames.insert(at, frames[int(rng.random() * len(frames))])
    elif way == 11:
        del frames[at]
    elif way == 12:
        other = int(rng.random() * len(frames))
        frames[at], frames[other] = frames[other], frames[at]
    elif way == 13:
        # Without a new length: prefix and head disagree from here on.
        frames[at] = mutate_bytes(frames[at], rng, vocabulary)
    elif way == 14:
        frames[at] = frames[at][: int(rng.random() * len(frames[at]))]
    else:
        size = rng.choice((0, 1, 23, 24, 255, 256, 65_535, 65_536, _MAX_LENGTH, _MAX_LENGTH + 1))
        frames[at] = size.to_bytes(_LENGTH_SIZE, "big") + frames[at][_LENGTH_SIZE:]


def _lengthen_head(data: bytearray, at: int, rng: random.Random) -> None:
    """Spell what may be a head in a longer form."""
    major_type, information = data[at] & 0xE0, data[at] & 0x1F
    if information < 24:
        width = rng.choice((1, 2, 4, 8))
        head = major_type | {1: 24, 2: 25, 4: 26, 8: 27}[width]
        data[at : at + 1] = bytes([head]) + information.to_bytes(width, "big")
    else:
        data[at] = major_type | rng.choice((24, 25, 26, 27, 28, 31))


def _places(value: object) -> list[tuple[object, object]]:
    places: list[tuple[object, object]] = []
    level = [value]
    while level:
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                places += [(each, key) for key in each]
                inner += each.values()
            elif isinstance(each, list):
                places += [(each, index) for index in range(len(each))]
                inner += each
        level = inner
    return places


def _change_value(holder: object, key: object, rng: random.Random, *, is_small: bool) -> None:
    way = int(rng.random() * 6)
    if way < 3 or (way == 4 and not is_small):
        holder[key] = _VALUES[int(rng.random() * len(_VALUES))]
    elif way == 3:
        del holder[key]
    elif way == 4:
        holder[key] = rng.choice(([holder[key]], {"x": holder[key]}, [holder[key]] * _MANY))
    elif isinstance(holder, dict):
        holder[rng.choice(_KEYS)] = holder[key]
    else:
        holder.append(holder[key])


def _refuse(*_: object) -> object:
    raise ValueError("tags are left alone: a list that holds itself has no end")


_REFUSED: Final = dict.fromkeys(_BUILT_IN_TAGS, _refuse)
