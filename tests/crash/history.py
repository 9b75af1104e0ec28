"""What a store was asked and what it answered, and what may therefore be in it after a crash."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf


@dataclass(slots=True)
class Operation:
    """One ingest or delete.

    Attributes:
        leaves_it: Whether the object is there once this has been done: an ingest.
        begun: The mark that was put down before the daemon was asked.
        ended: The one after its answer, or after it had died without one.
        is_acknowledged: Whether there was an answer.
    """

    leaves_it: bool
    begun: int
    ended: int | None = None
    is_acknowledged: bool = False


@dataclass(slots=True)
class Damage:
    """A copy that was spoiled behind the daemon's back.

    Attributes:
        begun: The mark before that.
        heals: The ingest that mends it.
    """

    begun: int
    heals: Operation | None = None


@dataclass(slots=True)
class _Record:
    operations: list[Operation] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)


class History:
    """All that happened to the objects of one store. Threads may record at the same time.

    Args:
        mark: Puts a mark down in the order of the disk's writes and gives its number.
    """

    def __init__(self, mark: Callable[[], int]) -> None:
        self._mark = mark
        self._records: dict[str, _Record] = {}
        self._news = threading.Condition()
        self._acknowledged = 0

    @property
    def names(self) -> list[str]:
        """The names of all objects that were ever asked for."""
        return list(self._records)

    @property
    def acknowledged(self) -> int:
        """How many operations were acknowledged."""
        return self._acknowledged

    def begin(self, name: str, *, leaves_it: bool) -> Operation:
        """Note that the daemon is about to be asked."""
        operation = Operation(leaves_it=leaves_it, begun=self._mark())
        with self._news:
            self._records.setdefault(name, _Record()).operations.append(operation)
        return operation

    def acknowledge(self, operation: Operation) -> None:
        """Note that the answer is here: from now on it is owed."""
        operation.ended = self._mark()
        operation.is_acknowledged = True
        with self._news:
            self._acknowledged += 1
            self._news.notify_all()

    def give_up(self, operation: Operation) -> None:
        """Note that there will be no answer and nothing more will be done."""
        operation.ended = self._mark()

    def damage(self, name: str) -> Damage:
        """Note that a copy is about to be spoiled."""
        damage = Damage(self._mark())
        self._records[name].damages.append(damage)
        return damage

    def wait_for(self, acknowledged: int, timeout_s: float) -> bool:
        """Wait until so many operations have been acknowledged; false when they were not."""
        with self._news:
            return self._news.wait_for(lambda: self._acknowledged >= acknowledged, timeout_s)

    def outcomes(self, name: str, positions: Mapping[int, int], point: int) -> set[bool]:
        """Say whether an object may be there, and whether it may be missing, after a crash.

        Args:
            name: The object.
            positions: Where in the log each mark is.
            point: Where the log ended.
        """
        begun = [op for op in self._records[name].operations if positions[op.begun] < point]

        def end(operation: Operation) -> float:
            position = inf if operation.ended is None else positions[operation.ended]
            return position if position < point else inf

        owed = [op for op in begun if op.is_acknowledged and end(op) < inf]
        # The last to have its way is any that no other, owed one came entirely after.
        possible = {
            op.leaves_it
            for op in begun
            if not any(positions[later.begun] > end(op) for later in owed)
        }
        return possible if owed else possible | {False}

    def is_damaged(self, name: str, positions: Mapping[int, int], point: int) -> bool:
        """Whether a copy may be bad at a crash through no fault of the daemon's."""
        for damage in self._records[name].damages:
            heals = damage.heals
            healed = inf if heals is None or heals.ended is None else positions[heals.ended]
            if positions[damage.begun] < point <= healed:
                return True
        return False
