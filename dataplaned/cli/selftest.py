"""`dataplaned selftest`: do the main job from end to end, and say how it went."""

from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Final

import click

from .exits import ExitCode, printable
from .options import backend_option, json_option, open_client
from .output import emit, emit_json, format_size

if TYPE_CHECKING:
    from .trial import Step

#: Bytes from which on a step is told with its rate.
_RATED_SIZE: Final = 1024 * 1024


@click.command()
@click.argument("file", metavar="[FILE]", required=False, type=click.Path())
@click.option(
    "--socket",
    "socket_path",
    metavar="PATH",
    help="Test the daemon that runs there instead of a private one.",
)
@backend_option
@json_option
def selftest(
    file: str | None, socket_path: str | None, backend_id: str | None, as_json: bool
) -> int:
    """Do the main job from end to end, on a private daemon.

    FILE is stored, served back and compared, by both names and across a block edge,
    verified, listed and deleted; so are small objects of the sizes where errors hide, and
    bytes with a wrong digest are refused. Without FILE, a large installed library is used.
    With --socket, the running daemon is left as it was found: only objects that this test
    created are deleted. The exit code is 1 if a step failed.
    """
    from .samples import main_sample
    from .trial import Trial

    sample = main_sample(file)
    steps: list[Step] = []

    def report(step: "Step") -> None:
        steps.append(step)
        if not as_json:
            emit(_line(step))

    started = perf_counter()
    with _daemon(socket_path) as path, open_client(path) as client:
        Trial(client, report, backend_id=backend_id).run(sample)
    failed = [step for step in steps if step.failure is not None]
    if as_json:
        emit_json({"ok": not failed, "steps": [_record(step) for step in steps]})
    else:
        emit(_summary(steps, failed, perf_counter() - started))
    return ExitCode.OTHER if failed else ExitCode.OK


def _daemon(socket_path: str | None) -> AbstractContextManager[str]:
    if socket_path is not None:
        return nullcontext(socket_path)
    from .private_daemon import private_daemon

    return private_daemon()


def _line(step: "Step") -> str:
    verdict = "ok  " if step.failure is None else "FAIL"
    size = "" if step.size_bytes is None else format_size(step.size_bytes)
    facts = f"{verdict}  {step.name:<8}  {size:>10}  {_pace(step):>10}  {printable(step.subject)}"
    return facts if step.failure is None else f"{facts}: {printable(step.failure)}"


def _pace(step: "Step") -> str:
    """Give the rate, or the time where there are too few bytes for a rate to mean anything."""
    if (step.size_bytes or 0) < _RATED_SIZE or step.seconds <= 0:
        return f"{step.seconds * 1000:.1f} ms"
    return f"{(step.size_bytes or 0) / step.seconds / 1e6:.0f} MB/s"


def _summary(steps: "list[Step]", failed: "list[Step]", seconds: float) -> str:
    if failed:
        return f"selftest FAILED: {len(failed)} of {len(steps)} steps in {seconds:.1f} s"
    return f"selftest passed: {len(steps)} steps in {seconds:.1f} s"


def _record(step: "Step") -> dict[str, object]:
    return {
        "name": step.name,
        "subject": step.subject,
        "ok": step.failure is None,
        "size_bytes": step.size_bytes,
        "seconds": round(step.seconds, 6),
        "failure": step.failure,
    }
