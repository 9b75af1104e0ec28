"""The decoder of control frames alone, beside the conformance kit's own."""

from typing import Final

from dataplane_conformance import cbor
from dataplane_protocol import (
    MAX_CONTROL_SIZE,
    MAX_DEPTH,
    MAX_INTEGER,
    LocalProtocolError,
    RemoteProtocolError,
    message_from_wire,
)
from dataplane_protocol._codec import decode_control, encode_control

_LEAVES: Final = (str, bool, int, bytes)


def check(data: bytes) -> None:
    """Decode one item of at most `MAX_CONTROL_SIZE` bytes with both decoders.

    Raises:
        Exception: A promise of the protocol package does not hold, or the two do not agree.
    """
    item = data[:MAX_CONTROL_SIZE]
    compare(item)
    try:
        message = message_from_wire(decode_control(item))
    except RemoteProtocolError:
        return
    again = message_from_wire(message.to_wire())
    assert again == message


def compare(item: bytes) -> str:
    """Decode one item with both decoders, and say what they made of it.

    Returns:
        `accepted`, `refused`, or `lenient`: accepted where `SPEC.md` 3 leaves it to the
        receiver, and refused by the kit, which does not.
    """
    expected = _by_the_kit(item)
    try:
        value = decode_control(item)
    except RemoteProtocolError:
        if expected is not None:
            raise AssertionError("refused what a sender may send") from None
        return "refused"
    if _is_within_profile(value, len(item)):
        assert expected is not None, "accepted what a sender must not send"
        # The same spelling by one encoder: 1, 1.0 and true are equal and not the same.
        assert cbor.encode(value) == cbor.encode(expected) == item
        assert encode_control(value) == item
        return "accepted"
    assert expected is None
    try:
        encode_control(value)
    except LocalProtocolError:
        return "lenient"
    raise AssertionError("encoded what a sender must not send")


def _by_the_kit(item: bytes) -> dict[str, object] | None:
    try:
        value = cbor.decode(item)
    except cbor.CborError:
        return None
    return value if isinstance(value, dict) else None


def _is_within_profile(value: object, size: int) -> bool:
    """See that a decoded value is bounded; give whether a sender may send it.

    Floats, other simple values and integers beyond 2^53-1 are the only ones that a receiver
    may take all the same.
    """
    is_within = True
    items = 0
    level = [value]
    depth = 0
    while level:
        items += len(level)
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                assert all(type(key) is str for key in each)
                items += len(each)
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif type(each) is int:
                assert -(2**64) <= each < 2**64
                is_within &= abs(each) <= MAX_INTEGER
            elif each is not None and not isinstance(each, _LEAVES):
                assert type(each).__name__ in ("float", "CBORSimpleValue", "UndefinedType"), each
                is_within = False
        depth += any(isinstance(each, dict | list) for each in level)
        level = inner
    assert items <= size
    assert depth <= MAX_DEPTH
    return is_within
