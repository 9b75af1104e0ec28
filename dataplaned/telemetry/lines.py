"""Log lines: for people on a terminal, fields in systemd's journal, JSON elsewhere."""

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, TextIO, TypeAlias

import structlog

from ..config import LogConfig
from .journal import Journal, entry_of, is_standard_error

_Event: TypeAlias = MutableMapping[str, Any]

#: Characters of a text that a line shows; of a traceback, more.
_MAX_TEXT: Final = 2048
_MAX_TRACEBACK: Final = 32_768

#: Numbers of levels, by the names that structlog's methods have.
_LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
}


class Sink(ABC):
    """Where lines go, and how they look there.

    Whoever cannot be written to costs the daemon nothing but the line, which is counted.

    Attributes:
        lost: Lines that were not taken.
    """

    lost = 0

    @abstractmethod
    def render(self, _logger: object, level: str, event: _Event) -> str | bytes:
        """Give one line of an event."""

    @abstractmethod
    def write(self, line: str | bytes) -> None:
        """Write one line, or several at once."""

    @abstractmethod
    def join(self, lines: list[Any]) -> list[Any]:
        """Make as few writes of several lines as can be."""


class _Stream(Sink):
    """Lines on standard error."""

    def __init__(self, stream: TextIO, renderer: Any) -> None:
        self._stream = stream
        self._renderer = renderer

    def render(self, _logger: object, level: str, event: _Event) -> str | bytes:
        return f"{self._renderer(_logger, level, event)}\n"

    def write(self, line: str | bytes) -> None:
        try:
            self._stream.write(line if isinstance(line, str) else line.decode())
            self._stream.flush()
        except (OSError, ValueError):
            self.lost += 1

    def join(self, lines: list[Any]) -> list[Any]:
        return ["".join(lines)]


class _JournalSink(Sink):
    """Entries in the journal; on standard error as long as there is none."""

    def __init__(self, stream: TextIO) -> None:
        self._journal = Journal()
        self._stream = stream

    @property
    def lost(self) -> int:  # type: ignore[override]  # read only here
        return self._journal.lost

    def render(self, _logger: object, level: str, event: _Event) -> str | bytes:
        name = str(event.pop("event", ""))
        for key in ("level", "timestamp"):
            event.pop(key, None)
        traceback = event.pop("exception", None)
        words = [name, *(f"{key}={_shown(value)}" for key, value in event.items())]
        message = " ".join(words) + (f"\n{traceback}" if traceback else "")
        return entry_of(level, message, {"event": name, **event})

    def write(self, line: str | bytes) -> None:
        entry = line if isinstance(line, bytes) else line.encode()
        if not self._journal.send(entry):
            try:
                self._stream.write(entry.decode(errors="backslashreplace").split("\n", 1)[0] + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                self._journal.lost += 1

    def join(self, lines: list[Any]) -> list[Any]:
        return lines


class _State:
    """What holds for this process.

    Attributes:
        level: The least number of a line that is written.
        sink: Where lines go; `None` before `set_up_logging`.
        watcher: Is shown every event that is written.
    """

    level = logging.INFO
    sink: Sink | None = None
    watcher: Callable[[Mapping[str, Any]], None] | None = None


_state: Final = _State()


def set_up_logging(config: LogConfig | None = None) -> None:
    """Send everything of the configured level and above where the configuration says.

    All renderers write strings escaped, so that no text of a peer can forge a line or speak to
    the terminal, and none shows the values of variables in a traceback.
    """
    config = config or LogConfig()
    set_level(config.level)
    sink = _state.sink = _make_sink(config.format)
    structlog.configure(
        processors=[
            _leave_out,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if isinstance(sink, _Human) else [structlog.processors.format_exc_info]),
            _shorten,
            _show,
            sink.render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: _Writer(sink),
        cache_logger_on_first_use=True,
    )


def set_level(level: str) -> None:
    """Change what is left out, while the process runs."""
    _state.level = _LEVELS[level]


def is_written(level: str) -> bool:
    """Whether lines of a level are written at all."""
    return _LEVELS[level] >= _state.level


def set_watcher(watcher: Callable[[Mapping[str, Any]], None] | None) -> None:
    """Have every event that is written shown to somebody, who must neither wait nor fail."""
    _state.watcher = watcher


def current_sink() -> Sink | None:
    """Give where lines go; `None` before `set_up_logging`."""
    return _state.sink


def lines_lost() -> int:
    """Give how many lines could not be written."""
    return 0 if _state.sink is None else _state.sink.lost


class _Human(_Stream):
    """Lines for people."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(
            stream,
            structlog.dev.ConsoleRenderer(
                colors=not os.environ.get("NO_COLOR") and stream.isatty(),
                repr_native_str=True,
                exception_formatter=structlog.dev.plain_traceback,
            ),
        )


def _make_sink(kind: str) -> Sink:
    stream = sys.stderr
    if kind == "auto":
        kind = "journal" if is_standard_error() else "human" if stream.isatty() else "json"
    if kind == "journal":
        return _JournalSink(stream)
    if kind == "human":
        return _Human(stream)
    return _Stream(stream, structlog.processors.JSONRenderer())


class _Writer:
    """What structlog hands a rendered line to."""

    def __init__(self, sink: Sink) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = sink.write
        self.exception = self.fatal = self.failure = self.err = self.log = self.msg = sink.write


def _leave_out(_logger: object, level: str, event: _Event) -> _Event:
    if _LEVELS.get(level, logging.CRITICAL) < _state.level:
        raise structlog.DropEvent
    return event


def _show(_logger: object, _level: str, event: _Event) -> _Event:
    if _state.watcher is not None:
        _state.watcher(event)
    return event


def _shorten(_logger: object, _level: str, event: _Event) -> _Event:
    for key, value in event.items():
        most = _MAX_TRACEBACK if key == "exception" else _MAX_TEXT
        if isinstance(value, str) and len(value) > most:
            event[key] = f"{value[:most]}... ({len(value)} characters)"
    return event


def _shown(value: object) -> str:
    """Give a value as a line for people has it: what could break the line is escaped."""
    if isinstance(value, str) and value.isascii() and value.isprintable() and " " not in value:
        return value
    return ascii(value)
