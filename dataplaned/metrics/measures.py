"""Counts and times, taken where things happen, at the cost of a few additions.

What is labelled is bounded: operations, codes of errors, outcomes and ids of backends that are
configured. No address and no text of a caller becomes a label.
"""

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final

from ..calls import Call

#: Upper bounds of times in seconds: of a call, from one of the quick ones to a large body.
CALL_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

#: The same for a disk, and for the event loop.
DISK_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
    30.0,
)  # fmt: skip

#: Changes in one transaction.
GROUP_SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

#: What is said of a backend that a caller made up.
UNKNOWN_BACKEND: Final = "unknown"


class Histogram:
    """How often values fell between bounds. One thread adds to it at a time.

    Args:
        bounds: Upper bounds, included, in ascending order.

    Attributes:
        bounds: Likewise.
        counts: Between each bound and the one before, and beyond the last.
        total: Sum of the values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class CallMeasures:
    """A `CallObserver` that counts.

    Args:
        backend_ids: Those that are configured; the first is the default one.

    Attributes:
        calls: By operation and code.
        outcomes: Of those that went well, by operation, backend and outcome.
        seconds: Times by operation.
        received_bytes: Of bodies that callers have sent, by backend.
        sent_bytes: Of bodies that they were given, by backend.
    """

    def __init__(self, backend_ids: Collection[str]) -> None:
        self._known = frozenset(backend_ids)
        self._default = next(iter(backend_ids), UNKNOWN_BACKEND)
        self.calls: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.outcomes: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.seconds: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(CALL_SECONDS))
        self.received_bytes: dict[str, int] = dict.fromkeys(backend_ids, 0)
        self.sent_bytes: dict[str, int] = dict.fromkeys(backend_ids, 0)

    def __call__(self, call: Call) -> None:
        """Count a call that has ended."""
        self.calls[call.op, call.code] += 1
        self.seconds[call.op].add(call.duration_s)
        if call.outcome is not None or call.received_bytes or call.sent_bytes:
            self._count_more(call)

    def _count_more(self, call: Call) -> None:
        backend = self._default if call.backend_id is None else call.backend_id
        if backend not in self._known:
            # Of this daemon's own operations, one that a mirror is made of.
            return
        if call.outcome is not None:
            self.outcomes[call.op, backend, call.outcome] += 1
        self.received_bytes[backend] += call.received_bytes
        self.sent_bytes[backend] += call.sent_bytes


class StoreMeasures:
    """What one store's disk was asked for. Several threads count here.

    Attributes:
        sync_seconds: Times of fsync(2), by what was synced: `data` or `directory`.
        commit_seconds: Times of transactions of the catalog, their sync included.
        group_sizes: Changes in each of them.
        rotten: Bad copies that were found.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sync_seconds = {kind: Histogram(DISK_SECONDS) for kind in ("data", "directory")}
        self.commit_seconds = Histogram(DISK_SECONDS)
        self.group_sizes = Histogram(GROUP_SIZES)
        self.rotten = 0

    def add_sync(self, kind: str, seconds: float) -> None:
        """Count an fsync(2)."""
        with self._lock:
            self.sync_seconds[kind].add(seconds)

    def add_commit(self, seconds: float, changes: int) -> None:
        """Count a transaction. Called by the one thread that makes them."""
        self.commit_seconds.add(seconds)
        self.group_sizes.add(changes)

    def add_rotten(self) -> None:
        """Count a bad copy."""
        with self._lock:
            self.rotten += 1


_stores: Final[dict[str, StoreMeasures]] = {}


def store_measures(backend_id: str) -> StoreMeasures:
    """Give what is measured of a backend's store, from its first mention on."""
    return _stores.setdefault(backend_id, StoreMeasures())
