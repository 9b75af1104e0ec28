"""What the daemon reports, as JSON documents and as lines for people."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .exits import printable
from .output import format_size, format_time

if TYPE_CHECKING:
    from dataplane_protocol import (
        BackendStatus,
        DeletionResult,
        IngestResult,
        ObjectStatus,
        VerifyResult,
    )

    from ..backends.maintenance import QuarantinedCopy, ScrubStatus
    from ..operations import Purge, Restoration


def ingest_record(result: "IngestResult") -> dict[str, object]:
    """Give the JSON document of an ingest."""
    receipt = result.receipt
    return {
        "content_address": str(receipt.content_address),
        "primary_digest": str(result.primary_digest),
        "sha256_digest": str(result.sha256_digest),
        "size_bytes": result.size_bytes,
        "backend_id": receipt.backend_id,
        "outcome": str(receipt.outcome),
        "generation": receipt.generation,
        "stored_at": format_time(receipt.stored_at),
    }


def object_record(status: "ObjectStatus") -> dict[str, object]:
    """Give the JSON document of a stored object."""
    return {
        "content_address": str(status.content_address),
        "sha256_digest": str(status.sha256_digest),
        "size_bytes": status.size_bytes,
        "generation": status.generation,
        "stored_at": format_time(status.stored_at),
        "verified_at": format_time(status.verified_at),
        "state": str(status.state),
    }


def object_lines(status: "ObjectStatus") -> str:
    """Give everything about a stored object, one fact a line."""
    size = f"{format_size(status.size_bytes)} ({status.size_bytes} bytes)"
    facts = {
        "sha256": str(status.sha256_digest),
        "size": format_size(status.size_bytes) if status.size_bytes < 1024 else size,
        "generation": str(status.generation),
        "stored": format_time(status.stored_at),
        "verified": format_time(status.verified_at) or "never",
        "state": printable(status.state),
    }
    return "\n".join([str(status.content_address), *_aligned(facts)])


def object_row(status: "ObjectStatus") -> str:
    """Give a stored object as a row of `ls --long`."""
    size = f"{format_size(status.size_bytes):>10}"
    stored = format_time(status.stored_at)
    return f"{size}  {stored}  {printable(status.state):<11}  {status.content_address}"


def verify_record(result: "VerifyResult") -> dict[str, object]:
    """Give the JSON document of a verify."""
    return {
        "content_address": str(result.content_address),
        "verified": result.verified,
        "actual_primary_digest": str(result.actual_primary_digest),
        "actual_sha256_digest": str(result.actual_sha256_digest),
        "actual_size_bytes": result.actual_size_bytes,
        "mismatch": result.mismatch,
    }


def deletion_record(result: "DeletionResult") -> dict[str, object]:
    """Give the JSON document of a delete."""
    return {
        "content_address": str(result.content_address),
        "backend_id": result.backend_id,
        "deleted": result.deleted,
    }


def backend_record(status: "BackendStatus") -> dict[str, object]:
    """Give the JSON document of a backend's health."""
    return {
        "backend_id": status.backend_id,
        "state": str(status.state),
        "writable": status.writable,
        "free_bytes": status.free_bytes,
        "total_bytes": status.total_bytes,
        "object_count": status.object_count,
        "message": status.message,
    }


def backend_line(status: "BackendStatus", *, is_default: bool) -> str:
    """Give a backend's health as one line."""
    facts = [
        status.backend_id + (" (default)" if is_default else ""),
        status.state,
        "writable" if status.writable else "read-only",
    ]
    if status.object_count is not None:
        facts.append(_objects(status.object_count))
    if status.free_bytes is not None:
        total = "" if status.total_bytes is None else f" of {format_size(status.total_bytes)}"
        facts.append(f"{format_size(status.free_bytes)} free{total}")
    if status.message:
        facts.append(status.message)
    return "  ".join(printable(fact) for fact in facts)


def scrub_record(status: "ScrubStatus") -> dict[str, object]:
    """Give the JSON document of a scrub."""
    return {
        "backend_id": status.backend_id,
        "state": status.state,
        "due_objects": status.due_objects,
        "due_bytes": status.due_bytes,
        "rate": status.rate,
        "oldest_verification": format_time(status.oldest_verification),
        "verified_objects": status.verified_objects,
        "verified_bytes": status.verified_bytes,
        "rotten_objects": status.rotten_objects,
        "quarantined": status.quarantined,
    }


def scrub_lines(status: "ScrubStatus") -> str:
    """Give everything about a scrub, one fact a line."""
    copies = "copy" if status.quarantined == 1 else "copies"
    facts = {
        "state": printable(status.state),
        "due": f"{_objects(status.due_objects)}, {format_size(status.due_bytes)}",
        "rate": f"{format_size(status.rate)}/s",
        "oldest": format_time(status.oldest_verification) or "none",
        "verified": f"{_objects(status.verified_objects)}, {format_size(status.verified_bytes)}",
        "damaged": _objects(status.rotten_objects),
        "quarantined": f"{status.quarantined} {copies}",
    }
    return "\n".join([printable(status.backend_id), *_aligned(facts)])


def quarantined_record(copy: "QuarantinedCopy") -> dict[str, object]:
    """Give the JSON document of a copy in quarantine."""
    return {
        "number": copy.number,
        "content_address": str(copy.content_address),
        "size_bytes": copy.size_bytes,
        "reason": copy.reason,
        "found_at": format_time(copy.found_at),
        "is_only_copy": copy.is_only_copy,
    }


def quarantined_row(copy: "QuarantinedCopy") -> str:
    """Give a copy in quarantine as a row of `quarantine ls`."""
    size = f"{format_size(copy.size_bytes):>10}"
    found = format_time(copy.found_at)
    kind = "only copy" if copy.is_only_copy else "replaced"
    reason = printable(copy.reason)
    return f"{copy.number:>6}  {size}  {found}  {kind:<9}  {copy.content_address}  {reason}"


def restoration_record(restoration: "Restoration") -> dict[str, object]:
    """Give the JSON document of a copy that was read again."""
    return {
        "number": restoration.number,
        "content_address": str(restoration.content_address),
        "restored": restoration.mismatch is None,
        "mismatch": restoration.mismatch,
    }


def restoration_line(restoration: "Restoration") -> str:
    """Give a copy that was read again as one line."""
    copy = f"{restoration.number:>6}  {restoration.content_address}"
    if restoration.mismatch is None:
        return f"restored  {copy}"
    return f"DAMAGED   {copy}  {printable(restoration.mismatch)}"


def purge_record(purged: "Purge") -> dict[str, object]:
    """Give the JSON document of a copy that was removed."""
    return {
        "number": purged.number,
        "content_address": str(purged.content_address),
        "was_only_copy": purged.was_only_copy,
    }


def purge_line(purged: "Purge") -> str:
    """Give a copy that was removed as one line."""
    kind = "  only copy" if purged.was_only_copy else ""
    return f"purged  {purged.number:>6}  {purged.content_address}{kind}"


def _objects(count: int) -> str:
    return f"{count} object{'' if count == 1 else 's'}"


def _aligned(facts: Mapping[str, str | None]) -> list[str]:
    width = max(map(len, facts))
    return [f"  {name:<{width}}  {fact}" for name, fact in facts.items()]
