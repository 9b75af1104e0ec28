import itertools

import pytest
from hypothesis import given, strategies as st

from dataplane_protocol import (
    DATA_SIZE,
    MAX_CONTROL_SIZE,
    MAX_DATA_SIZE,
    FrameDecoder,
    LocalProtocolError,
    RemoteProtocolError,
    data_head,
    encode_frame,
    unsent,
)

HELLO = {"hello": {"version": 1, "features": []}}
END = {"end": {"size_bytes": 3}}


def data_frame(payload):
    return data_head(len(payload)) + payload


def events_of(pieces):
    """Give maps and joined payloads, in order, and the error if there was one."""
    decoder = FrameDecoder()
    events = []
    try:
        for piece in pieces:
            decoder.receive(piece)
            while (event := decoder.next()) is not None:
                if isinstance(event, memoryview):
                    assert len(event) > 0
                    if events and isinstance(events[-1], bytes):
                        events[-1] += event
                    else:
                        events.append(bytes(event))
                else:
                    events.append(event)
    except RemoteProtocolError as exc:
        events.append(str(exc))
    else:
        events.append(decoder.is_between_frames)
    return events


def cut(stream, places):
    edges = [0, *sorted(places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


STREAM = b"".join(
    [
        encode_frame(HELLO),
        data_frame(b"abc"),
        encode_frame(END),
        data_frame(b"d" * 24),
        encode_frame(HELLO),
        data_frame(b"e" * 256),
        encode_frame(END),
    ]
)
EVENTS = [HELLO, b"abc", END, b"d" * 24, HELLO, b"e" * 256, END, True]

BAD_STREAMS = [
    STREAM + bytes.fromhex(item)
    for item in (
        "00000000",
        "ffffffff",
        "00100006",
        "0000000101",
        "0000000140",
        "00010001a1",
        "0000000a5a00000004",
        "001000055a00100001",
        "000000045f",
        "000000025c",
        "0000000a5b",
        "000000024241",
        "00000006a1626f6ba000",
        "00000002a1626f",
    )
]


def test_a_stream_is_cut_into_its_frames():
    assert events_of([STREAM]) == EVENTS


def test_every_way_to_split_a_stream_in_two_gives_the_same():
    for place in range(len(STREAM) + 1):
        assert events_of(cut(STREAM, [place])) == EVENTS, place


def test_a_stream_may_arrive_byte_by_byte():
    assert events_of([bytes([byte]) for byte in STREAM]) == EVENTS


@pytest.mark.parametrize("size", range(2, 40))
def test_a_stream_may_arrive_in_pieces_of_any_size(size):
    assert events_of(cut(STREAM, range(size, len(STREAM), size))) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_every_way_to_split_a_stream_gives_the_same(places):
    assert events_of(cut(STREAM, places)) == EVENTS


@pytest.mark.parametrize("stream", BAD_STREAMS, ids=lambda stream: stream[len(STREAM) :].hex())
def test_a_bad_frame_is_refused_in_the_same_words_however_it_is_split(stream):
    refused = events_of([stream])
    assert refused[: len(EVENTS) - 1] == EVENTS[:-1]
    assert isinstance(refused[-1], str)
    for place in range(len(STREAM) - 1, len(stream) + 1):
        assert events_of(cut(stream, [place])) == refused
    assert events_of([bytes([byte]) for byte in stream]) == refused


@given(st.binary(max_size=64), st.lists(st.integers(0, 64), max_size=10))
def test_garbage_gives_the_same_however_it_is_split(garbage, places):
    places = [min(place, len(garbage)) for place in places]
    whole, split = events_of([garbage]), events_of(cut(garbage, places))
    assert whole == split


@pytest.mark.parametrize("cut_off", range(1, 30))
def test_a_frame_that_is_cut_off_is_waited_for(cut_off):
    stream = encode_frame(HELLO)
    decoder = FrameDecoder()
    decoder.receive(stream[:-cut_off] if cut_off < len(stream) else b"\x00")
    assert decoder.next() is None
    assert decoder.next() is None
    assert not decoder.is_between_frames


def test_a_decoder_starts_between_frames():
    decoder = FrameDecoder()
    assert decoder.is_between_frames
    assert decoder.next() is None
    decoder.receive(b"")
    assert decoder.next() is None
    assert decoder.is_between_frames


def test_bytes_that_were_not_taken_are_not_between_frames():
    decoder = FrameDecoder()
    decoder.receive(STREAM)
    assert not decoder.is_between_frames
    assert decoder.next() == HELLO
    assert not decoder.is_between_frames


def test_a_payload_is_handed_out_in_place_as_it_arrives():
    buffer = bytearray(data_frame(b"abcdef")[:-2])
    decoder = FrameDecoder()
    decoder.receive(memoryview(buffer))
    piece = decoder.next()
    assert piece == b"abcd"
    assert piece.obj is buffer
    assert not decoder.is_between_frames
    assert decoder.next() is None
    buffer[:2] = b"ef"
    decoder.receive(memoryview(buffer)[:2])
    assert decoder.next() == b"ef"
    assert decoder.is_between_frames


def test_a_control_frame_may_lie_in_a_buffer_that_is_used_again():
    frame = encode_frame(HELLO)
    buffer = bytearray(frame[:10])
    decoder = FrameDecoder()
    decoder.receive(buffer)
    assert decoder.next() is None
    buffer[:] = bytes(10)
    decoder.receive(frame[10:])
    assert decoder.next() == HELLO


def test_bytes_received_before_the_last_were_taken_are_kept():
    decoder = FrameDecoder()
    for frame in (encode_frame(HELLO), encode_frame(END), data_frame(b"abc")):
        decoder.receive(frame)
    assert [decoder.next(), decoder.next(), decoder.next(), decoder.next()] == [
        HELLO,
        END,
        b"abc",
        None,
    ]


def test_an_error_stays():
    decoder = FrameDecoder()
    decoder.receive(b"\xff\xff\xff\xff" + encode_frame(HELLO))
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="4294967295 bytes, limit is 1048581"):
            decoder.next()
    decoder.receive(encode_frame(HELLO))
    with pytest.raises(RemoteProtocolError):
        decoder.next()


def test_an_oversized_announcement_is_refused_before_its_bytes_arrive():
    decoder = FrameDecoder()
    decoder.receive((MAX_CONTROL_SIZE + 1).to_bytes(4, "big"))
    assert decoder.next() is None
    decoder.receive(b"\xa1")
    with pytest.raises(RemoteProtocolError, match="65537 bytes, limit is 65536"):
        decoder.next()


@pytest.mark.parametrize("first", range(256))
def test_the_first_byte_of_the_item_is_the_type_of_the_frame(first):
    decoder = FrameDecoder()
    decoder.receive(b"\x00\x00\x01\x00" + bytes([first]))
    if first >> 5 == 5 or first in (0x58, 0x59, 0x5A):
        assert decoder.next() is None
    else:
        with pytest.raises(RemoteProtocolError):
            decoder.next()


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (1, "0000000241"),
        (23, "0000001857"),
        (24, "0000001a5818"),
        (255, "0000010158ff"),
        (256, "00000103590100"),
        (65_535, "0001000259ffff"),
        (65_536, "000100055a00010000"),
        (DATA_SIZE, "000400055a00040000"),
        (MAX_DATA_SIZE, "001000055a00100000"),
    ],
)
def test_the_head_of_a_data_frame_is_the_shortest(size, head):
    assert data_head(size).hex() == head
    decoder = FrameDecoder()
    decoder.receive(data_head(size))
    assert decoder.next() is None
    decoder.receive(bytes(size))
    assert len(decoder.next()) == size
    assert decoder.is_between_frames


