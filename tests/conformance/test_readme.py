"""The README's programs are run as they stand, against a real daemon."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "blake3:dc5a4edb8240b018124052c330270696f96771a63b45250a5c17d3000e823355 created\n"),
        (1, "0 of 0 bytes, all of them checked\n"),
        (2, "b'world'\n"),
    ],
    ids=["trio", "asyncio", "threads"],
)
def test_a_program_of_the_readme_runs(
    daemon: Any, tmp_path: Path, number: int, expected: str
) -> None:
    source = PROGRAMS[number].replace("/run/dataplaned/dataplaned.sock", daemon.socket_path)
    assert daemon.socket_path in source
    (tmp_path / "build.tar").write_bytes(b"hello world\n")
    command = [sys.executable, "-m", "dataplaned", "ingest", "--socket", daemon.socket_path, "-"]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (expected, "")


def test_every_program_of_the_readme_is_run() -> None:
    assert len(PROGRAMS) == 3
