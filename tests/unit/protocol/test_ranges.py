import pytest
from hypothesis import given, strategies as st

from dataplane_protocol import (
    InvalidRequestError,
    RangeNotSatisfiableError,
    check_range,
    resolve_range,
)


@pytest.mark.parametrize(
    ("byte_range", "size", "resolved"),
    [
        (None, 0, (0, 0)),
        (None, 12, (0, 12)),
        ((0, 0), 1, (0, 1)),
        ((0, 99), 12, (0, 12)),
        ((0, 11), 12, (0, 12)),
        ((3, 6), 12, (3, 4)),
        ((11, 11), 12, (11, 1)),
        ((11, 2**80), 12, (11, 1)),
        ([3, 6], 12, (3, 4)),
    ],
)
def test_a_range_is_inclusive_and_clamped(byte_range, size, resolved):
    assert resolve_range(byte_range, size) == resolved


@pytest.mark.parametrize(("byte_range", "size"), [((0, 0), 0), ((12, 12), 12), ((13, 20), 12)])
def test_a_range_that_starts_past_the_last_byte_is_refused_with_the_size(byte_range, size):
    with pytest.raises(RangeNotSatisfiableError, match=f"the object has {size} bytes") as caught:
        resolve_range(byte_range, size)
    assert caught.value.details == {"size_bytes": size}


@pytest.mark.parametrize(
    ("byte_range", "why"),
    [((-1, 5), "negative"), ((0, -1), "negative"), ((-2, -1), "negative"), ((5, 4), "inverted")],
)
def test_a_range_that_no_object_has_is_refused(byte_range, why):
    with pytest.raises(RangeNotSatisfiableError, match=why):
        check_range(byte_range)
    with pytest.raises(RangeNotSatisfiableError, match=why):
        resolve_range(byte_range, 10)


@pytest.mark.parametrize(
    "byte_range", [(), (1,), (1, 2, 3), (0, 1.0), ("0", "1"), (None, 1), (False, True)]
)
def test_what_is_no_pair_of_integers_is_a_bad_request(byte_range):
    with pytest.raises(InvalidRequestError, match="pair of integers"):
        check_range(byte_range)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_a_range_gives_the_bytes_that_a_slice_gives(first, last, size):
    data = bytes(range(size))
    expected = data[first : last + 1]
    try:
        offset, length = resolve_range((first, last), size)
    except RangeNotSatisfiableError:
        assert expected == b""
    else:
        assert data[offset : offset + length] == expected != b""
        assert len(expected) == length
