"""Log lines: structured, human on a terminal, JSON elsewhere. Client text is never raw."""

import logging
import sys
from typing import Any

import structlog


def set_up_logging(level: str = "info") -> None:
    """Send everything of `level` and above to standard error, one line an event.

    Both renderers are made to write strings escaped, so that no text of a peer can forge a
    line or speak to the terminal. Neither shows the values of variables in a traceback.
    """
    is_terminal = sys.stderr.isatty()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if is_terminal:
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=True,
                repr_native_str=True,
                exception_formatter=structlog.dev.plain_traceback,
            )
        )
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def set_level(level: str) -> None:
    """Change what is left out."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        )
    )
