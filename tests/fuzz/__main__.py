"""Fuzz the contract: `python -m tests.fuzz [TARGET ...] [--runs N | --forever]`.

Each target runs in a process of its own, two at a time, since libFuzzer ends the process that
it runs in. The exit code is 0 when every input was played and none broke a promise.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from .minimise import minimise
from .seeds import CORPUS, TARGETS

ROOT: Final = Path(__file__).parents[2]

_JOBS: Final = 2
_MAX_INPUT_SIZE: Final = 1024

#: Exit codes of a child that did not fail: at its end, and after SIGINT.
_FINE: Final = (0, 130, -signal.SIGINT)

#: Characters shown of what a child said that failed.
_SHOWN: Final = 3000

#: What libFuzzer takes for a crash as well: bytes of memory in MiB, seconds for one input.
_LIMITS: Final = ("-rss_limit_mb=512", "-timeout=10")


@dataclass(frozen=True)
class Outcome:
    """What became of one target. `failure` holds the input and the exception that it caused."""

    target: str
    inputs: int
    seconds: float
    failure: str

    def __str__(self) -> str:
        found = 1 if self.failure else 0
        rate = self.inputs / max(self.seconds, 0.001)
        return (
            f"{self.target}: {self.inputs} inputs, {found} unexpected exceptions, "
            f"{rate:.0f} inputs/s"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code."""
    options = _options(arguments)
    if options.minimise:
        minimise(options.corpus)
        return 0
    if find_spec("atheris") is None:
        print("atheris is not installed: it is the extra `fuzz`, for Python 3.11", file=sys.stderr)
        return 2
    # The children are interrupted as well and end; what they did until then is still told.
    signal.signal(signal.SIGINT, lambda *_: None)
    names = options.targets or list(TARGETS)
    shares = sum(TARGETS[name] for name in names)
    with ThreadPoolExecutor(_JOBS if not options.forever else len(names)) as pool:
        jobs = [
            pool.submit(_run, name, options, options.runs * TARGETS[name] // shares)
            for name in names
        ]
        outcomes = [job.result() for job in jobs]
    for outcome in outcomes:
        print(outcome.failure, end="")
    for outcome in outcomes:
        print(outcome)
    total = sum(outcome.inputs for outcome in outcomes)
    failures = sum(bool(outcome.failure) for outcome in outcomes)
    print(f"total: {total} inputs, {failures} unexpected exceptions")
    return 1 if failures else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description="Fuzz the contract.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--runs", type=int, default=100_000, metavar="N", help="inputs in all")
    length.add_argument("--forever", action="store_true", help="until interrupted, or a failure")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="keep what is found here")
    parser.add_argument("--seed", type=int, default=1, help="of everything random")
    parser.add_argument("--minimise", action="store_true", help="make the corpus anew")
    options = parser.parse_args(arguments)
    for name in options.targets:
        if name not in TARGETS:
            parser.error(f"{name} is no target; there are {', '.join(TARGETS)}")
    return options


def _run(target: str, options: argparse.Namespace, runs: int) -> Outcome:
    """Fuzz one target in a child process and read what libFuzzer says of it."""
    started = time.monotonic()
    with _directories(target, options.corpus) as (found, crashes):
        command = [sys.executable, "-m", "tests.fuzz.fuzzer", target, str(found)]
        command += [str(CORPUS / target), f"-runs={-1 if options.forever else runs}"]
        command += [f"-seed={options.seed}", f"-max_len={_MAX_INPUT_SIZE}", *_LIMITS]
        command += ["-print_final_stats=1", f"-artifact_prefix={crashes}/"]
        done = subprocess.run(command, cwd=ROOT, text=True, errors="replace", capture_output=True)
        failure = _failure(target, done, crashes)
    counts = re.findall(r"^(?:stat::number_of_executed_units: |#)(\d+)", done.stderr, re.MULTILINE)
    inputs = max(map(int, counts), default=0)
    return Outcome(target, inputs, time.monotonic() - started, failure)


@contextmanager
def _directories(target: str, kept: Path | None) -> Iterator[tuple[Path, Path]]:
    """Give where found inputs and failing inputs go."""
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        found = (kept.absolute() if kept else scratch) / target
        crashes = scratch / "crashes"
        found.mkdir(parents=True, exist_ok=True)
        crashes.mkdir()
        yield found, crashes
    finally:
        shutil.rmtree(scratch)


def _failure(target: str, done: subprocess.CompletedProcess[str], crashes: Path) -> str:
    if done.returncode in _FINE:
        return ""
    inputs = "".join(
        f"{target}: {path.name}: {path.read_bytes().hex()}\n" for path in crashes.iterdir()
    )
    said = f"{done.stdout[-_SHOWN:]}{done.stderr[-_SHOWN:]}"
    return f"{target}: exit code {done.returncode}\n{inputs}{said}\n"


if __name__ == "__main__":
    sys.exit(main())
