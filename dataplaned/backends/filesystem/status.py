"""Rows of the catalog in the words of the contract."""

from datetime import UTC, datetime, timedelta
from typing import Final

from dataplane_protocol import BLAKE3, SHA256, ContentAddress, Digest, ObjectState, ObjectStatus

from ..base import Published
from .changes import Stored
from .rows import Row

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def status_of(row: Row) -> ObjectStatus:
    """Describe an object."""
    return ObjectStatus(
        content_address=ContentAddress(f"{BLAKE3}:{row.blake3.hex()}"),
        size_bytes=row.size,
        sha256_digest=Digest(SHA256, row.sha256.hex()),
        generation=row.generation,
        stored_at=moment(row.stored_at_ms),
        verified_at=moment(row.verified_at_ms),
        state=ObjectState.QUARANTINED if row.is_rotten else ObjectState.OK,
    )


def published(stored: Stored) -> Published:
    """Sign for an ingest."""
    return Published(
        outcome=stored.outcome,
        generation=stored.row.generation,
        stored_at=moment(stored.row.stored_at_ms),
    )


def moment(milliseconds: int) -> datetime:
    """Give the time that so many milliseconds since 1970 are, in UTC."""
    return _EPOCH + timedelta(milliseconds=milliseconds)
