"""The kit, run in this process against daemons and clients in processes of their own."""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataplane_conformance.program import main

HERE = Path(__file__).parent

MEMORY = """
[daemon]
max_connections = 40
[backend.memory]
type = "memory"
"""


@dataclass(frozen=True)
class Judgement:
    """What a run of the kit said."""

    code: int
    output: str
    document: dict[str, Any]

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        return {case["id"]: case for case in self.document["cases"]}

    @property
    def failed(self) -> list[str]:
        return [case["id"] for case in self.document["cases"] if case["verdict"] == "fail"]

    @property
    def skipped(self) -> dict[str, str]:
        cases = self.document["cases"]
        return {case["id"]: case["got"] for case in cases if case["verdict"] == "skip"}


@pytest.fixture
def judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Judgement]:
    """Run the kit with some arguments, and read its JSON."""

    def run(*arguments: str) -> Judgement:
        path = tmp_path / "verdicts.json"
        code = main(["--json", str(path), *arguments])
        return Judgement(code, capsys.readouterr().out, json.loads(path.read_text()))

    return run


@dataclass(frozen=True)
class Running:
    """A daemon that listens."""

    socket: str
    root: str

    @property
    def tamper(self) -> str:
        """What `--tamper` takes to damage an object of its filesystem store."""
        return shlex.join([sys.executable, str(HERE / "tamper.py"), self.root])


@contextlib.contextmanager
def _running(
    faults: Sequence[Sequence[str]] = (), *, config: str | None = None
) -> Generator[Running]:
    with tempfile.TemporaryDirectory(prefix="dp-") as folder:
        running = Running(f"{folder}/dp.sock", f"{folder}/store")
        arguments = ["--root", running.root]
        if config is not None:
            Path(folder, "dp.toml").write_text(config, encoding="utf-8")
            arguments = ["--config", f"{folder}/dp.toml"]
        process = subprocess.Popen(
            [
                *(sys.executable, str(HERE / "faulty.py"), json.dumps(faults)),
                *("-m", "dataplaned", "serve", "--socket", running.socket, *arguments),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        log: list[str] = []
        for line in process.stderr:
            log.append(line)
            if '"listening"' in line:
                break
        else:
            process.wait()
            raise AssertionError("".join(log))
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        try:
            yield running
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stderr.close()


@pytest.fixture(scope="session")
def run_daemon() -> Callable[..., contextlib.AbstractContextManager[Running]]:
    """Give a context manager that runs a daemon, with faults planted in it or without."""
    return _running


@pytest.fixture(scope="session")
def memory_config() -> str:
    return MEMORY


@pytest.fixture(scope="module")
def memory_daemon() -> Iterator[Running]:
    with _running(config=MEMORY) as running:
        yield running


@pytest.fixture
def adapter() -> Callable[..., list[str]]:
    """Give the command of an adapter, with faults planted in its client or without."""

    def command(name: str, faults: Sequence[Sequence[str]] = ()) -> list[str]:
        if name == "node":
            return [_tool("node"), str(HERE / "adapter_node.mjs")]
        script = str(HERE / f"adapter_{name}.py")
        if not faults:
            return [sys.executable, script]
        return [sys.executable, str(HERE / "faulty.py"), json.dumps(faults), script]

    return command


def _tool(name: str) -> str:
    """Find a program; without it a test is left out, but not where all of it has to run."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="dp-") as folder:
        yield f"{folder}/kit.sock"
