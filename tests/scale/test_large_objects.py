"""Large objects through the command line: the same bytes come out, memory stays flat.

One of 2 GiB, and eight of 512 MiB at once: no more than 8 GiB of disk at any time.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GIBIBYTE = 1 << 30
MAX_RESIDENT = 150 * (1 << 20)
MAX_RESIDENT_BUCKET = 300 * (1 << 20)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def make_file(path: Path, number: int, size: int) -> str:
    """Write bytes that differ for every number, and give their SHA-256."""
    block = os.urandom(1 << 24)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for index in range(size // len(block)):
            head = b"%d %d" % (number, index)
            piece = head + block[len(head) :]
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def start(daemon: Any, *arguments: str) -> "subprocess.Popen[str]":
    command, *rest = arguments
    return subprocess.Popen(
        [sys.executable, "-m", "dataplaned", command, "--socket", daemon.socket_path, *rest],
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    with process:
        output, _ = process.communicate()
    assert process.returncode == 0
    return output


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_all(daemon: Any, commands: list[list[str]]) -> list[str]:
    processes = [start(daemon, *command) for command in commands]
    return [finish(process) for process in processes]


@pytest.mark.parametrize(
    ("count", "size"),
    [(1, 2 * GIBIBYTE), (8, GIBIBYTE // 2)],
    ids=["one", "eight-at-once"],
)
def test_large_objects_come_back_as_they_went_in(
    count: int, size: int, start_daemon: Callable[..., Any], tmp_path: Path
) -> None:
    daemon = start_daemon()
    files = [tmp_path / f"in-{number}" for number in range(count)]
    digests = [make_file(path, number, size) for number, path in enumerate(files)]

    lines = run_all(daemon, [["ingest", "--algorithm", "sha256", str(path)] for path in files])
    addresses = [line.split()[0] for line in lines]
    assert addresses == [f"sha256:{digest}" for digest in digests]
    for path in files:
        path.unlink()

    copies = [tmp_path / f"out-{number}" for number in range(count)]
    run_all(
        daemon,
        [
            ["get", address, "-o", str(copy)]
            for address, copy in zip(addresses, copies, strict=True)
        ],
    )
    assert [sha256_of(copy) for copy in copies] == digests
    assert daemon.resident_bytes("VmHWM") < MAX_RESIDENT


def test_two_gibibytes_go_through_a_bucket(
    ceph: Callable[[], Any], start_daemon: Callable[..., Any], tmp_path: Path
) -> None:
    config = tmp_path / "dp.toml"
    config.write_text(ceph().toml(tmp_path, "bucket"))
    daemon = start_daemon(["--config", str(config)])
    original = tmp_path / "in"
    digest = make_file(original, 0, 2 * GIBIBYTE)
    (line,) = run_all(daemon, [["ingest", "--algorithm", "sha256", str(original)]])
    assert line.split()[0] == f"sha256:{digest}"
    original.unlink()
    copy = tmp_path / "out"
    run_all(daemon, [["get", f"sha256:{digest}", "-o", str(copy)]])
    assert sha256_of(copy) == digest
    assert daemon.resident_bytes("VmHWM") < MAX_RESIDENT_BUCKET
