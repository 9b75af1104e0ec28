"""Exit codes: how each error of a command ends the process, and the line that says why.

The numbers are those of sysexits(3), which systemd and journalctl know by name.

    0    done
    1    any other error
    2    the command line, or an argument that the daemon refused
    65   damaged bytes: stored ones, or bytes that are not the expected ones
    66   no such object
    69   the daemon cannot be reached, or no such backend is configured
    74   local input or output failed
    75   the daemon was reached, but it or its backend is busy, down or full: try again
    77   not allowed
    78   configuration
    130  interrupted
    141  whoever read standard output went away, as in `dataplaned ls | head -1`
"""

from enum import IntEnum
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from dataplane_protocol import DataPlaneError


class ExitCode(IntEnum):
    """What the process ends with."""

    OK = 0
    OTHER = 1
    USAGE = 2
    DAMAGED = 65
    NOT_FOUND = 66
    UNAVAILABLE = 69
    LOCAL_IO = 74
    BUSY = 75
    DENIED = 77
    CONFIGURATION = 78
    INTERRUPTED = 130
    CLOSED_PIPE = 141


#: By the code on the wire; `unavailable` and codes not listed are decided by `code_of`.
_BY_WIRE_CODE: Final = {
    "bad_request": ExitCode.USAGE,
    "unsupported": ExitCode.USAGE,
    "out_of_range": ExitCode.USAGE,
    "denied": ExitCode.DENIED,
    "not_found": ExitCode.NOT_FOUND,
    "unknown_backend": ExitCode.UNAVAILABLE,
    "no_space": ExitCode.BUSY,
    "body_mismatch": ExitCode.DAMAGED,
    "corrupt": ExitCode.DAMAGED,
}

#: After these, the arguments that follow would fare no better.
HOPELESS: Final = frozenset({ExitCode.UNAVAILABLE, ExitCode.DENIED})


class CommandError(Exception):
    """A command cannot go on, for a reason that has its own exit code."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


class Failures:
    """The failures of a command that goes on to its next argument after one."""

    def __init__(self) -> None:
        #: Of the first failure; `OK` while there is none.
        self.code = ExitCode.OK

    def add(self, error: Exception, subject: str = "") -> ExitCode:
        """Tell of a failure and give its exit code."""
        code = code_of(error)
        self.note(f"{subject}: {explain(error)}" if subject else explain(error), code)
        return code

    def note(self, message: str, code: ExitCode) -> None:
        """Tell of a failure in the caller's words."""
        complain(message)
        if self.code is ExitCode.OK:
            self.code = code


def code_of(error: BaseException) -> ExitCode:
    """Give the exit code that an error stands for."""
    from dataplane_protocol import DataPlaneError

    match error:
        case CommandError():
            return error.code
        case click.UsageError():
            return ExitCode.USAGE
        case KeyboardInterrupt() | click.Abort():
            return ExitCode.INTERRUPTED
        case BrokenPipeError():
            return ExitCode.CLOSED_PIPE
        case DataPlaneError() if error.code == "unavailable":
            return _code_of_unavailable(error)
        case DataPlaneError():
            other = ExitCode.BUSY if error.retry else ExitCode.OTHER
            return _BY_WIRE_CODE.get(error.code, other)
        case OSError():
            return ExitCode.LOCAL_IO
        case _:
            return ExitCode.OTHER


def is_foreseen(error: BaseException) -> bool:
    """Whether an error is a fact about the world, to be told in a line, and not a bug."""
    from dataplane_protocol import DataPlaneError

    return isinstance(error, (click.ClickException, CommandError, DataPlaneError, OSError))


def explain(error: BaseException) -> str:
    """Give the words, mostly a single line, that tell people about an error."""
    match error:
        case click.ClickException():
            return error.format_message()
        case KeyboardInterrupt() | click.Abort():
            return "interrupted"
        case OSError(strerror=str(reason), filename=str(name)):
            return f"{name}: {reason}"
        case OSError(strerror=str(reason)):
            return reason
        case _:
            return str(error) or type(error).__name__


def complain(message: str) -> None:
    """Write one line to standard error, whatever characters others put into it."""
    try:
        click.echo(f"dataplaned: {printable(message)}", err=True)
    except OSError:
        # Nobody can be told; the exit code still tells.
        return


def printable(text: str) -> str:
    """Give text that can neither break its line nor command a terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _code_of_unavailable(error: "DataPlaneError") -> ExitCode:
    # An operating system's refusal as the cause means that there was no daemon to answer.
    is_reached = not isinstance(error.__cause__, OSError)
    return ExitCode.BUSY if is_reached and error.retry else ExitCode.UNAVAILABLE
