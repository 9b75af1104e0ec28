from datetime import UTC, datetime, timedelta, timezone

import pytest

from dataplane_protocol import ContentAddress, Digest, InvalidRequestError, RemoteProtocolError
from dataplane_protocol._fields import Fields, from_milliseconds, to_milliseconds

TEXT = "blake3:" + "0f" * 32
LAST = 253_402_300_799_999


def fields(**values):
    return Fields(values, "args", InvalidRequestError)


def test_the_error_is_the_one_that_was_asked_for():
    with pytest.raises(InvalidRequestError, match="args is not a map"):
        Fields([], "args", InvalidRequestError)
    with pytest.raises(RemoteProtocolError, match=r"ok\.a is missing"):
        Fields({}, "ok", RemoteProtocolError).text("a")


READERS = {
    "text": ("text", "a"),
    "boolean": ("boolean", True),
    "size": ("size", 5),
    "moment": ("moment", 0),
    "digest": ("digest", TEXT),
    "address": ("address", TEXT),
    "texts": ("texts", ["a"]),
    "map": ("map", {}),
}


@pytest.mark.parametrize(("reader", "value"), READERS.values(), ids=READERS)
def test_a_required_field_is_required_and_typed(reader, value):
    getattr(fields(a=value), reader)("a")
    with pytest.raises(InvalidRequestError, match=r"args\.a is missing"):
        getattr(fields(), reader)("a")
    for wrong in (None, 1.5, b"", object()):
        with pytest.raises(InvalidRequestError, match=r"args\.a"):
            getattr(fields(a=wrong), reader)("a")


@pytest.mark.parametrize(
    ("reader", "value"),
    [
        ("optional_text", "a"),
        ("optional_size", 5),
        ("optional_moment", 0),
        ("optional_digest", TEXT),
        ("optional_address", TEXT),
        ("optional_map", {}),
    ],
)
def test_an_optional_field_may_be_absent_but_not_null(reader, value):
    assert getattr(fields(a=value), reader)("a") is not None
    assert getattr(fields(), reader)("a") is None
    with pytest.raises(InvalidRequestError):
        getattr(fields(a=None), reader)("a")


def test_an_optional_boolean_is_false_when_absent():
    assert fields().optional_boolean("a") is False
    assert fields(a=True).optional_boolean("a") is True
    with pytest.raises(InvalidRequestError, match="true or false"):
        fields(a=1).optional_boolean("a")


@pytest.mark.parametrize("value", [-1, 11, 2**53, True, False, 1.0, "1"])
def test_an_integer_has_bounds_and_is_no_boolean(value):
    with pytest.raises(InvalidRequestError, match="an integer from 0 to 10"):
        fields(a=value).size("a", most=10)


def test_the_bounds_of_an_integer_are_included():
    assert fields(a=0).size("a") == 0
    assert fields(a=2**53 - 1).size("a") == 2**53 - 1
    assert fields(a=1).optional_size("a", least=1, most=1) == 1


@pytest.mark.parametrize(
    ("milliseconds", "moment"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1, datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)),
        (1_790_000_000_123, datetime(2026, 9, 21, 14, 13, 20, 123_000, tzinfo=UTC)),
        (LAST, datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
    ],
)
def test_a_time_is_milliseconds_since_the_epoch(milliseconds, moment):
    assert fields(a=milliseconds).moment("a") == from_milliseconds(milliseconds) == moment
    assert to_milliseconds(moment) == milliseconds


def test_a_time_is_cut_to_the_millisecond_whatever_its_zone():
    zone = timezone(timedelta(hours=2))
    assert to_milliseconds(datetime(1970, 1, 1, 2, 0, 0, 1999, tzinfo=zone)) == 1


@pytest.mark.parametrize("value", [-1, LAST + 1])
def test_a_time_past_the_year_9999_is_refused(value):
    with pytest.raises(InvalidRequestError):
        fields(a=value).moment("a")


def test_digests_and_addresses_are_parsed():
    assert fields(a=TEXT).digest("a") == Digest.parse(TEXT)
    assert fields(a=TEXT).address("a") == ContentAddress(TEXT)
    with pytest.raises(InvalidRequestError, match=r"args\.a: digest is 'x', must be"):
        fields(a="x").digest("a")
    with pytest.raises(RemoteProtocolError, match=r"ok\.a: digest is"):
        Fields({"a": "x"}, "ok", RemoteProtocolError).digest("a")


def test_lists_of_texts_and_addresses_are_checked_entry_by_entry():
    assert fields(a=[]).texts("a") == ()
    assert fields(a=[TEXT]).addresses("a", most=1) == (ContentAddress(TEXT),)
    with pytest.raises(InvalidRequestError, match="a list of texts"):
        fields(a=["a", 1]).texts("a")
    with pytest.raises(InvalidRequestError, match=r"args\.a: digest is 'x'"):
        fields(a=[TEXT, "x"]).addresses("a", most=2)
    for addresses in ([], [TEXT, TEXT]):
        with pytest.raises(InvalidRequestError, match="must have 1 to 1"):
            fields(a=addresses).addresses("a", most=1)


def test_maps_within_maps_are_named_by_their_path():
    outer = fields(a={"b": {}}, c=[{}, 1])
    with pytest.raises(InvalidRequestError, match=r"args\.a\.b\.c is missing"):
        outer.map("a").map("b").text("c")
    with pytest.raises(InvalidRequestError, match=r"args\.c\[1\] is not a map"):
        list(outer.maps("c", most=2))


def test_a_list_of_maps_has_a_most():
    assert len(list(fields(a=[{}, {}]).maps("a", most=2))) == 2
    with pytest.raises(InvalidRequestError, match="has 3 entries, limit is 2"):
        list(fields(a=[{}] * 3).maps("a", most=2))
    with pytest.raises(InvalidRequestError, match="must be a list"):
        list(fields(a={}).maps("a", most=2))


def test_the_map_itself_can_be_had():
    assert fields(a=1, later=2).raw() == {"a": 1, "later": 2}
