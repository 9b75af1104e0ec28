"""The program: its commands, and the one place where its errors become exit codes."""

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from .. import __version__
from .backup import backup
from .bench import bench
from .completion import completion
from .config import config
from .connections import connections
from .copy import copy
from .delete import delete
from .doctor import doctor
from .exits import ExitCode, code_of, complain, explain, is_foreseen
from .fsck import fsck
from .get import get
from .hash import hash_files
from .health import health
from .ingest import ingest
from .listing import list_objects, stat
from .man import man
from .metrics import metrics
from .output import is_terminal, settle_stdout
from .ping import ping
from .quarantine import quarantine
from .scrub import scrub
from .selftest import selftest
from .serve import serve
from .status import backends, status
from .verify import verify


class _Program(click.Group):
    """A group whose ends are not click's business, which adds a line or has another code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return ExitCode.CLOSED_PIPE
        except KeyboardInterrupt:
            if is_terminal(sys.stderr):
                # After the ^C that the terminal shows.
                click.echo(err=True)
            raise click.Abort from None


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Exit codes:
  0    done                             69   daemon unreachable, unknown backend
  1    any other error                  74   local input or output failed
  2    wrong usage or argument          75   busy, down or full: try again later
  65   damaged bytes                    77   not allowed
  66   no such object                   78   configuration
  130  interrupted                      141  the reader of the output went away""",
)
@click.version_option(__version__, prog_name="dataplaned", message="%(prog)s %(version)s")
def program() -> None:
    """Store, serve and verify content-addressed objects.

    An ADDRESS is blake3:HEX or sha256:HEX. Every command but serve, config, fsck, hash,
    completion and man asks a running daemon.
    """


for _command in (
    serve,
    config,
    ingest,
    get,
    stat,
    list_objects,
    verify,
    delete,
    status,
    backends,
    connections,
    metrics,
    health,
    ping,
    doctor,
    bench,
    scrub,
    quarantine,
    copy,
    backup,
    fsck,
    hash_files,
    selftest,
    completion,
    man,
):
    program.add_command(_command)


def main() -> NoReturn:
    """Run the command line of this process and end it."""
    # So that what a command must undo is undone; `serve` sets its own.
    signal.signal(signal.SIGTERM, _terminate)
    code = run(sys.argv[1:])
    try:
        settle_stdout()
    except BrokenPipeError:
        code = code or ExitCode.CLOSED_PIPE
    except OSError as error:
        if code == ExitCode.OK:
            complain(explain(error))
            code = ExitCode.LOCAL_IO
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code, with lines on standard error for its error.

    Commands return their exit code. Errors that nobody foresaw pass, for a traceback.
    """
    try:
        code = program.main(list(arguments), prog_name="dataplaned", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort) as error:
        complain(explain(error))
        return code_of(error)
    except Exception as error:
        if not is_foreseen(error):
            raise
        for line in _lines(error):
            complain(line)
        return code_of(error)
    return code if isinstance(code, int) else ExitCode.OK


def _lines(error: Exception) -> list[str]:
    # A configuration names everything that is wrong at once, a line each.
    lines = explain(error).splitlines() or [type(error).__name__]
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return [f"{' '.join(lines)} (see {error.ctx.command_path} --help)"]
    return lines


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)
