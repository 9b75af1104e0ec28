"""What tests of several rooms share: real daemons in processes of their own."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Self

import boto3
import hypothesis
import pytest

from .engines import azurite as azurite_engine, ceph as ceph_engine, moto as moto_engine
from .engines.buckets import EngineBucket

# The same examples each time, and none judged by how long it took.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tests")


class DaemonProcess:
    """A `dataplaned serve` that listens before its constructor returns.

    `log` grows while it runs. `stop` and `kill` wait for the end and for the rest of the log.
    """

    def __init__(self, directory: Path, arguments: Sequence[str] = ()) -> None:
        self.socket_path = str(directory / "dp.sock")
        self.root = directory / "store"
        self._arguments = ["--socket", self.socket_path, *(arguments or ("--root", str(self.root)))]
        self.log: list[dict[str, object]] = []
        self._news = threading.Condition()
        self.start()

    def start(self, *, wrapper: Sequence[str] = ()) -> None:
        """Start, again if it was stopped, and wait until it listens."""
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "dataplaned", "serve", *self._arguments],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self._is_running = True
        self._start_of_log = len(self.log)
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()
        if not self.wait_for("listening"):
            self.kill()
            raise AssertionError(f"daemon did not start: {self.log}")

    def wait_for(self, event: str) -> bool:
        """Wait until the log has an event since the last start; false when it ended before."""

        def has_come() -> bool:
            return any(line.get("event") == event for line in self.log[self._start_of_log :])

        with self._news:
            self._news.wait_for(lambda: has_come() or not self._is_running, timeout=60)
            return has_come()

    def becomes(self, condition: Callable[[], bool]) -> bool:
        """Whether a condition comes true within half a minute."""
        deadline = time.monotonic() + 30
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    @property
    def pid(self) -> int:
        return self.process.pid

    def resident_bytes(self, which: str = "VmRSS") -> int:
        """Memory that it has now; with `VmHWM`, the most that it has had."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        (line,) = (line for line in status.splitlines() if line.startswith(which))
        return int(line.split()[1]) * 1024

    def stop(self) -> int:
        """Ask it to stop and give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._finish()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self._finish()

    def reap(self) -> int:
        """Wait for the end of one that was killed otherwise, and give its exit code."""
        return self._finish()

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

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": "raw", "line": line}
            with self._news:
                self.log.append(entry)
                self._news.notify_all()
        with self._news:
            self._is_running = False
            self._news.notify_all()


class Tampering:
    """Make system calls of a running process fail, or end it, for as long as this is open.

    Args:
        pid: The process; all of its threads are meant, also those still to come.
        calls: Names of system calls as in strace(1), with commas between them.
        action: What happens to them, as in strace(1): `error=EIO`, `signal=KILL:when=3`. Each
            thread's calls are counted for themselves.
        paths: Only calls on one of these files, by descriptor or by name.
    """

    def __init__(self, pid: int, calls: str, action: str, paths: Sequence[Path] = ()) -> None:
        self._log = tempfile.NamedTemporaryFile(prefix="dp-calls-", mode="r")  # noqa: SIM115
        command = ["strace", "-f", "-y", "-s", "0", "-o", self._log.name, "-p", str(pid)]
        command += ["-e", f"trace={calls}", "-e", f"inject={calls}:{action}"]
        for path in paths:
            command += ["-P", str(path)]
        self._strace = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self._strace.stderr is not None
        said: list[str] = []
        for line in self._strace.stderr:
            said.append(line)
            if " attached" in line:
                return
        self.close()
        raise PermissionError(f"strace could not attach: {said}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the process alone again. One that this has killed must be reaped before."""
        if self._log.closed:
            return
        self._strace.terminate()
        try:
            self._strace.wait(10)
        except subprocess.TimeoutExpired:
            # It was told to let go of a process just as that died, and waits for it for ever.
            self._strace.kill()
            self._strace.wait()
        assert self._strace.stderr is not None
        self._strace.stderr.close()
        self._log.close()

    def calls(self) -> list[str]:
        """Give what strace wrote of every call so far; an injected error ends `(INJECTED)`."""
        self._log.seek(0)
        return self._log.read().splitlines()

    def injected(self) -> list[str]:
        """Give what strace wrote of every call that it made fail."""
        return [line for line in self.calls() if line.endswith("(INJECTED)")]


