import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_one_command_measures_the_daemon_and_its_limits(tmp_path):
    output = tmp_path / "output"
    command = (
        *(sys.executable, "-m", "tests.benchmarks", "--no-peers", "--rounds", "1", "--mib", "8"),
        *("--objects", "64", "--directory", str(tmp_path), "--output", str(output)),
    )
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3], timeout=300)
    rows = json.loads((output / "results.json").read_text())["rows"]
    for row in ("1 GiB ingest", "1 GiB serve", "4 KiB ranges, 8", "4 KiB objects, delete, 32"):
        assert rows[row]["dataplaned"]["rate"][0] > 0
    assert rows["4 KiB objects, stat, 8"]["echo"]["rate"][0] > 0
    assert {path.name for path in output.glob("*.svg")} >= {"large.svg", "small-ingest.svg"}
