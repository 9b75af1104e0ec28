"""Cases, and what became of them."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

T = TypeVar("T")


class Level(StrEnum):
    """How binding a case is."""

    MUST = "must"
    SHOULD = "should"


class Outcome(StrEnum):
    """What became of a case."""

    PASSED = "pass"
    FAILED = "fail"
    SKIPPED = "skip"


class Ending(StrEnum):
    """How the connection that a case looked at ended, apart from its verdict."""

    NONE = "none"
    OPEN = "still open"
    CLOSED = "clean close"
    ERROR = "error, then close"
    RESET = "reset"
    OURS = "closed by the kit"


class FailedError(Exception):
    """The other side did something else than it has to."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected = expected
        self.got = got


class SkippedError(Exception):
    """The case cannot be played here; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One case, played.

    Attributes:
        expected: What the contract asks for where it failed, else empty.
        got: What came instead, or why it was skipped.
    """

    case_id: str
    title: str
    level: Level
    outcome: Outcome
    ending: Ending
    seconds: float
    expected: str = ""
    got: str = ""

    @property
    def section(self) -> str:
        """The section of `SPEC.md` that the case is about."""
        return self.case_id.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Case(Generic[T]):
    """Something to play against a subject, which is a daemon or a client.

    Attributes:
        case_id: Section and short name; never given to another case.
        title: What the contract asks for.
        play: Plays it; returns when all is as it has to be.

    `play` raises `FailedError` or `SkippedError` otherwise.
    """

    case_id: str
    title: str
    level: Level
    play: Callable[[T], None]

    def is_chosen(self, patterns: Iterable[str]) -> bool:
        """Whether one of the patterns is its id, or a glob that matches it; none means all."""
        wanted = list(patterns)
        return not wanted or any(fnmatchcase(self.case_id, pattern) for pattern in wanted)

    def judge(self, subject: T, ending: Callable[[], Ending]) -> Verdict:
        """Play it and put down what became of it."""
        outcome, expected, got = Outcome.PASSED, "", ""
        start = time.monotonic()
        try:
            self.play(subject)
        except FailedError as exc:
            outcome, expected, got = Outcome.FAILED, exc.expected, exc.got
        except SkippedError as exc:
            outcome, got = Outcome.SKIPPED, str(exc)
        return Verdict(
            case_id=self.case_id,
            title=self.title,
            level=self.level,
            outcome=outcome,
            ending=ending(),
            seconds=time.monotonic() - start,
            expected=expected,
            got=got,
        )


@dataclass(slots=True)
class Group(Generic[T]):
    """The cases of one module, in the order in which they are written down."""

    cases: list[Case[T]] = field(default_factory=list["Case[T]"])

    def must(self, section: str) -> Callable[[Callable[[T], None]], Callable[[T], None]]:
        """Make a function a case of a section; its name and docstring become id and title."""
        return self._add(section, Level.MUST)

    def should(self, section: str) -> Callable[[Callable[[T], None]], Callable[[T], None]]:
        """Do as `must` for something that the contract recommends."""
        return self._add(section, Level.SHOULD)

    def __iter__(self) -> Iterator[Case[T]]:
        return iter(self.cases)

    def _add(
        self, section: str, level: Level
    ) -> Callable[[Callable[[T], None]], Callable[[T], None]]:
        def add(play: Callable[[T], None]) -> Callable[[T], None]:
            title = (play.__doc__ or "").strip().splitlines()[0]
            self.cases.append(Case(case_id(section, play.__name__), title, level, play))
            return play

        return add


def case_id(section: str, name: str) -> str:
    """Give the id of a case from its section and its name in words."""
    return f"{section}/{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}"


def shown(value: object) -> str:
    """Give what came, in few enough characters for one line."""
    if isinstance(value, bytes):
        text = value[:24].hex()
        return f"{len(value)} bytes of data, {text}{'...' if len(value) > 24 else ''}"
    text = "end of the connection" if value is None else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:297]}..."