@pytest.mark.parametrize("size", [-1, 0, MAX_DATA_SIZE + 1])
def test_a_data_frame_is_never_empty_nor_too_large(size):
    with pytest.raises(LocalProtocolError, match="must have 1 to 1048576"):
        data_head(size)


@pytest.mark.parametrize(
    ("least", "head"), [(24, "58{:02x}"), (256, "59{:04x}"), (65_536, "5a{:08x}")]
)
def test_a_longer_head_than_needed_is_refused(least, head):
    item = bytes.fromhex(head.format(least - 1))
    decoder = FrameDecoder()
    decoder.receive((len(item) + least - 1).to_bytes(4, "big") + item)
    with pytest.raises(RemoteProtocolError, match="too long a head"):
        decoder.next()


def test_a_control_frame_is_its_length_and_its_item():
    assert encode_frame({"ok": {}}) == bytes.fromhex("00000005a1626f6ba0")
    with pytest.raises(LocalProtocolError):
        encode_frame({"a": "x" * MAX_CONTROL_SIZE})


@pytest.mark.parametrize(
    ("sent", "rest"),
    [
        (0, [b"one", b"", b"three"]),
        (1, [b"ne", b"", b"three"]),
        (3, [b"three"]),
        (4, [b"hree"]),
        (7, [b"e"]),
        (8, []),
    ],
)
def test_the_rest_starts_with_the_first_byte_that_was_not_sent(sent, rest):
    assert [bytes(part) for part in unsent([b"one", b"", b"three"], sent)] == rest


def test_what_is_left_of_buffers_of_any_kind_is_exact():
    buffers = [b"ab", bytearray(b"cde"), memoryview(b"f")]
    for sent in range(7):
        assert b"".join(unsent(buffers, sent)) == b"abcdef"[sent:]
