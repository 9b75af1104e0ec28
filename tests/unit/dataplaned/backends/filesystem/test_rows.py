import pytest

from dataplane_protocol import Digest
from dataplaned.backends.filesystem.rows import COLUMNS, Quarantined, Row, key_of, value_of


def row_of(*, file=None, content=None):
    return Row(
        blake3=b"\x01" * 32,
        sha256=b"\x02" * 32,
        size=3,
        file=file,
        content=content,
        generation=4,
        stored_at_ms=5,
        verified_at_ms=6,
        stamp="7",
        is_rotten=0,
    )


def entry_of(*, file=None, content=None):
    return Quarantined(1, b"\x01" * 32, 3, file, content, "differs", 5)


def test_the_columns_are_the_fields_in_their_order():
    assert COLUMNS.split(", ") == list(Row.__slots__)
    row = row_of(file="f")
    assert row.values == tuple(getattr(row, field) for field in Row.__slots__)
    assert Row(*row.values) == row


def test_a_copy_is_named_by_its_file_or_by_the_number_of_its_bytes():
    assert row_of(file="f").copy == "f"
    assert row_of(content=0).copy == 0


def test_an_object_is_named_by_blake3():
    assert row_of(file="f").digest == entry_of().digest == Digest("blake3", "01" * 32)


def test_each_digest_has_its_own_column():
    assert key_of(Digest("blake3", "01" * 32)) == "blake3 = ?"
    assert key_of(Digest("sha256", "02" * 32)) == "sha256 = ?"
    assert value_of(Digest("sha256", "02" * 32)) == b"\x02" * 32


@pytest.mark.parametrize(
    ("entry", "row", "is_copy"),
    [
        (entry_of(file="f"), row_of(file="f"), True),
        (entry_of(file="f"), row_of(file="g"), False),
        (entry_of(file="f"), row_of(content=7), False),
        (entry_of(content=7), row_of(content=7), True),
        (entry_of(content=7), row_of(content=8), False),
        (entry_of(), row_of(file="f"), True),
        (entry_of(), row_of(content=7), True),
    ],
)
def test_a_copy_in_quarantine_is_that_of_its_object_or_was_replaced(entry, row, is_copy):
    assert entry.is_copy_of(row) is is_copy
