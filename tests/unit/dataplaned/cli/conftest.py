"""Commands to run, against one daemon for all tests that do not need their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
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
        code = run([*map(str, arguments), "--socket", self.socket_path])
        captured = self._captured.readouterr()
        return Done(code, captured.out, captured.err.decode())

    def start(
        self, *arguments: str, shell: str = 'exec "$@"', **options: Any
    ) -> "subprocess.Popen[bytes]":
        """Start a command in a process of its own, by a shell that can redirect."""
        ours = [sys.executable, "-m", "dataplaned", *arguments, "--socket", self.socket_path]
        return subprocess.Popen(
            ["/bin/sh", "-c", shell, "sh", *ours],
            stderr=subprocess.PIPE,
            # A shell has whatever it starts in the background ignore ^C, tests included.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **options,
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


class Ward:
    """A daemon whose objects can be damaged and mended, with commands for it.

    Attributes:
        cli: The commands.
        daemon: Its process.
        content: Bytes of the object that `ingest` stores; it has a file.
    """

    def __init__(self, cli: Cli, daemon: Any, directory: Path) -> None:
        self.cli = cli
        self.daemon = daemon
        self.content = os.urandom(300_000)
        self._directory = directory

    def ingest(self, content: bytes | None = None) -> str:
        """Store an object and give its address."""
        path = self._directory / "content"
        path.write_bytes(self.content if content is None else content)
        done = self.cli("ingest", path)
        assert done.code == 0
        return done.out.split()[0].decode()

    def flip(self) -> None:
        """Flip a bit in every object file: damage it, or mend it the second time."""
        for path in self.daemon.files("objects"):
            path.chmod(0o600)
            with path.open("r+b") as file:
                file.seek(150_000)
                byte = file.read(1)[0]
                file.seek(150_000)
                file.write(bytes([byte ^ 1]))


@pytest.fixture
def ward(daemon: Any, cli_of: Callable[[Any], Cli], tmp_path: Path) -> Ward:
    """A test's own daemon, with an empty store."""
    return Ward(cli_of(daemon), daemon, tmp_path)
