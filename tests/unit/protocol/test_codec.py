import re
import tracemalloc
from datetime import UTC, datetime

import cbor2
import pytest
from hypothesis import given, settings, strategies as st

from dataplane_protocol import (
    MAX_CONTROL_SIZE,
    MAX_DEPTH,
    MAX_INTEGER,
    LocalProtocolError,
    RemoteProtocolError,
)
from dataplane_protocol._codec import _BUILT_IN_TAGS, decode_control, encode_control

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.text(max_size=30)
    | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
MAPS = st.dictionaries(st.text(max_size=3), VALUES, max_size=4)


def depth(value):
    if isinstance(value, dict):
        value = list(value.values())
    elif not isinstance(value, list):
        return 0
    return 1 + max(map(depth, value), default=0)


@settings(max_examples=30)
@given(MAPS)
def test_what_is_encoded_decodes_to_the_same(value):
    if depth(value) > MAX_DEPTH:
        with pytest.raises(LocalProtocolError, match="deeper than 8"):
            encode_control(value)
        return
    item = encode_control(value)
    assert decode_control(item) == value
    assert encode_control(decode_control(item)) == item


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda rest: b"\xa1\x62ok" + rest))
def test_any_bytes_decode_to_a_map_or_are_refused(item):
    try:
        value = decode_control(item)
    except RemoteProtocolError:
        return
    assert cbor2.dumps(value, canonical=True) == item


@settings(max_examples=30)
@given(MAPS, st.data())
def test_a_changed_byte_decodes_to_another_value_or_is_refused(value, data):
    item = bytearray(encode_control(value))
    position = data.draw(st.integers(0, len(item) - 1))
    item[position] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode_control(bytes(item))
    except RemoteProtocolError:
        return
    assert cbor2.dumps(changed, canonical=True) == bytes(item)


def test_keys_are_sorted_by_length_and_then_by_bytes():
    item = encode_control({"b": 0, "aa": 0, "a": 0, "": 0, "é": 0})
    assert item == bytes.fromhex("a5600061610061620062616100") + b"\x62\xc3\xa9\x00"


ADVERSARIAL = {
    "nothing": "",
    "no map": "01",
    "an array": "80",
    "a text": "6161",
    "null": "f6",
    "a byte string": "4161",
    "a float": "f93c00",
    "trailing byte": "a000",
    "second item": "a0a0",
    "cut off": "a16161",
    "cut off text": "a1616162",
    "long head of a map": "b800",
    "long head of a text": "a178016100",
    "long head of an integer": "a161611800",
    "long integer": "a161611b0000000000000001",
    "long float": "a16161fb3ff0000000000000",
    "keys out of order": "a2616200616100",
    "duplicate key": "a2616100616101",
    "duplicate key inside": "a16161a2616100616101",
    "indefinite map": "bfff",
    "indefinite array": "a161619fff",
    "indefinite text": "a161617f6161ff",
    "indefinite bytes": "a161615f4161ff",
    "break": "a16161ff",
    "reserved head": "a161611c",
    "reserved simple value": "a16161f818",
    "integer key": "a10000",
    "byte string key": "a1416100",
    "mixed keys": "a2414100614100",
    "null key": "a1f600",
    "boolean key": "a1f500",
    "float key": "a1f93c0000",
    "array key": "a18000",
    "map key": "a1a000",
    "key that is not text inside": "a16161a1416100",
    "invalid UTF-8": "a1616161ff",
    "invalid UTF-8 in a key": "a161ff00",
    "lone surrogate": "a1616163eda080",
    "overlong UTF-8": "a1616162c080",
    "deep array": "a16161" + "81" * MAX_DEPTH + "00",
    "very deep array": "a16161" + "81" * 60_000 + "00",
    "deep map": "a16161" * (MAX_DEPTH + 1) + "00",
    "array of 2^64-1": "a161619bffffffffffffffff",
    "array of 2^40": "a161619b0000010000000000",
    "text of 2^62": "a161617b4000000000000000",
    "map of 2^32": "ba ffffffff",
    "unknown tag": "a16161d9fffe00",
    "shared list that holds itself": "a16161d81c81d81d00",
    "regular expression": "a16161d823635b612d",
    "big number": "a16161c24101",
}


