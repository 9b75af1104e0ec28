"""The kit's own codec and half-machines, which nothing else vouches for."""

import itertools
import random

import pytest

from dataplane_conformance import vectors
from dataplane_conformance.cbor import CborError, decode, encode, head
from dataplane_conformance.frames import (
    FrameError,
    FrameReader,
    control_frame,
    data_frame,
    frame,
    kind_of,
)
from dataplane_conformance.halves import Halves
from dataplane_conformance.malformed import malformed
from dataplane_conformance.schema import check_frame
from dataplane_protocol import BodyKind, Failure, Hello, Ok, Request

#: RFC 8949 appendix A, as far as the profile goes.
EXAMPLES = [
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1_000_000, "1a000f4240"),
    (1_000_000_000_000, "1b000000e8d4a51000"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (b"\1\2\3\4", "4401020304"),
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ('"\\', "62225c"),
    ("\u00fc", "62c3bc"),
    ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"),
    ([], "80"),
    ([1, 2, 3], "83010203"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (["a", {"b": "c"}], "826161a161626163"),
    (
        {"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"},
        "a56161614161626142616361436164614461656145",
    ),
]

#: RFC 8949 appendix A beyond the profile, and what is not well-formed (appendix F).
REFUSED = [
    *("1bffffffffffffffff", "c249010000000000000000", "3bffffffffffffffff", "1b0020000000000000"),
    *("f90000", "fa47c35000", "fb3ff199999999999a", "f97e00", "f7", "f0", "f8ff", "f818"),
    *("c074323031332d30332d32315432303a30343a30305a", "c11a514b67b0", "d74401020304"),
    *("5f42010243030405ff", "7f657374726561646d696e67ff", "9fff", "9f018202039f0405ffff", "bfff"),
    *("a201020304", "a1410100", "a16161", "a2616101616102", "a2616201616102"),
    *("", "18", "19ff", "1c", "1f", "3e", "41", "62ff", "61ff", "62c080", "63eda080", "81", "8201"),
    *("9bffffffffffffffff", "5bffffffffffffffff", "bbffffffffffffffff", "ff", "fe", "0000"),
    *(
        "1800",
        "190017",
        "1a0000ffff",
        "1b00000000ffffffff",
        "3800",
        "5800",
        "780161",
        "9800",
        "b800",
    ),
    "818181818181818181" + "01",
]


@pytest.mark.parametrize(("value", "item"), EXAMPLES)
def test_a_value_has_one_spelling(value: object, item: str) -> None:
    assert encode(value).hex() == item
    decoded = decode(bytes.fromhex(item))
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize("item", REFUSED)
def test_an_item_outside_the_profile_is_refused(item: str) -> None:
    with pytest.raises(CborError):
        decode(bytes.fromhex(item))


def test_what_is_encoded_is_decoded_to_itself() -> None:
    source = random.Random(8949)
    for _ in range(2000):
        value = _random_value(source, 4)
        item = encode(value)
        assert decode(item) == value
        assert encode(decode(item)) == item


def _random_value(source: random.Random, depth: int) -> object:
    kind = source.randrange(7 if depth else 5)
    if kind == 0:
        return source.choice([None, True, False])
    if kind == 1:
        return source.choice([-1, 1]) * source.getrandbits(source.randrange(53))
    if kind == 2:
        return source.randbytes(source.randrange(300))
    if kind in (3, 4):
        return "".join(chr(source.randrange(32, 0x2000)) for _ in range(source.randrange(40)))
    values = [_random_value(source, depth - 1) for _ in range(source.randrange(5))]
    return values if kind == 5 else {f"{source.getrandbits(20):x}": item for item in values}


def test_eight_containers_may_be_nested() -> None:
    assert decode(bytes.fromhex("81" * 8 + "01")) == [[[[[[[[1]]]]]]]]


def test_every_head_is_the_shortest() -> None:
    for argument in (0, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1):
        width = len(head(0, argument)) - 1
        assert width in (0, 1, 2, 4, 8)
        assert argument < (1 << (8 * width)) if width else argument < 24


def _read(data: bytes, step: int) -> list[object]:
    reader = FrameReader()
    frames: list[object] = []
    for start in range(0, len(data), step):
        reader.receive(data[start : start + step])
        while (one := reader.next()) is not None:
            frames.append(one)
    assert reader.pending == 0
    return frames


@pytest.mark.parametrize("vector", list(vectors.frames("accept")), ids=lambda vector: vector.name)
def test_the_frames_to_accept_are_read(vector: vectors.FrameVector) -> None:
    (whole,) = _read(vector.frame, 1 << 30)
    if vector.control is None:
        assert isinstance(whole, bytes)
        assert data_frame(whole) == vector.frame
    else:
        assert whole == vector.control
        assert control_frame(vector.control) == vector.frame
        assert check_frame(vector.control) is None
    if len(vector.frame) < 2000:
        assert _read(vector.frame, 1) == [whole]


@pytest.mark.parametrize("vector", list(vectors.frames("refuse")), ids=lambda vector: vector.name)
@pytest.mark.parametrize("step", [1, 1 << 30])
def test_the_frames_to_refuse_are_refused(vector: vectors.FrameVector, step: int) -> None:
    with pytest.raises((FrameError, AssertionError)):
        for one in _read(vector.frame, step):
            assert isinstance(one, dict)
            assert check_frame(one) is None


@pytest.mark.parametrize("vector", list(vectors.frames("either")), ids=lambda vector: vector.name)
def test_what_no_sender_writes_is_refused(vector: vectors.FrameVector) -> None:
    with pytest.raises(FrameError):
        _read(vector.frame, 1 << 30)


def test_every_malformed_frame_is_refused() -> None:
    names = set()
    for name, data in malformed({"end": {"size_bytes": 12}}):
        names.add(name)
        with pytest.raises(FrameError):
            for one in _read(data, 1 << 30):
                assert isinstance(one, dict)
                kind_of(one)
    assert len(names) > 30


@pytest.mark.parametrize(
    "item", ["40", "5800", "580161", "590001", "5a0000000161", "5b000000000000000161", "5f4161ff"]
)
def test_a_data_frame_has_one_head(item: str) -> None:
    with pytest.raises(FrameError):
        _read(frame(bytes.fromhex(item)), 1 << 30)


def test_an_announcement_over_the_limit_is_refused_before_its_bytes() -> None:
    for data in ("00100006", "ffffffff", "00000000", "00010001a1"):
        reader = FrameReader()
        reader.receive(bytes.fromhex(data))
        with pytest.raises(FrameError):
            reader.next()


STEPS = ("hello", "op", "op+stream", "op+fd", "ok", "ok+stream", "ok+fd", "data", "end", "error")


def test_the_order_is_that_of_the_package_beside_it() -> None:
    """Every sequence of four steps is judged alike by two programs that share no code."""
    from dataplane_protocol._halves import Halves as Theirs, OrderError, Side, Step, step_of

    messages = {
        "hello": Hello(),
        "op": Request(op="x"),
        "op+stream": Request(op="x", body=BodyKind.STREAM),
        "op+fd": Request(op="x", body=BodyKind.FD),
        "ok": Ok(),
        "ok+stream": Ok(body=BodyKind.STREAM),
        "ok+fd": Ok(body=BodyKind.FD),
        "error": Failure(code="cancelled"),
    }
    steps = {name: step_of(message) for name, message in messages.items()}
    steps |= {"data": Step.DATA, "end": Step.END}
    moves = list(itertools.product(("client", "server"), STEPS))
    for sequence in itertools.product(moves, repeat=3):
        ours, theirs = Halves(), Theirs()
        for side, step in [("client", "hello"), ("server", "hello"), *sequence]:
            complaint = ours.step(side, step)  # type: ignore[arg-type]
            try:
                theirs.advance(Side(side), steps[step])
            except OrderError:
                assert complaint is not None
                break
            assert complaint is None
