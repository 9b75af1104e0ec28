import pytest

from dataplane_protocol import (
    ALGORITHMS,
    BLAKE3,
    SHA256,
    ContentAddress,
    Digest,
    InvalidRequestError,
)

HEX = "0123456789abcdef" * 4


def test_a_digest_is_text_with_a_colon():
    assert str(Digest("blake3", HEX)) == f"blake3:{HEX}"
    assert Digest.parse(f"blake3:{HEX}") == Digest("blake3", HEX)


def test_the_algorithms_of_version_1_have_32_bytes():
    assert ALGORITHMS == {BLAKE3: 64, SHA256: 64}


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [("a", "00"), ("a-b_9", "ff" * 64), ("z" * 32, HEX), ("md5", "00" * 16), (SHA256, HEX)],
)
def test_other_algorithms_can_be_written_down(algorithm, value):
    assert Digest.parse(f"{algorithm}:{value}") == Digest(algorithm, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        HEX,
        f":{HEX}",
        "blake3:",
        f"blake3:{HEX}:",
        f"blake3::{HEX}",
        f"x:blake3:{HEX}",
        f"BLAKE3:{HEX}",
        f"blake3:{HEX.upper()}",
        f"blake3:{HEX[:-1]}",
        f"blake3:{HEX[:-2]}",
        f"sha256:{HEX}00",
        f"blake3:{HEX}\n",
        f" blake3:{HEX}",
        f"blake3:{HEX[:-1]}g",
        f"blake3:{HEX[:-1]}\u0661",
        f"3blake:{HEX}",
        f"-blake:{HEX}",
        f"bläke:{HEX}",
        "a" * 33 + ":00",
        "a:" + "00" * 65,
        "a:000",
    ],
)
def test_another_spelling_is_refused(text):
    with pytest.raises(InvalidRequestError):
        Digest.parse(text)
    with pytest.raises(InvalidRequestError):
        ContentAddress(text)


@pytest.mark.parametrize("value", [None, 1, b"blake3:00", ["blake3:00"]])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(InvalidRequestError):
        Digest.parse(value)
    with pytest.raises(InvalidRequestError):
        ContentAddress(value)
    with pytest.raises(InvalidRequestError):
        Digest(value, HEX)
    with pytest.raises(InvalidRequestError):
        Digest("blake3", value)


def test_a_refusal_is_a_value_error_and_shows_little_of_what_was_sent():
    with pytest.raises(ValueError, match="must be algorithm:hex") as caught:
        Digest.parse("\x1b\n" * 1_000_000)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_a_length_that_the_algorithm_does_not_have_is_named():
    with pytest.raises(InvalidRequestError, match="2 hexadecimal digits, must have 64"):
        Digest("sha256", "00")


def test_digests_are_values():
    first, second = Digest("blake3", HEX), Digest("blake3", HEX)
    assert first == second
    assert hash(first) == hash(second)
    assert len({first, second, Digest("sha256", HEX)}) == 2
    with pytest.raises(AttributeError):
        first.hex = "00"


def test_digests_are_ordered_by_algorithm_and_then_value():
    low, high = Digest("blake3", "0" * 64), Digest("blake3", "f" * 64)
    assert sorted([Digest("sha256", "0" * 64), high, low]) == [
        low,
        high,
        Digest("sha256", "0" * 64),
    ]


def test_an_address_is_the_text_of_a_digest():
    address = ContentAddress(f"blake3:{HEX}")
    assert str(address) == address.value == f"blake3:{HEX}"
    assert address.to_digest() == Digest("blake3", HEX)
    assert ContentAddress.from_digest(address.to_digest()) == address


def test_addresses_are_values_in_the_order_of_their_texts():
    texts = [f"blake3:{'0' * 64}", f"blake3:{HEX}", f"sha256:{'0' * 64}"]
    addresses = [ContentAddress(text) for text in texts]
    assert sorted([addresses[2], *addresses[:2]]) == addresses
    assert hash(addresses[0]) == hash(ContentAddress(texts[0]))
    assert addresses[0] != texts[0]
    with pytest.raises(AttributeError):
        addresses[0].value = ""
