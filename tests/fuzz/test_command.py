"""The fuzzer itself, as the command runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Continuous integration installs it and must not do without.
    if os.environ.get("CI") != "true":
        pytest.importorskip("atheris", reason="atheris is not installed")
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_inputs_break_no_promise() -> None:
    done = fuzz("--runs", "1000000")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "total: 1000000 inputs, 0 unexpected exceptions"
