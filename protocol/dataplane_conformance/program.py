"""The command line: what to judge, which cases, and where the verdicts go."""

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from .client import run as client_run
from .client.subject import Client
from .daemon import run as daemon_run
from .daemon.subject import Daemon
from .report import Report
from .vectors import VectorsError
from .verdicts import Case, FailedError, Verdict

T = TypeVar("T")

#: Exit codes. The last one is that of `sysexits.h` for a service that is not there.
PASSED: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 69

_DESCRIPTION: Final = """
Judge the daemon that listens on SOCKET, or, with --serve, the client that CMD drives: the kit
then listens on SOCKET itself. The exit code is 0 when every case passed, 1 when one failed, 2
for a wrong command line and 69 when there is nothing to judge.
"""

_COMPUTES: Final = "the client computes this digest of all that it is served; may be repeated"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the kit and give its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command: list[str] = []
    if "--" in given:
        at = given.index("--")
        given, command = given[:at], given[at + 1 :]
    parser = _parser()
    options = parser.parse_args(given)
    if options.serve != bool(command) and not (options.serve and options.list):
        parser.error("--serve and a command behind -- go together")
    try:
        return _judge_client(options, command) if options.serve else _judge_daemon(options)
    except (FailedError, OSError, VectorsError) as exc:
        sys.stderr.write(f"{options.socket}: {exc}\n")
        return UNREACHABLE


def _judge_daemon(options: argparse.Namespace) -> int:
    chosen = _choose(daemon_run.cases(), options)
    if options.list or not chosen:
        return _list(chosen)
    daemon = Daemon(
        options.socket,
        options.timeout,
        tamper=shlex.split(options.tamper),
        max_object_size=options.max_object_size,
    )
    return _finish(options.socket, daemon_run.play(daemon, chosen), options)


def _judge_client(options: argparse.Namespace, command: Sequence[str]) -> int:
    chosen = _choose(client_run.cases(), options)
    if options.list or not chosen:
        return _list(chosen)
    client = Client(command, options.socket, options.timeout, computes=options.computes)
    return _finish(shlex.join(command), client_run.play(client, chosen), options)


def _choose(cases: Iterable[Case[T]], options: argparse.Namespace) -> list[Case[T]]:
    return [case for case in cases if case.is_chosen(options.only)]


def _list(cases: Sequence[Case[T]]) -> int:
    for case in cases:
        sys.stdout.write(f"{case.case_id} [{case.level}] {case.title}\n")
    if not cases:
        sys.stderr.write("no case has such an id\n")
    return PASSED if cases else USAGE


def _finish(target: str, verdicts: Iterable[Verdict], options: argparse.Namespace) -> int:
    report = Report(target, list(verdicts), options.strict)
    for path, make in ((options.json, report.to_json), (options.junit, report.to_junit)):
        if path:
            with open(path, "w", encoding="utf-8") as file:
                file.write(make())
    for line in report.lines():
        sys.stdout.write(f"{line}\n")
    return FAILED if report.failures else PASSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dataplane_conformance",
        usage="%(prog)s SOCKET [options] [--serve SOCKET [options] -- CMD [ARG...]]",
        description=_DESCRIPTION,
    )
    add = parser.add_argument
    add("socket", metavar="SOCKET", help="path of the Unix socket")
    add("--serve", action="store_true", help="judge a client, by the command behind --")
    add("--only", action="append", default=[], metavar="ID", help="a case, or a pattern with *")
    add("--strict", action="store_true", help="count what is only recommended too")
    add("--list", action="store_true", help="print the cases and play none")
    add("--json", default="", metavar="FILE", help="write the verdicts as JSON")
    add("--junit", default="", metavar="FILE", help="write the verdicts as JUnit XML")
    add("--tamper", default="", metavar="CMD", help="damages the object named by its last argument")
    add("--max-object-size", type=int, metavar="BYTES", help="what the daemon is configured with")
    add("--computes", action="append", default=[], metavar="ALGORITHM", help=_COMPUTES)
    add("--timeout", type=float, default=5.0, metavar="S", help="seconds without an answer, 5")
    return parser
