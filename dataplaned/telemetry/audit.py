"""The audit: who took what in, deleted it, set it aside or was refused.

A record is handed to the kernel within one turn of the event loop of the call's end, together
with all others of that turn: at once, before the next call of anybody is looked at, but perhaps
just after the caller has read its answer. It is not synced. Whoever kills the daemon or cuts
the power can lose the last ones; records that could not be written are counted, told in the log,
and show as a gap in `audit_seq`, which counts from 1 in every run of the daemon.
"""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog
import trio

from dataplane_protocol import Operation

from ..calls import Call
from .calllog import describe
from .lines import current_sink, set_watcher

#: Operations of the contract that are recorded; of the daemon's own, all that are an
#: administrator's are.
_RECORDED: Final = frozenset({Operation.INGEST_STREAM.value, Operation.DELETE_OBJECT.value})

#: Operations of the daemon's own that only look.
_LOOKING: Final = frozenset(
    {
        "dataplaned.status",
        "dataplaned.metrics",
        "dataplaned.connections",
        "dataplaned.scrub_status",
        "dataplaned.quarantine_list",
    }
)

#: Events of the log that are records too: what the daemon does by itself.
_EVENTS: Final = frozenset({"rotten"})

#: What a line of the log has, and a record has already.
_OF_LINES: Final = frozenset({"event", "level", "timestamp"})

_DENIED: Final = "denied"

_OPEN_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

_log = structlog.get_logger(__name__)


class Audit:
    """A `CallObserver` that keeps the record.

    Args:
        place: `log`, `off`, or the path of a file; see `LogConfig`.

    Raises:
        OSError: The file cannot be opened.

    Attributes:
        lost: Records that could not be written.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._fd = -1
        self._number = 0
        self._waiting: list[dict[str, Any]] = []
        self._is_failing = False
        self._is_torn = False
        self.lost = 0
        if place not in ("log", "off"):
            self._fd = os.open(place, _OPEN_FLAGS, 0o640)
        set_watcher(self._watch)

    def close(self) -> None:
        """Write what waits, and let go."""
        set_watcher(None)
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def reopen(self) -> None:
        """Open the file again by its name, as when it was moved away for a new one.

        Raises:
            OSError: It cannot be opened; the one before goes on being used.
        """
        if self._fd < 0:
            return
        self.flush()
        fd = os.open(self._place, _OPEN_FLAGS, 0o640)
        os.close(self._fd)
        self._fd = fd
        self._is_torn = False

    def __call__(self, call: Call) -> None:
        """Record a call that has ended, if it is one to be recorded."""
        op = call.op
        if op in _RECORDED or call.code == _DENIED or self._is_administrative(op):
            self._note(describe(call))

    def _watch(self, event: Mapping[str, Any]) -> None:
        if event.get("event") in _EVENTS:
            fields = {name: event[name] for name in event if name not in _OF_LINES}
            self._note({"op": event["event"], "by": "dataplaned", **fields})

    def flush(self) -> None:
        """Write what waits."""
        records, self._waiting = self._waiting, []
        if not records:
            return
        if self._fd >= 0:
            self._append(records)
        elif (sink := current_sink()) is not None:
            lines = [sink.render(None, "info", {"level": "info", **each}) for each in records]
            before = sink.lost
            for line in sink.join(lines):
                sink.write(line)
            self.lost += sink.lost - before

    @staticmethod
    def _is_administrative(op: str) -> bool:
        return op.startswith("dataplaned.") and op not in _LOOKING

    def _note(self, fields: dict[str, Any]) -> None:
        if self._place == "off":
            return
        self._number += 1
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        head = {"event": "audit", "audit_seq": self._number, "timestamp": f"{moment[:-6]}Z"}
        if not self._waiting:
            self._flush_soon()
        self._waiting.append(head | fields)

    def _flush_soon(self) -> None:
        try:
            trio.lowlevel.current_trio_token().run_sync_soon(self.flush)
        except RuntimeError:
            # Outside of an event loop; whoever uses it there calls `flush`.
            return

    def _append(self, records: list[dict[str, Any]]) -> None:
        text = "".join(f"{json.dumps(record)}\n" for record in records)
        # What was cut off in the middle of a line must not spoil the next one.
        data = (b"\n" if self._is_torn else b"") + text.encode()
        try:
            written = os.write(self._fd, data)
        except OSError as exc:
            self._tell_of(exc.strerror or "", len(records))
            return
        if written < len(data):
            self._is_torn = True
            self._tell_of("it was cut short", data[written:].count(b"\n"))
            return
        self._is_torn = False
        self._is_failing = False

    def _tell_of(self, reason: str, lost: int) -> None:
        self.lost += lost
        if not self._is_failing:
            # Said once and not for every record.
            _log.error("audit_failed", path=self._place, reason=reason)
        self._is_failing = True
