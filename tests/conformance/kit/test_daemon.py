"""The kit against our daemon, which has to pass everything."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from dataplane_client import blocking
from dataplane_conformance.daemon.subject import large_object

#: Reasons for which a case is skipped although nothing is wrong with either side.
NOT_OFFERED = "does not offer ingest_fd"
NOT_LIMITED = "--max-object-size 100000"


def _unexpected(skipped: dict[str, str], *reasons: str) -> dict[str, str]:
    return {
        case: why for case, why in skipped.items() if not any(reason in why for reason in reasons)
    }


def test_the_reference_backend_passes_what_is_quick(
    judge: Callable[..., Any], memory_daemon: Any
) -> None:
    chosen = ("4/hello*", "7.1/ingest*", "7.2/serve*", "5.3/early*", "5.9/g*")
    options = [option for case in chosen for option in ("--only", case)]
    judgement = judge(memory_daemon.socket, "--strict", *options)
    assert judgement.output.count("\n") == 1
    assert re.fullmatch(r"\d+ passed, 0 failed, \d+ skipped\n", judgement.output)
    assert judgement.code == 0


@pytest.mark.slow
def test_the_reference_backend_passes_everything(
    judge: Callable[..., Any], run_daemon: Callable[..., Any], memory_config: str
) -> None:
    with run_daemon(config=memory_config) as daemon:
        judgement = judge(daemon.socket, "--strict")
    assert judgement.failed == []
    assert len(judgement.cases) > 400
    reasons = (NOT_OFFERED, NOT_LIMITED, "needs --tamper", "as a stream", "as streams")
    assert _unexpected(judgement.skipped, *reasons) == {}


@pytest.mark.slow
def test_the_filesystem_backend_passes_everything(
    judge: Callable[..., Any], run_daemon: Callable[..., Any]
) -> None:
    with run_daemon() as daemon:
        judgement = judge(daemon.socket, "--strict", "--tamper", daemon.tamper)
    assert judgement.failed == []
    reasons = (NOT_OFFERED, NOT_LIMITED, "takes 64 connections")
    assert _unexpected(judgement.skipped, *reasons) == {}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ceph", "azurite"])
def test_the_object_store_backend_passes_everything(
    judge: Callable[..., Any],
    run_daemon: Callable[..., Any],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    engine: str,
) -> None:
    bucket = request.getfixturevalue(engine)()
    tamper = Path(__file__).parents[2] / "engines" / "tamper.py"
    settings = json.dumps({"url": bucket.url, "options": bucket.client_options})
    command = shlex.join([sys.executable, str(tamper), settings])
    with run_daemon(config=bucket.toml(tmp_path, "bucket")) as daemon:
        judgement = judge(daemon.socket, "--strict", "--tamper", command)
    assert judgement.failed == []
    reasons = (NOT_OFFERED, NOT_LIMITED, "takes 64 connections", "as a stream", "as streams")
    assert _unexpected(judgement.skipped, *reasons) == {}


@pytest.mark.slow
@pytest.mark.parametrize("acknowledge", ["both", "first"])
def test_a_mirror_passes_everything(
    judge: Callable[..., Any], run_daemon: Callable[..., Any], tmp_path: Path, acknowledge: str
) -> None:
    config = f"""
        [backend.m]
        type = "mirror"
        acknowledge = "{acknowledge}"
        journal = "{tmp_path}/journal"
        [backend.m.first]
        type = "filesystem"
        root = "{tmp_path}/first"
        min_free_bytes = 0
        [backend.m.second]
        type = "filesystem"
        root = "{tmp_path}/second"
        min_free_bytes = 0
    """
    with run_daemon(config=config) as daemon:
        judgement = judge(daemon.socket, "--strict")
    assert judgement.failed == []
    reasons = (NOT_OFFERED, NOT_LIMITED, "takes 64 connections", "needs --tamper")
    assert _unexpected(judgement.skipped, *reasons) == {}


@pytest.mark.slow
def test_a_daemon_that_bounds_objects_passes_the_cases_for_it(
    judge: Callable[..., Any], run_daemon: Callable[..., Any]
) -> None:
    config = '[daemon]\nmax_object_size = 100000\n[backend.memory]\ntype = "memory"\n'
    with run_daemon(config=config) as daemon:
        options = ("--max-object-size", "100000", "--only", "8.1/too-large*")
        judgement = judge(daemon.socket, "--strict", *options)
    assert (judgement.code, judgement.output) == (0, "2 passed, 0 failed, 0 skipped\n")


@pytest.mark.slow
def test_a_server_that_shares_no_code_with_ours_passes_everything(
    judge: Callable[..., Any], socket_path: str
) -> None:
    script = Path(__file__).parents[2] / "interop" / "minimal_server.py"
    command = [sys.executable, "-u", str(script), socket_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert "listening" in server.stdout.readline()
        try:
            judgement = judge(socket_path, "--strict")
        finally:
            server.terminate()
    assert judgement.failed == []
    reasons = (NOT_OFFERED, NOT_LIMITED, "needs --tamper")
    assert _unexpected(judgement.skipped, *reasons) == {}


def test_the_kit_leaves_nothing_behind(judge: Callable[..., Any], memory_daemon: Any) -> None:
    judge(memory_daemon.socket, "--only", "7.1/*", "--only", "5.4/*")
    with blocking.connect(memory_daemon.socket) as plane:
        assert [len(page) for page in plane.list_objects()] == [0]


@pytest.mark.slow
def test_objects_of_others_are_not_touched(
    judge: Callable[..., Any], run_daemon: Callable[..., Any], memory_config: str
) -> None:
    contents = [b"hello world\n", b"a", b"somebody else's", large_object().data]
    with run_daemon(config=memory_config) as daemon, blocking.connect(daemon.socket) as plane:
        names = [plane.ingest_stream([one]).receipt.content_address for one in contents]
        judgement = judge(daemon.socket, "--only", "7*", "--only", "2.2/accepts*")
        assert judgement.failed == []
        assert len(plane.stat_objects(names)) == len(names)
    assert "was not empty" in judgement.skipped["7.7/list-of-an-empty-store"]
    assert "held an object of this case" in judgement.skipped["7.1/ingest"]
    assert judgement.cases["7/generations-grow"]["verdict"] == "pass"


def test_every_way_in_which_a_connection_ends_is_told(
    judge: Callable[..., Any], memory_daemon: Any
) -> None:
    chosen = ("7.5/health", "5.9/garbage-after-the-hello", "5.2/idle-connection-*", "4/hello")
    judgement = judge(
        memory_daemon.socket, *(option for case in chosen for option in ("--only", case))
    )
    endings = {case: entry["connection"] for case, entry in judgement.cases.items()}
    assert endings == {
        "4/hello": "closed by the kit",
        "7.5/health": "closed by the kit",
        "5.9/garbage-after-the-hello": "error, then close",
        "5.2/idle-connection-is-closed-without-a-word": "clean close",
    }


def test_a_junit_file_is_written(
    judge: Callable[..., Any], memory_daemon: Any, tmp_path: Path
) -> None:
    path = tmp_path / "junit.xml"
    judge(memory_daemon.socket, "--only", "7.5/*", "--junit", str(path))
    suite = ET.parse(path).getroot()
    assert {case.get("name") for case in suite} >= {"7.5/health"}
    assert suite.get("failures") == "0"