@pytest.mark.parametrize("item", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_what_a_profile_forbids_is_refused(item):
    with pytest.raises(RemoteProtocolError):
        decode_control(bytes.fromhex(item))


@pytest.mark.parametrize("content", ["00", "6161", "80", "a0", "4101", "f6", "8200006161"])
@pytest.mark.parametrize("tag", [*_BUILT_IN_TAGS, 6, 24, 31, 99, 65_534, 2**32])
def test_no_tag_is_decoded_whatever_it_holds(tag, content):
    item = b"\xa1\x61a" + cbor2.dumps(cbor2.CBORTag(tag, None))[:-1] + bytes.fromhex(content)
    with pytest.raises(RemoteProtocolError):
        decode_control(item)


def test_a_tag_at_the_top_is_refused():
    with pytest.raises(RemoteProtocolError, match="tags are not allowed"):
        decode_control(bytes.fromhex("d9d9f7a0"))


def test_every_tag_that_the_library_decodes_by_itself_is_known_to_us():
    # A tag that a new version of cbor2 learns must be added, or it escapes the hook.
    for tag in range(70_000):
        try:
            value = cbor2.loads(cbor2.dumps(cbor2.CBORTag(tag, b"\x01")))
        except cbor2.CBORError:
            assert tag in _BUILT_IN_TAGS
        else:
            assert isinstance(value, cbor2.CBORTag) or tag in _BUILT_IN_TAGS


def test_shared_references_are_refused_before_they_grow():
    # Each level of the inner list refers to the one before it twice: 2^30 leaves.
    levels = b"\xd8\x1c\x82\x00\x00" + b"".join(
        b"\xd8\x1c\x82" + 2 * (b"\xd8\x1d" + cbor2.dumps(level)) for level in range(30)
    )
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="tags are not allowed"):
            decode_control(b"\xa1\x61a\x98\x1f" + levels)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_announced_lengths_set_no_memory_aside():
    tracemalloc.start()
    try:
        for head in (b"\x9b", b"\x7b", b"\xbb", b"\x5b"):
            with pytest.raises(RemoteProtocolError):
                decode_control(b"\xa1\x61a" + head + (2**40).to_bytes(8, "big"))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_depth_counts_the_outermost_map():
    assert decode_control(bytes.fromhex("a16161" + "81" * (MAX_DEPTH - 1) + "00"))
    with pytest.raises(RemoteProtocolError, match=re.escape(f"({MAX_DEPTH})")):
        decode_control(bytes.fromhex("a16161" + "81" * MAX_DEPTH + "00"))


@pytest.mark.parametrize("empty", ["80", "a0"])
def test_depth_counts_an_empty_container(empty):
    # cbor2 counts a container when it reads the first item inside.
    innermost = bytes.fromhex(empty)
    assert decode_control(b"\xa1\x61a" + b"\x81" * (MAX_DEPTH - 2) + innermost)
    with pytest.raises(RemoteProtocolError, match="nested deeper than 8"):
        decode_control(b"\xa1\x61a" + b"\x81" * (MAX_DEPTH - 1) + innermost)


@pytest.mark.parametrize("item", ["f93c00", "f97e00", "f7", "f0", "1bffffffffffffffff"])
def test_what_a_receiver_may_take_is_taken_in_its_shortest_form(item):
    assert list(decode_control(bytes.fromhex("a16161" + item))) == ["a"]


def test_a_reason_names_what_was_wrong_and_is_short():
    with pytest.raises(RemoteProtocolError, match="map keys must be text"):
        decode_control(bytes.fromhex("a1416100"))
    with pytest.raises(RemoteProtocolError) as caught:
        decode_control(b"\xa2" + 2 * (b"\x79\x27\x10" + b"k" * 10_000 + b"\x00"))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "value",
    [
        {"a": object()},
        {"a": "\ud800"},
        {"\ud800": 1},
        {"a": {1: 2}.keys()},
        {1: 2},
        {"a": {b"b": 1}},
        {"a": {1}},
        {"a": datetime(2026, 1, 1, tzinfo=UTC)},
        {"a": MAX_INTEGER + 1},
        {"a": [-MAX_INTEGER - 1]},
        {"a": 1.5},
        {"a": cbor2.undefined},
        {"a": cbor2.CBORSimpleValue(16)},
        {"a": memoryview(b"b")},
    ],
)
def test_what_a_sender_must_not_send_is_our_fault(value):
    with pytest.raises(LocalProtocolError, match="cannot be encoded"):
        encode_control(value)


def test_nesting_is_refused_before_the_library_follows_it():
    # cbor2 6.2.1 runs out of stack at this depth and takes the process with it.
    value: list[object] = []
    for _ in range(200_000):
        value = [value]
    with pytest.raises(LocalProtocolError, match="deeper than 8"):
        encode_control({"a": value})


def test_a_control_frame_has_a_largest_size():
    room = MAX_CONTROL_SIZE - len(encode_control({"a": "x" * 60_000})) + 60_000
    assert len(encode_control({"a": "x" * room})) == MAX_CONTROL_SIZE
    with pytest.raises(LocalProtocolError, match="65537 bytes, limit is 65536"):
        encode_control({"a": "x" * (room + 1)})
