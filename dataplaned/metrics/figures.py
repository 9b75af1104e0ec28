"""What is looked up for an answer, and not counted as it happens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .measures import CallMeasures, Histogram, StoreMeasures


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterFigures:
    """Threads for one purpose: how many there may be, are, and are waited for."""

    total: int
    borrowed: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendFigures:
    """One backend, as its last probe found it.

    Attributes:
        is_up: Whether it is not down.
        is_writable: Whether an ingest could succeed.
        free_bytes, total_bytes, objects: As of `BackendStatus`; `None` where it cannot tell.
        store: What its disk was asked for; `None` for one without a disk of its own.
        more: What it has beside that, such as `stored_bytes`, by name.
        scrub: Likewise of its scrub and quarantine, such as `due_objects`.
    """

    is_up: bool
    is_writable: bool
    free_bytes: int | None = None
    total_bytes: int | None = None
    objects: int | None = None
    store: StoreMeasures | None = None
    more: Mapping[str, float] = field(default_factory=dict[str, float])
    scrub: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything that a page of metrics is made of.

    Attributes:
        version: The daemon's.
        started_at: Seconds since 1970.
        is_draining: Whether it is stopping.
        connections: Open ones, by socket.
        in_flight: Open calls, by operation.
        held_bytes: Bytes of bodies that are held.
        calls: What was counted of calls.
        backends: By id.
        limiters: By purpose.
        loop_lag: How late the event loop came.
        audit_lost: Records of the audit that could not be written.
        log_lost: Lines of the log that could not be written.
    """

    version: str
    started_at: float
    is_draining: bool
    connections: Mapping[str, int]
    in_flight: Mapping[str, int]
    held_bytes: int
    calls: CallMeasures
    backends: Mapping[str, BackendFigures]
    limiters: Mapping[str, Sequence[LimiterFigures]]
    loop_lag: Histogram
    audit_lost: int
    log_lost: int
