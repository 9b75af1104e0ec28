"""What is known of one call when it has ended: for the log, the audit, the metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from .access import Caller

#: What a call that succeeded has in place of an error's code.
OK: Final = "ok"

#: What a call has whose caller did not wait for its answer.
GONE: Final = "gone"


@dataclass(slots=True, kw_only=True)
class Call:
    """One call, filled in as it goes on and told to observers once, at its end.

    Attributes:
        op: The operation's name; `unknown` for one that this daemon does not have, whatever the
            caller wrote.
        caller: Who made it.
        connection: Number of the connection, from 1 on, of this run of the daemon.
        started: Seconds of the monotonic clock when its request was read.
        duration_s: From then until its answer was handed on, with its last byte.
        backend_id: The backend that was meant, where that is known.
        address: The object that it is about, or that came out of it.
        received_bytes: Of the body that the caller sent.
        sent_bytes: Of the body that went to the caller; all of it for a descriptor.
        trace: The `traceparent` that came with it, checked; `None` for anything else.
        outcome: A word on how it ended well: that of an ingest's receipt, `deleted` or `absent`,
            `verified` or `corrupt`.
        code: `ok`, the code of the error that the caller was answered with, or `gone` when the
            caller did not wait for the answer.
        reason: The error's message, for the log only: it may hold text of the caller.
    """

    op: str
    caller: Caller
    connection: int
    started: float
    duration_s: float = 0.0
    backend_id: str | None = None
    address: str | None = None
    received_bytes: int = 0
    sent_bytes: int = 0
    trace: str | None = None
    outcome: str | None = None
    code: str = OK
    reason: str | None = None


#: Is told of every call at its end, in trio's thread. Must not block or raise.
CallObserver: TypeAlias = Callable[[Call], None]


def outcome_of_delete(*, deleted: bool) -> str:
    """Give the word on how a delete ended."""
    return "deleted" if deleted else "absent"


def outcome_of_verify(*, verified: bool) -> str:
    """Give the word on how a verify ended."""
    return "verified" if verified else "corrupt"
