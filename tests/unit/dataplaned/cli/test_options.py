import click
import pytest

from dataplane_protocol import MAX_INTEGER
from dataplaned.cli.options import parse_address, parse_range


@pytest.mark.parametrize(
    ("text", "byte_range"),
    [
        ("0-0", (0, 0)),
        ("0-99", (0, 99)),
        ("007-0010", (7, 10)),
        ("100-", (100, MAX_INTEGER - 1)),
        ("0-", (0, MAX_INTEGER - 1)),
    ],
)
def test_ranges_include_both_ends(text: str, byte_range: tuple[int, int]) -> None:
    assert parse_range(text) == byte_range


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "5", "-5", "a-b", "1-2-3", "1.0-2", "0x1-0x2", " 1-2", "1-2\n", "1 - 2"),
        *(
            "2-1",
            "+1-2",
            "1--2",
            "\u0661-\u0662",
            "1-9007199254740991",
            "9" * 17 + "-",
            "9" * 16 + "-",
        ),
    ],
)
def test_nonsense_is_no_range(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_range(text)


def test_an_address_is_read_and_anything_else_is_refused() -> None:
    address = "sha256:" + "0a" * 32
    assert str(parse_address(address)) == address
    for text in ("", "0a" * 32, "sha256:0a", "blake3:" + "0A" * 32, address + "\n"):
        with pytest.raises(click.BadParameter):
            parse_address(text)