@functools.cache
def _can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    with subprocess.Popen(["sleep", "60"]) as victim:
        try:
            Tampering(victim.pid, "read", "error=EIO").close()
        except PermissionError:
            return False
        finally:
            victim.kill()
    return True


@pytest.fixture(scope="session")
def require() -> Callable[[bool, str], None]:
    """Give a function that skips for want of something; the continuous integration has it all."""

    def require(is_there: bool, what: str) -> None:
        if not is_there:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {what}")

    return require


@pytest.fixture
def tamper(require: Callable[[bool, str], None]) -> type[Tampering]:
    """Give what makes the system calls of a running daemon fail."""
    require(_can_trace(), "strace and leave to attach it")
    return Tampering


@pytest.fixture
def short_path() -> Generator[Path]:
    """A directory whose name leaves room for a socket's, on the disk that tests use."""
    path = Path(tempfile.mkdtemp(prefix="dp-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _daemon_process(arguments: Sequence[str] = ()) -> Generator[DaemonProcess]:
    path = Path(tempfile.mkdtemp(prefix="dp-"))
    try:
        daemon = DaemonProcess(path, arguments)
        try:
            yield daemon
        finally:
            if daemon.process.poll() is None:
                daemon.kill()
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def daemon_process() -> Callable[..., contextlib.AbstractContextManager[DaemonProcess]]:
    """Give a context manager that runs a daemon in a directory of its own."""
    return _daemon_process


@pytest.fixture
def start_daemon() -> Generator[Callable[..., DaemonProcess]]:
    """Start daemons in directories of their own; all are ended with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda arguments=(): stack.enter_context(_daemon_process(arguments))


@pytest.fixture
def daemon(start_daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    """A daemon on a new, empty filesystem store."""
    return start_daemon()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Event loops that the client's tests run on."""
    return str(request.param)


def _s3_buckets(engine: Any, access_key: str, secret_key: str) -> Callable[[], EngineBucket]:
    client = boto3.client(
        "s3",
        endpoint_url=engine.endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
    )

    def make() -> EngineBucket:
        name = f"bucket-{uuid.uuid4().hex}"
        client.create_bucket(Bucket=name)
        return EngineBucket(
            f"s3://{name}/some/prefix",
            engine.endpoint,
            {"access_key_id": access_key, "secret_access_key": secret_key},
        )

    return make


@pytest.fixture(scope="session")
def moto() -> Generator[Callable[[], EngineBucket]]:
    """Give a function that makes buckets in moto."""
    with contextlib.closing(moto_engine.Moto()) as engine:
        yield _s3_buckets(engine, moto_engine.ACCESS_KEY, moto_engine.SECRET_KEY)


@pytest.fixture(scope="session")
def ceph_process(
    require: Callable[[bool, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Generator[ceph_engine.Ceph]:
    """A real Ceph, for tests that do something to it."""
    require(ceph_engine.is_installed(), "ceph-mon, ceph-osd, radosgw and ceph-common")
    with contextlib.closing(ceph_engine.Ceph(tmp_path_factory.mktemp("ceph"))) as engine:
        yield engine


@pytest.fixture(scope="session")
def ceph(ceph_process: ceph_engine.Ceph) -> Callable[[], EngineBucket]:
    """Give a function that makes buckets in a real Ceph."""
    return _s3_buckets(ceph_process, ceph_engine.ACCESS_KEY, ceph_engine.SECRET_KEY)


@pytest.fixture(scope="session")
def azurite(require: Callable[[bool, str], None]) -> Generator[Callable[[], EngineBucket]]:
    """Give a function that makes containers in Azurite."""
    require(azurite_engine.install(), "azurite: npm ci in tests/engines")
    with contextlib.closing(azurite_engine.Azurite()) as engine:

        def make() -> EngineBucket:
            name = f"container-{uuid.uuid4().hex}"
            engine.create_container(name)
            return EngineBucket(
                f"az://{name}/some/prefix",
                engine.endpoint,
                {"account_key": azurite_engine.KEY},
                {"account_name": azurite_engine.ACCOUNT},
            )

        yield make
