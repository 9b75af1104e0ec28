"""A progress bar on standard error, for people who wait."""

import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

from .exits import printable
from .output import is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress

#: Transfers of a known size show a bar from here on; below, they are over at once.
LONG_TRANSFER: Final = 64 * 1024 * 1024

#: Seconds after which a transfer of unknown size shows that it is alive.
PATIENCE: Final = 1.0


@contextmanager
def show_progress(title: str, total: int | None) -> Generator[Callable[[int], None]]:
    """Give what takes the number of bytes that have just moved.

    Nothing is shown, and nothing imported, unless standard error is a terminal and the
    transfer is long.

    Args:
        title: What is moving.
        total: Bytes in all, if that is known.
    """
    is_short = total is not None and total <= LONG_TRANSFER
    if is_short or not is_terminal(sys.stderr):
        yield _ignore
        return
    with ExitStack() as stack:
        yield _Bar(title, total, stack).advance


def _ignore(_: int) -> None:
    """Take a number of bytes and show nothing."""


class _Bar:
    """A bar that appears once the transfer is known to be long."""

    def __init__(self, title: str, total: int | None, stack: ExitStack) -> None:
        self._title = title
        self._total = total
        self._stack = stack
        self._started = monotonic()
        self._moved = 0
        self._bar: Progress | None = None

    def advance(self, count: int) -> None:
        self._moved += count
        if self._bar is None:
            if self._total is None and monotonic() - self._started < PATIENCE:
                return
            self._bar = self._stack.enter_context(_new_bar())
            self._bar.add_task(printable(self._title), total=self._total)
        self._bar.update(self._bar.task_ids[0], completed=self._moved)


def _new_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        # Names are text, not markup.
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
