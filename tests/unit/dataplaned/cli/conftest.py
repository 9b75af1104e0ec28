"""Commands to run, against one daemon for all tests that do not need their own."""

import json
import subprocess
import sys
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import pytest

from dataplaned.cli.private_daemon import private_daemon
from dataplaned.cli.program import run


class Done(NamedTuple):
    code: int
    out: bytes
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    """Runs commands with the socket of a daemon."""

    def __init__(self, socket_path: str, captured: pytest.CaptureFixture[bytes]) -> None:
        self.socket_path = socket_path
        self._captured = captured

    def __call__(self, *arguments: object) -> Done:
        """Run a command in this process, where that is no different, and faster."""
        command, *rest = map(str, arguments)
        code = run([command, "--socket", self.socket_path, *rest])
        captured = self._captured.readouterr()
        return Done(code, captured.out, captured.err.decode())

    def start(
        self, *arguments: str, shell: str = 'exec "$@"', **options: Any
    ) -> "subprocess.Popen[bytes]":
        """Start a command in a process of its own, by a shell that can redirect."""
        command, *rest = arguments
        ours = [sys.executable, "-m", "dataplaned", command, "--socket", self.socket_path, *rest]
        return subprocess.Popen(
            ["/bin/sh", "-c", shell, "sh", *ours], stderr=subprocess.PIPE, **options
        )


@pytest.fixture(scope="session")
def shared_socket() -> Generator[str]:
    """The socket of a daemon whose store fills up with what the tests leave."""
    with private_daemon() as path:
        yield path


@pytest.fixture
def cli(shared_socket: str, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    """Commands on the shared daemon."""
    return Cli(shared_socket, capfdbinary)


@pytest.fixture
def cli_of(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[[Any], Cli]:
    """Gives commands on a test's own daemon."""
    return lambda daemon: Cli(daemon.socket_path, capfdbinary)
