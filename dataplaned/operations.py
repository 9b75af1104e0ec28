"""The operations that this daemon has beside the contract's, as they are on the wire.

Names that begin with `dataplaned.` are this daemon's (`SPEC.md` 10-7). Their calls have no
bodies, and their arguments and results keep the contract's rules for keys and words that one
side does not know. `maintenance.py` carries them out, the command line asks for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from dataplane_protocol import (
    ContentAddress,
    Fields,
    InvalidRequestError,
    RemoteProtocolError,
    to_milliseconds,
)

from .backends.maintenance import QuarantinedCopy, ScrubStatus

#: Entries of a page. With the longest reason one takes 600 bytes at most, so that a page
#: leaves some of its control frame for keys added later.
MAX_PAGE: Final = 100

#: Characters of a reason that are sent.
_MAX_REASON: Final = 100


class MaintenanceOperation(StrEnum):
    """Every operation of this daemon's own."""

    SCRUB_STATUS = "dataplaned.scrub_status"
    SCRUB_START = "dataplaned.scrub_start"
    SCRUB_PAUSE = "dataplaned.scrub_pause"
    QUARANTINE_LIST = "dataplaned.quarantine_list"
    QUARANTINE_RESTORE = "dataplaned.quarantine_restore"
    QUARANTINE_PURGE = "dataplaned.quarantine_purge"
    BACK_UP = "dataplaned.back_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendArguments:
    """Arguments of the scrub's operations and of `back_up`: the backend, or the default one."""

    backend_id: str | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the `args` map."""
        return _present(backend_id=self.backend_id)

    @classmethod
    def from_wire(cls, args: Mapping[str, object]) -> Self:
        """Read the `args` map."""
        return cls(backend_id=_args(args).optional_text("backend_id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineListArguments:
    """Arguments of `quarantine_list`: one page of at most `limit` copies after a number."""

    after: int = 0
    limit: int = MAX_PAGE
    backend_id: str | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the `args` map."""
        return _present(after=self.after, limit=self.limit, backend_id=self.backend_id)

    @classmethod
    def from_wire(cls, args: Mapping[str, object]) -> Self:
        """Read the `args` map."""
        fields = _args(args)
        limit = fields.optional_size("limit", least=1, most=MAX_PAGE)
        return cls(
            after=fields.optional_size("after") or 0,
            limit=MAX_PAGE if limit is None else limit,
            backend_id=fields.optional_text("backend_id"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyArguments:
    """Arguments of `quarantine_restore` and `quarantine_purge`: one copy."""

    number: int
    backend_id: str | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the `args` map."""
        return _present(number=self.number, backend_id=self.backend_id)

    @classmethod
    def from_wire(cls, args: Mapping[str, object]) -> Self:
        """Read the `args` map."""
        fields = _args(args)
        return cls(
            number=fields.size("number", least=1), backend_id=fields.optional_text("backend_id")
        )


def scrub_status_to_wire(status: ScrubStatus) -> dict[str, object]:
    """Give the `ok` map of each operation of the scrub."""
    oldest = status.oldest_verification
    return _present(
        backend_id=status.backend_id,
        state=str(status.state),
        due_objects=status.due_objects,
        due_bytes=status.due_bytes,
        rate=status.rate,
        oldest_verification_ms=None if oldest is None else to_milliseconds(oldest),
        verified_objects=status.verified_objects,
        verified_bytes=status.verified_bytes,
        rotten_objects=status.rotten_objects,
        quarantined=status.quarantined,
    )


def scrub_status_from_wire(result: Mapping[str, object]) -> ScrubStatus:
    """Read the `ok` map of an operation of the scrub."""
    fields = _ok(result)
    return ScrubStatus(
        backend_id=fields.text("backend_id"),
        state=fields.text("state"),
        due_objects=fields.size("due_objects"),
        due_bytes=fields.size("due_bytes"),
        rate=fields.size("rate"),
        oldest_verification=fields.optional_moment("oldest_verification_ms"),
        verified_objects=fields.size("verified_objects"),
        verified_bytes=fields.size("verified_bytes"),
        rotten_objects=fields.size("rotten_objects"),
        quarantined=fields.size("quarantined"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinePage:
    """A page of the copies in quarantine, and whether more follow."""

    copies: tuple[QuarantinedCopy, ...]
    more: bool

    def to_wire(self) -> dict[str, object]:
        """Give the `ok` map."""
        return {"copies": [_copy_to_wire(copy) for copy in self.copies], "more": self.more}

    @classmethod
    def from_wire(cls, result: Mapping[str, object]) -> Self:
        """Read the `ok` map."""
        fields = _ok(result)
        return cls(
            copies=tuple(_copy(entry) for entry in fields.maps("copies", most=MAX_PAGE)),
            more=fields.boolean("more"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """How a copy was read again.

    Attributes:
        number: The number that it had in quarantine.
        content_address: The object that it is a copy of.
        mismatch: What is still wrong with it; `None` when it is the object's copy again.
    """

    number: int
    content_address: ContentAddress
    mismatch: str | None

    def to_wire(self) -> dict[str, object]:
        """Give the `ok` map."""
        return _present(
            number=self.number,
            content_address=str(self.content_address),
            mismatch=None if self.mismatch is None else self.mismatch[:_MAX_REASON],
        )

    @classmethod
    def from_wire(cls, result: Mapping[str, object]) -> Self:
        """Read the `ok` map."""
        fields = _ok(result)
        return cls(
            number=fields.size("number"),
            content_address=fields.address("content_address"),
            mismatch=fields.optional_text("mismatch"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """A copy that was removed for good.

    Attributes:
        number: The number that it had in quarantine.
        content_address: The object that it was a copy of.
        was_only_copy: Whether the object went with it.
    """

    number: int
    content_address: ContentAddress
    was_only_copy: bool

    def to_wire(self) -> dict[str, object]:
        """Give the `ok` map."""
        return {
            "number": self.number,
            "content_address": str(self.content_address),
            "was_only_copy": self.was_only_copy,
        }

    @classmethod
    def from_wire(cls, result: Mapping[str, object]) -> Self:
        """Read the `ok` map."""
        fields = _ok(result)
        return cls(
            number=fields.size("number"),
            content_address=fields.address("content_address"),
            was_only_copy=fields.boolean("was_only_copy"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup that was written: of which backend, and the path on the daemon's machine."""

    backend_id: str
    path: str

    def to_wire(self) -> dict[str, object]:
        """Give the `ok` map."""
        # Names of files need not be text, what is on the wire must.
        path = self.path.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return {"backend_id": self.backend_id, "path": path}

    @classmethod
    def from_wire(cls, result: Mapping[str, object]) -> Self:
        """Read the `ok` map."""
        fields = _ok(result)
        return cls(backend_id=fields.text("backend_id"), path=fields.text("path"))


def _copy_to_wire(copy: QuarantinedCopy) -> dict[str, object]:
    return {
        "number": copy.number,
        "content_address": str(copy.content_address),
        "size_bytes": copy.size_bytes,
        "reason": copy.reason[:_MAX_REASON],
        "found_at_ms": to_milliseconds(copy.found_at),
        "is_only_copy": copy.is_only_copy,
    }


def _copy(fields: Fields) -> QuarantinedCopy:
    return QuarantinedCopy(
        number=fields.size("number"),
        content_address=fields.address("content_address"),
        size_bytes=fields.size("size_bytes"),
        reason=fields.text("reason"),
        found_at=fields.moment("found_at_ms"),
        is_only_copy=fields.boolean("is_only_copy"),
    )


def _args(args: Mapping[str, object]) -> Fields:
    return Fields(args, "args", InvalidRequestError)


def _ok(result: Mapping[str, object]) -> Fields:
    return Fields(result, "ok", RemoteProtocolError)


def _present(**values: object) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}
