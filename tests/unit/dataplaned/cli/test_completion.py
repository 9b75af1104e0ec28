"""What a shell is told, and asks."""

import os
import subprocess
import sys
from typing import Any

import pytest

from dataplaned.cli.completion import SHELLS
from dataplaned.cli.program import run


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_is_told_how_to_ask(shell: str, capfdbinary: Any) -> None:
    assert run(["completion", shell]) == 0
    out = capfdbinary.readouterr().out.decode()
    assert f"_DATAPLANED_COMPLETE={shell}_complete" in out


def test_what_is_told_is_a_script(tmp_path: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dataplaned", "completion", "bash"], capture_output=True, check=True
    )
    (tmp_path / "script").write_bytes(done.stdout)
    subprocess.run(["bash", "-n", tmp_path / "script"], check=True)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("dataplaned sc", "scrub"),
        ("dataplaned get --ra", "--range"),
        ("dataplaned config ", "example"),
        ("dataplaned completion ", "fish"),
    ],
)
def test_commands_and_options_are_completed(line: str, wanted: str) -> None:
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "dataplaned"],
        env={
            **os.environ,
            "_DATAPLANED_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert wanted in [answer.rpartition(",")[2] for answer in done.stdout.split()]
