"""The example of a server, written from the documents alone, before the judge of daemons."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = Path(__file__).with_name("minimal_server.py")
PROTOCOL = Path(__file__).parents[2] / "protocol"


@pytest.fixture
def socket_path(short_path: Path) -> Iterator[str]:
    path = str(short_path / "s")
    server = subprocess.Popen([sys.executable, str(SERVER), path], stdout=subprocess.PIPE)
    with server:
        assert server.stdout is not None
        assert server.stdout.readline()  # it says that it listens
        yield path
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


@pytest.mark.slow
def test_the_minimal_server_passes_every_case_of_the_kit(socket_path: str) -> None:
    kit = [sys.executable, "-m", "dataplane_conformance", socket_path, "--strict"]
    done = subprocess.run(kit, cwd=PROTOCOL, capture_output=True, text=True, check=False)
    summary = done.stdout.splitlines()[-1]
    found = re.fullmatch(r"(\d+) passed, 0 failed, \d+ skipped", summary)
    assert found, done.stdout
    assert int(found[1]) > 400
