"""How the daemon is, as its own operations tell the command line.

As for operations.py: no bodies, and the contract's rules for keys and words that one side does
not know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from dataplane_protocol import (
    Fields,
    InvalidRequestError,
    RemoteProtocolError,
    to_milliseconds,
)

STATUS: Final = "dataplaned.status"
CONNECTIONS: Final = "dataplaned.connections"
METRICS: Final = "dataplaned.metrics"

#: Connections of a page.
MAX_CONNECTIONS: Final = 200

#: Backends that are told of.
_MAX_BACKENDS: Final = 100

#: Characters of the metrics' text that one answer has.
METRICS_CHUNK: Final = 32_768

_MAX_MESSAGE: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatus:
    """What is known of one connection.

    Attributes:
        number: From 1 on, of this run.
        uid: User of the peer.
        pid: Its process at the connect; it may be another's by now.
        socket: Name of the socket that it came by.
        since: When it was accepted.
        calls: How many calls have ended on it.
        op: The call that is open, if one is.
        op_since: When that began.
        received_bytes: Of the bodies of calls that have ended.
        sent_bytes: Likewise.
    """

    number: int
    uid: int
    pid: int
    socket: str
    since: datetime
    calls: int
    op: str | None
    op_since: datetime | None
    received_bytes: int
    sent_bytes: int

    def to_wire(self) -> dict[str, object]:
        """Give the map."""
        return _present(
            number=self.number,
            uid=self.uid,
            pid=self.pid,
            socket=self.socket,
            since_ms=to_milliseconds(self.since),
            calls=self.calls,
            op=self.op,
            op_since_ms=None if self.op_since is None else to_milliseconds(self.op_since),
            received_bytes=self.received_bytes,
            sent_bytes=self.sent_bytes,
        )

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the map."""
        return cls(
            number=fields.size("number"),
            uid=fields.size("uid"),
            pid=fields.size("pid"),
            socket=fields.text("socket"),
            since=fields.moment("since_ms"),
            calls=fields.size("calls"),
            op=fields.optional_text("op"),
            op_since=fields.optional_moment("op_since_ms"),
            received_bytes=fields.size("received_bytes"),
            sent_bytes=fields.size("sent_bytes"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReport:
    """One backend.

    Attributes:
        backend_id: Its id.
        state: A word of `BackendState`.
        writable: Whether an ingest could succeed.
        message: Why it is not well.
        free_bytes, total_bytes, objects, stored_bytes: Where it can tell.
        scrub: A word of `ScrubState`, if it has a scrub, and so on.
        due_objects: Objects that are due for a verification.
        due_bytes: Their bytes.
        oldest_verification: When the longest unverified object was last seen to be right.
        rotten_objects: Bad objects that the scrub has found since the daemon started.
        quarantined: Copies in quarantine.
    """

    backend_id: str
    state: str
    writable: bool
    message: str | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None
    objects: int | None = None
    stored_bytes: int | None = None
    scrub: str | None = None
    due_objects: int | None = None
    due_bytes: int | None = None
    oldest_verification: datetime | None = None
    rotten_objects: int | None = None
    quarantined: int | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the map."""
        oldest = self.oldest_verification
        return _present(
            backend_id=self.backend_id,
            state=self.state,
            writable=self.writable,
            message=None if self.message is None else self.message[:_MAX_MESSAGE],
            free_bytes=self.free_bytes,
            total_bytes=self.total_bytes,
            objects=self.objects,
            stored_bytes=self.stored_bytes,
            scrub=self.scrub,
            due_objects=self.due_objects,
            due_bytes=self.due_bytes,
            oldest_verification_ms=None if oldest is None else to_milliseconds(oldest),
            rotten_objects=self.rotten_objects,
            quarantined=self.quarantined,
        )

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read the map."""
        return cls(
            backend_id=fields.text("backend_id"),
            state=fields.text("state"),
            writable=fields.boolean("writable"),
            message=fields.optional_text("message"),
            free_bytes=fields.optional_size("free_bytes"),
            total_bytes=fields.optional_size("total_bytes"),
            objects=fields.optional_size("objects"),
            stored_bytes=fields.optional_size("stored_bytes"),
            scrub=fields.optional_text("scrub"),
            due_objects=fields.optional_size("due_objects"),
            due_bytes=fields.optional_size("due_bytes"),
            oldest_verification=fields.optional_moment("oldest_verification_ms"),
            rotten_objects=fields.optional_size("rotten_objects"),
            quarantined=fields.optional_size("quarantined"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonReport:
    """The daemon as a whole; totals are of this run.

    Attributes:
        version: Its version.
        pid: Its process.
        started_at: When the run began.
        now: The daemon's clock.
        is_draining: Whether it is stopping.
        connections: Open ones.
        calls_in_flight: Open calls.
        held_bytes: Bytes of bodies that are held.
        calls_total: Calls that have ended.
        errors_total: Those that ended with an error.
        received_bytes_total: Bytes of bodies that callers have sent.
        sent_bytes_total: Bytes of bodies that they were given.
        audit_lost: Records of the audit that could not be written.
        backends: The backends, and what those are made of.
    """

    version: str
    pid: int
    started_at: datetime
    now: datetime
    is_draining: bool
    connections: int
    calls_in_flight: int
    held_bytes: int
    calls_total: int
    errors_total: int
    received_bytes_total: int
    sent_bytes_total: int
    audit_lost: int
    backends: tuple[BackendReport, ...]

    def to_wire(self) -> dict[str, object]:
        """Give the `ok` map."""
        return {
            "version": self.version,
            "pid": self.pid,
            "started_at_ms": to_milliseconds(self.started_at),
            "now_ms": to_milliseconds(self.now),
            "is_draining": self.is_draining,
            "connections": self.connections,
            "calls_in_flight": self.calls_in_flight,
            "held_bytes": self.held_bytes,
            "calls_total": self.calls_total,
            "errors_total": self.errors_total,
            "received_bytes_total": self.received_bytes_total,
            "sent_bytes_total": self.sent_bytes_total,
            "audit_lost": self.audit_lost,
            "backends": [backend.to_wire() for backend in self.backends[:_MAX_BACKENDS]],
        }

    @classmethod
    def from_wire(cls, result: Mapping[str, object]) -> Self:
        """Read the `ok` map."""
        fields = _ok(result)
        return cls(
            version=fields.text("version"),
            pid=fields.size("pid"),
            started_at=fields.moment("started_at_ms"),
            now=fields.moment("now_ms"),
            is_draining=fields.boolean("is_draining"),
            connections=fields.size("connections"),
            calls_in_flight=fields.size("calls_in_flight"),
            held_bytes=fields.size("held_bytes"),
            calls_total=fields.size("calls_total"),
            errors_total=fields.size("errors_total"),
            received_bytes_total=fields.size("received_bytes_total"),
            sent_bytes_total=fields.size("sent_bytes_total"),
            audit_lost=fields.size("audit_lost"),
            backends=tuple(
                BackendReport.from_fields(entry)
                for entry in fields.maps("backends", most=_MAX_BACKENDS)
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PageArguments:
    """Arguments of `connections` and `metrics`: where to go on.

    Attributes:
        after: The number of the last connection of the page before, or the characters that one
            has of the text; 0 at the start.
        of: The text that is gone on with, as its first piece has named it.
    """

    after: int = 0
    of: int | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the `args` map."""
        return _present(after=self.after, of=self.of)

    @classmethod
    def from_wire(cls, args: Mapping[str, object]) -> Self:
        """Read the `args` map."""
        fields = Fields(args, "args", InvalidRequestError)
        return cls(after=fields.optional_size("after") or 0, of=fields.optional_size("of"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionPage:
    """A page of the connections, and whether more follow."""

    connections: tuple[ConnectionStatus, ...]
    more: bool

    def to_wire(self) -> dict[str, object]:
        """Give the `ok` map."""
        return {"connections": [each.to_wire() for each in self.connections], "more": self.more}

    @classmethod
    def from_wire(cls, result: Mapping[str, object]) -> Self:
        """Read the `ok` map."""
        fields = _ok(result)
        return cls(
            connections=tuple(
                ConnectionStatus.from_fields(entry)
                for entry in fields.maps("connections", most=MAX_CONNECTIONS)
            ),
            more=fields.boolean("more"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPiece:
    """A piece of the page of metrics.

    Attributes:
        text: The piece.
        of: Names the page, for the pieces that follow.
        more: Whether there are any.
    """

    text: str
    of: int
    more: bool

    def to_wire(self) -> dict[str, object]:
        """Give the `ok` map."""
        return {"text": self.text, "of": self.of, "more": self.more}

    @classmethod
    def from_wire(cls, result: Mapping[str, object]) -> Self:
        """Read the `ok` map."""
        fields = _ok(result)
        return cls(text=fields.text("text"), of=fields.size("of"), more=fields.boolean("more"))


def _ok(result: Mapping[str, object]) -> Fields:
    return Fields(result, "ok", RemoteProtocolError)


def _present(**values: object) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}
