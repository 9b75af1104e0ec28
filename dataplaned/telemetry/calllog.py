"""The log's line on a call."""

from typing import Final

import structlog

from ..calls import GONE, OK, Call
from .lines import is_written
from .traceparent import parse_traceparent

#: Codes of errors that are not of the caller's making.
_SERIOUS: Final = frozenset({"internal", "corrupt", "unavailable", "no_space"})

#: Codes that callers get in the course of their work, and by the thousand.
_ROUTINE: Final = frozenset({OK, "not_found", "out_of_range", "conflict"})

_log = structlog.get_logger(__name__)


class CallLog:
    """A `CallObserver`: a line for every call that failed, and at `debug` for every other.

    That there is no such object is no failure, but an answer.
    """

    def __call__(self, call: Call) -> None:
        """Log a call that has ended."""
        if call.code in _ROUTINE:
            if is_written("debug"):
                _log.debug("call", **describe(call))
        elif call.code in _SERIOUS:
            _log.warning("call", **describe(call))
        else:
            _log.info("call", **describe(call))


def describe(call: Call) -> dict[str, object]:
    """Give the fields of a call, without those that it has nothing for."""
    trace = parse_traceparent(call.trace)
    fields: dict[str, object] = {
        "op": call.op,
        "code": call.code,
        "uid": call.caller.uid,
        "pid": call.caller.pid,
        "socket": call.caller.socket,
        "connection": call.connection,
        "backend": call.backend_id,
        "object": call.address,
        "outcome": call.outcome,
        "received_bytes": call.received_bytes or None,
        "sent_bytes": call.sent_bytes or None,
        "duration_ms": round(call.duration_s * 1000, 3),
        "trace_id": None if trace is None else trace.trace_id,
        "reason": call.reason if call.code != GONE else None,
    }
    return {name: value for name, value in fields.items() if value is not None}
