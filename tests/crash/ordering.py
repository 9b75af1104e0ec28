"""In which order a store must reach the disk before a call is answered.

No power is cut here: a rule that is kept in the order of system calls holds on every filesystem
that honours fsync(2), also where a simulated power cut would lose nothing by luck.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from .syscalls import Call, Trace


class Rule(StrEnum):
    """What can be broken."""

    BYTES = "an object's bytes are synced after the last write and before they have a name"
    NAME = "the directory of a new name is synced before the answer"
    DIRECTORY = "the parent of a new directory is synced before the first answer after it"
    COMMIT = "the catalog's log is synced after its last write and before the answer"
    CHANGE = "a call that changes what exists commits to the catalog"
    REMOVAL = "a file is removed only after the commit that ends its object is synced"
    IMMUTABLE = "a file is not written once it has its name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A rule that was broken, and by what."""

    rule: Rule
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of the only client.

    Attributes:
        digest: BLAKE3 of the object, in hexadecimal.
        changes: Whether the store must look different after it.
        ends_a_copy: Whether the copy stored before, if that is a file, may go.
    """

    digest: str
    changes: bool = True
    ends_a_copy: bool = False


class Ordering:
    """The trace of a daemon that one client asked one thing after another.

    Args:
        trace: From the daemon's start on.
        root: The directory of its store.
        steps: The client's calls. The first answer is the greeting, then comes one for each.
    """

    def __init__(self, trace: Trace, root: str, steps: list[Step]) -> None:
        assert len(trace.answers) == 1 + len(steps), "there is not one answer to each call"
        self._trace = trace
        self._root = root
        self._objects = f"{root}/objects"
        self._log = f"{root}/catalog.sqlite3-wal"
        self._steps = steps

    def violations(self) -> list[Violation]:
        """Hold every call and every answer against the rules."""
        return [
            *self._bytes_before_names(),
            *self._names_before_answers(),
            *self._directories_before_answers(),
            *self._commits_before_answers(),
            *self._commits_before_removals(),
            *self._writes_to_objects(),
        ]

    def published(self, step: int) -> list[str]:
        """Give the names that came to be among the objects during a call, the first being 0."""
        begun, answer = self._span(step)
        return [
            name
            for call, _, name in self._trace.renames(self._objects)
            if begun < call.begun < answer.begun
        ]

    def _bytes_before_names(self) -> Iterator[Violation]:
        for rename, staged, name in self._trace.renames(self._objects):
            written = [w for w in self._trace.writes(staged) if w.begun < rename.begun]
            if not _is_synced(written, self._trace.syncs(staged), rename):
                yield Violation(rule=Rule.BYTES, subject=name)

    def _names_before_answers(self) -> Iterator[Violation]:
        for rename, _, name in self._trace.renames(self._objects):
            syncs = self._trace.syncs(name.rpartition("/")[0])
            answer = self._next_answer(rename)
            if answer and not _is_synced([rename], syncs, answer):
                yield Violation(rule=Rule.NAME, subject=name)

    def _directories_before_answers(self) -> Iterator[Violation]:
        for made, name in self._trace.made_directories(self._root):
            syncs = self._trace.syncs(name.rpartition("/")[0])
            answer = self._next_answer(made)
            if answer and not _is_synced([made], syncs, answer):
                yield Violation(rule=Rule.DIRECTORY, subject=name)

    def _commits_before_answers(self) -> Iterator[Violation]:
        syncs = self._trace.syncs(self._log)
        for number, step in enumerate(self._steps):
            begun, answer = self._span(number)
            written = [w for w in self._trace.writes(self._log) if w.begun < answer.begun]
            if not _is_synced(written, syncs, answer):
                yield Violation(rule=Rule.COMMIT, subject=f"call {number}")
            if step.changes and not any(w.begun > begun for w in written):
                yield Violation(rule=Rule.CHANGE, subject=f"call {number}")

    def _commits_before_removals(self) -> Iterator[Violation]:
        syncs = self._trace.syncs(self._log)
        for removal, name in self._trace.removals(self._objects):
            number = self._end_of(name)
            if number is None:
                yield Violation(rule=Rule.REMOVAL, subject=name)
                continue
            begun, answer = self._span(number)
            limit = min(removal.begun, answer.begun)
            written = [w for w in self._trace.writes(self._log) if begun < w.begun < limit]
            if not written or not _is_synced(written, syncs, removal):
                yield Violation(rule=Rule.REMOVAL, subject=name)

    def _writes_to_objects(self) -> Iterator[Violation]:
        for write in self._trace.writes_below(self._objects):
            yield Violation(rule=Rule.IMMUTABLE, subject=str(write.target))

    def _span(self, step: int) -> tuple[int, Call]:
        """Give the line of the answer before a call, and its own answer."""
        return self._trace.answers[step].begun, self._trace.answers[step + 1]

    def _next_answer(self, call: Call) -> Call | None:
        return next((a for a in self._trace.answers if a.begun > call.begun), None)

    def _end_of(self, name: str) -> int | None:
        """Find the call after which a file is not needed any more."""
        published = next((n for n in range(len(self._steps)) if name in self.published(n)), -1)
        digest = name.rpartition("/")[2].partition(".")[0]
        return next(
            (
                number
                for number, step in enumerate(self._steps)
                if number > published and step.ends_a_copy and step.digest == digest
            ),
            None,
        )


def _is_synced(changes: Iterable[Call], syncs: Iterable[Call], before: Call) -> bool:
    """Whether one sync began after all the changes were done and was over before a call began."""
    last = max((change.ended for change in changes), default=-1)
    return any(last < sync.begun and sync.ended < before.begun for sync in syncs)
