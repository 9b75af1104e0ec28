import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.comparison import CONTESTANTS


@pytest.mark.slow
def test_one_command_measures_the_daemon_its_limits_and_its_peers(tmp_path):
    output = tmp_path / "output"
    command = (
        *(sys.executable, "-m", "tests.benchmarks", "--rounds", "1", "--mib", "8"),
        *("--objects", "64", "--directory", str(tmp_path), "--output", str(output)),
    )
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3], timeout=300)
    results = json.loads((output / "results.json").read_text())
    if os.environ.get("CI"):
        assert results["skipped"] == {}
    for kind in CONTESTANTS:
        if kind.NAME in results["skipped"]:
            continue
        rows = [row for row, cells in results["rows"].items() if kind.NAME in cells]
        large = 2 * kind.HAS_LARGE + 2 * (kind.HAS_LARGE and kind.HAS_RANGES)
        assert len(rows) == 3 * len(kind.SMALL_ROWS) + large
        assert all(results["rows"][row][kind.NAME]["rate"][0] > 0 for row in rows)
    pictures = {path.name for path in output.glob("*.svg")}
    assert pictures >= {"large.svg", "small-ingest.svg"}


@pytest.mark.slow
def test_a_bucket_is_measured_with_the_daemon_and_without(ceph, tmp_path):
    command = (
        *(sys.executable, "-m", "tests.benchmarks", "object_store", "--rounds", "1"),
        *("--mib", "16", "--directory", str(tmp_path)),
    )
    done = subprocess.run(
        command, check=True, cwd=Path(__file__).parents[3], timeout=300, capture_output=True
    )
    assert done.stdout.count(b"\n| 4 KiB") == 2
    assert done.stdout.count(b"\n| 16 MiB") == 2
