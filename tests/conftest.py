"""What tests of several rooms share: real daemons in processes of their own."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest


class DaemonProcess:
    """A `dataplaned serve` that listens before its constructor returns.

    `log` grows while it runs. `stop` and `kill` wait for the end and for the rest of the log.
    """

    def __init__(self, directory: Path, arguments: Sequence[str] = ()) -> None:
        self.socket_path = str(directory / "dp.sock")
        self.root = directory / "store"
        self._arguments = ["--socket", self.socket_path, *(arguments or ("--root", str(self.root)))]
        self.log: list[dict[str, object]] = []
        self.start()

    def start(self, *, wrapper: Sequence[str] = ()) -> None:
        """Start, again if it was stopped, and wait until it listens."""
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "dataplaned", "serve", *self._arguments],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stderr is not None
        started = threading.Event()
        self._reader = threading.Thread(target=self._read_log, args=(started,))
        self._reader.start()
        started.wait(60)
        if not any(line.get("event") == "listening" for line in self.log):
            self.kill()
            raise AssertionError(f"daemon did not start: {self.log}")

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> int:
        """Ask it to stop and give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._finish()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self._finish()

    def events(self, name: str) -> list[dict[str, object]]:
        """Give the log lines of one event."""
        return [line for line in self.log if line.get("event") == name]

    def files(self, part: str) -> list[Path]:
        """Give the files below a part of the store."""
        return [path for path in (self.root / part).rglob("*") if path.is_file()]

    def _finish(self) -> int:
        code = self.process.wait(60)
        self._reader.join(60)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def _read_log(self, started: threading.Event) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": "raw", "line": line})
            if self.log[-1].get("event") == "listening":
                started.set()
        started.set()


@pytest.fixture
def short_path() -> Generator[Path]:
    """A directory whose name leaves room for a socket's, on the disk that tests use."""
    path = Path(tempfile.mkdtemp(prefix="dp-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def start_daemon() -> Generator[Callable[..., DaemonProcess]]:
    """Start daemons in directories of their own; all are ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(arguments: Sequence[str] = ()) -> DaemonProcess:
            path = Path(tempfile.mkdtemp(prefix="dp-"))
            stack.callback(shutil.rmtree, path, ignore_errors=True)
            daemon = DaemonProcess(path, arguments)
            stack.callback(_end, daemon)
            return daemon

        yield start


@pytest.fixture
def daemon(start_daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    """A daemon on a new, empty filesystem store."""
    return start_daemon()


def _end(daemon: DaemonProcess) -> None:
    if daemon.process.poll() is None:
        daemon.kill()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Event loops that the client's tests run on."""
    return str(request.param)
