"""The results of the operations as maps and back (`SPEC.md` 7).

`X_to_wire` gives the `ok` map that a daemon sends; `X_from_wire` reads it in a client and
raises `RemoteProtocolError` where a daemon broke the schema.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from ._errors import RemoteProtocolError
from ._fields import Fields, to_milliseconds
from ._identity import ContentAddress
from ._limits import MAX_BACKENDS, MAX_BATCH
from ._spi import IngestResult, VerifyResult
from ._storage import (
    BackendList,
    BackendStatus,
    DeletionResult,
    ObjectPage,
    ObjectState,
    ObjectStatus,
    StorageReceipt,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeResult:
    """What a served body is: `length` bytes from `offset` of an object of `size_bytes`."""

    size_bytes: int
    offset: int
    length: int

    def to_wire(self) -> dict[str, object]:
        """Give the `ok` map."""
        return {"size_bytes": self.size_bytes, "offset": self.offset, "length": self.length}

    @classmethod
    def from_wire(cls, result: Mapping[str, object]) -> Self:
        """Read the `ok` map."""
        fields = _fields(result)
        size = fields.size("size_bytes")
        offset = fields.size("offset", most=size)
        return cls(size_bytes=size, offset=offset, length=fields.size("length", most=size - offset))


def ingest_result_to_wire(result: IngestResult) -> dict[str, object]:
    """Give the `ok` map of an ingest."""
    receipt = result.receipt
    return {
        "primary_digest": str(result.primary_digest),
        "sha256_digest": str(result.sha256_digest),
        "size_bytes": result.size_bytes,
        "receipt": {
            "backend_id": receipt.backend_id,
            "outcome": str(receipt.outcome),
            "generation": receipt.generation,
            "stored_at_ms": to_milliseconds(receipt.stored_at),
        },
    }


def ingest_result_from_wire(result: Mapping[str, object]) -> IngestResult:
    """Read the `ok` map of an ingest."""
    fields = _fields(result)
    receipt = fields.map("receipt")
    primary = fields.digest("primary_digest")
    size = fields.size("size_bytes")
    return IngestResult(
        primary_digest=primary,
        sha256_digest=fields.digest("sha256_digest"),
        size_bytes=size,
        receipt=StorageReceipt(
            backend_id=receipt.text("backend_id"),
            content_address=ContentAddress.from_digest(primary),
            size_bytes=size,
            outcome=receipt.text("outcome"),
            generation=receipt.size("generation"),
            stored_at=receipt.moment("stored_at_ms"),
        ),
    )


def verify_result_to_wire(result: VerifyResult) -> dict[str, object]:
    """Give the `ok` map of a verify."""
    wire: dict[str, object] = {
        "content_address": str(result.content_address),
        "verified": result.verified,
        "actual_primary_digest": str(result.actual_primary_digest),
        "actual_sha256_digest": str(result.actual_sha256_digest),
        "actual_size_bytes": result.actual_size_bytes,
    }
    if result.mismatch is not None:
        wire["mismatch"] = result.mismatch
    return wire


def verify_result_from_wire(result: Mapping[str, object]) -> VerifyResult:
    """Read the `ok` map of a verify."""
    fields = _fields(result)
    return VerifyResult(
        content_address=fields.address("content_address"),
        verified=fields.boolean("verified"),
        actual_primary_digest=fields.digest("actual_primary_digest"),
        actual_sha256_digest=fields.digest("actual_sha256_digest"),
        actual_size_bytes=fields.size("actual_size_bytes"),
        mismatch=fields.optional_text("mismatch"),
    )


def deletion_result_to_wire(result: DeletionResult) -> dict[str, object]:
    """Give the `ok` map of a delete."""
    return {
        "content_address": str(result.content_address),
        "backend_id": result.backend_id,
        "deleted": result.deleted,
    }


def deletion_result_from_wire(result: Mapping[str, object]) -> DeletionResult:
    """Read the `ok` map of a delete."""
    fields = _fields(result)
    return DeletionResult(
        content_address=fields.address("content_address"),
        backend_id=fields.text("backend_id"),
        deleted=fields.boolean("deleted"),
    )


def backend_status_to_wire(status: BackendStatus) -> dict[str, object]:
    """Give the `ok` map of a health probe, and an entry of `list_backends`."""
    wire: dict[str, object] = {
        "backend_id": status.backend_id,
        "state": str(status.state),
        "writable": status.writable,
    }
    for key in ("free_bytes", "total_bytes", "object_count", "message"):
        value: object = getattr(status, key)
        if value is not None:
            wire[key] = value
    return wire


def backend_status_from_wire(result: Mapping[str, object]) -> BackendStatus:
    """Read the `ok` map of a health probe."""
    return _backend_status(_fields(result))


def backend_list_to_wire(backends: BackendList) -> dict[str, object]:
    """Give the `ok` map of `list_backends`."""
    return {
        "backends": [backend_status_to_wire(status) for status in backends.backends],
        "default": backends.default,
    }


def backend_list_from_wire(result: Mapping[str, object]) -> BackendList:
    """Read the `ok` map of `list_backends`."""
    fields = _fields(result)
    return BackendList(
        backends=tuple(
            _backend_status(entry) for entry in fields.maps("backends", most=MAX_BACKENDS)
        ),
        default=fields.text("default"),
    )


def stat_result_to_wire(objects: Sequence[ObjectStatus]) -> dict[str, object]:
    """Give the `ok` map of `stat_objects`."""
    return {"objects": [_object_to_wire(entry) for entry in objects]}


def stat_result_from_wire(result: Mapping[str, object]) -> tuple[ObjectStatus, ...]:
    """Read the `ok` map of `stat_objects`."""
    return _objects(_fields(result))


def object_page_to_wire(page: ObjectPage) -> dict[str, object]:
    """Give the `ok` map of `list_objects`."""
    return {**stat_result_to_wire(page.objects), "more": page.more}


def object_page_from_wire(result: Mapping[str, object]) -> ObjectPage:
    """Read the `ok` map of `list_objects`."""
    fields = _fields(result)
    return ObjectPage(objects=_objects(fields), more=fields.boolean("more"))


def _object_to_wire(entry: ObjectStatus) -> dict[str, object]:
    wire: dict[str, object] = {
        "content_address": str(entry.content_address),
        "size_bytes": entry.size_bytes,
        "sha256_digest": str(entry.sha256_digest),
        "generation": entry.generation,
        "stored_at_ms": to_milliseconds(entry.stored_at),
    }
    if entry.verified_at is not None:
        wire["verified_at_ms"] = to_milliseconds(entry.verified_at)
    if entry.state != ObjectState.OK:
        wire["state"] = str(entry.state)
    return wire


def _objects(fields: Fields) -> tuple[ObjectStatus, ...]:
    return tuple(
        ObjectStatus(
            content_address=entry.address("content_address"),
            size_bytes=entry.size("size_bytes"),
            sha256_digest=entry.digest("sha256_digest"),
            generation=entry.size("generation"),
            stored_at=entry.moment("stored_at_ms"),
            verified_at=entry.optional_moment("verified_at_ms"),
            state=entry.optional_text("state") or ObjectState.OK.value,
        )
        for entry in fields.maps("objects", most=MAX_BATCH)
    )


def _backend_status(fields: Fields) -> BackendStatus:
    return BackendStatus(
        backend_id=fields.text("backend_id"),
        state=fields.text("state"),
        writable=fields.boolean("writable"),
        free_bytes=fields.optional_size("free_bytes"),
        total_bytes=fields.optional_size("total_bytes"),
        object_count=fields.optional_size("object_count"),
        message=fields.optional_text("message"),
    )


def _fields(result: Mapping[str, object]) -> Fields:
    return Fields(result, "ok", RemoteProtocolError)
