from datetime import UTC, datetime

from dataplane_protocol import IngestOutcome
from dataplaned.backends.filesystem.changes import Stored
from dataplaned.backends.filesystem.rows import Row
from dataplaned.backends.filesystem.status import moment, published, status_of

GOOD = Row(b"\x01" * 32, b"\x02" * 32, 3, "f", None, 4, 1000, 2001, "", 0)
ROTTEN = Row(b"\x01" * 32, b"\x02" * 32, 3, None, 7, 4, 1000, 2001, "", 1)


def test_a_row_is_described_in_the_words_of_the_contract():
    status = status_of(GOOD)
    assert str(status.content_address) == "blake3:" + "01" * 32
    assert status.sha256_digest.hex == "02" * 32
    assert (status.size_bytes, status.generation, status.state) == (3, 4, "ok")
    assert status.stored_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert status.verified_at == datetime(1970, 1, 1, 0, 0, 2, 1000, tzinfo=UTC)


def test_a_rotten_copy_is_quarantined():
    assert status_of(ROTTEN).state == "quarantined"


def test_an_ingest_is_signed_for_with_what_the_row_has_now():
    receipt = published(Stored(row=GOOD, outcome=IngestOutcome.HEALED))
    assert (receipt.outcome, receipt.generation) == ("healed", 4)
    assert receipt.stored_at == moment(1000)


def test_times_are_exact_to_the_millisecond():
    assert moment(1_800_000_000_123).isoformat() == "2027-01-15T08:00:00.123000+00:00"
    assert moment(0).tzinfo is UTC
