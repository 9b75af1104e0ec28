import pytest
from hypothesis import given, strategies as st

from dataplaned.backends.objectstore import names
from dataplaned.backends.objectstore.names import Mark, Part, Record, Sha256Name

HEX_256 = st.text("0123456789abcdef", min_size=64, max_size=64)
COPY = st.text("0123456789abcdef", min_size=16, max_size=16)
TIME = st.integers(0, 2**46)

RECORDS = st.builds(
    Record,
    blake3=HEX_256,
    generation=st.integers(0, 2**53 - 1),
    stored_ms=TIME,
    verified_ms=TIME,
    copy=COPY,
    size=st.integers(0, 2**53 - 1),
    sha256=HEX_256,
    part_size=st.one_of(st.just(0), st.integers(1, 2**14).map(lambda blocks: blocks * 65_536)),
)
MARKS = st.builds(Mark, blake3=HEX_256, copy=COPY, at_ms=TIME, is_good=st.booleans())


@given(RECORDS)
def test_records_are_read_as_they_were_written(record):
    assert names.parse(record.key) == record


@given(MARKS)
def test_marks_are_read_as_they_were_written(mark):
    assert names.parse(mark.key) == mark


@given(RECORDS, st.integers(0, 2**24 - 1))
def test_other_keys_lead_back_to_their_record(record, number):
    assert names.parse(record.part_key(number)) == Part(record.blake3, record.copy, number)
    assert names.parse(record.sha256_key) == Sha256Name(record.sha256, record.blake3, record.copy)


@given(RECORDS, RECORDS)
def test_later_generations_sort_after_earlier_ones(one, other):
    same = Record(
        **{name: getattr(other, name) for name in other.__slots__ if name != "blake3"},
        blake3=one.blake3,
    )
    if one.generation != same.generation:
        assert (one.key < same.key) == (one.generation < same.generation)


@pytest.mark.parametrize(
    ("size", "part_size", "lengths"),
    [
        (0, 0, []),
        (100, 0, []),
        (1, 65_536, [1]),
        (65_536, 65_536, [65_536]),
        (65_537, 65_536, [65_536, 1]),
        (200_000, 131_072, [131_072, 68_928]),
    ],
)
def test_parts_add_up(size, part_size, lengths):
    record = Record(
        blake3="a" * 64,
        generation=1,
        stored_ms=1,
        verified_ms=1,
        copy="b" * 16,
        size=size,
        sha256="c" * 64,
        part_size=part_size,
    )
    assert [record.part_length(number) for number in range(record.part_count)] == lengths


@pytest.mark.parametrize(
    "key",
    [
        "",
        "dataplaned-format",
        "objects",
        "objects/" + "a" * 64,
        "objects/" + "a" * 64 + "/g",
        "objects/" + "A" * 64 + "/v" + "b" * 16 + ".000000000001.good",
        "objects/" + "a" * 64 + "/v" + "b" * 16 + ".1.good",
        "objects/" + "a" * 64 + "/v" + "b" * 16 + ".000000000001.fine",
        "objects/" + "a" * 63 + "/v" + "b" * 16 + ".000000000001.good",
        "other/" + "a" * 64 + "/v" + "b" * 16 + ".000000000001.good",
        "parts/" + "a" * 64 + "/" + "b" * 16,
        "parts/" + "a" * 64 + "/" + "b" * 16 + "/0000001",
        "sha256/" + "a" * 64 + "/" + "b" * 64,
    ],
)
def test_what_is_not_ours_is_nothing(key):
    assert names.parse(key) is None
