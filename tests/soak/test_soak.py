"""Ten minutes of a bad year, and whether the judge would see what it is there for."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataplane_client.blocking import connect

from .torment import FAKETIME
from .verdict import examine, expect

TOP = Path(__file__).parents[2]


@pytest.fixture
def has_tools(require):
    for tool in ("b3sum", "sha256sum"):
        require(shutil.which(tool) is not None, tool)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_soak_loses_nothing_and_leaves_the_daemon_as_it_was(require, has_tools):
    require(os.geteuid() == 0, "root, for a filesystem of its own")
    require(shutil.which("mkfs.ext4") is not None, "mkfs.ext4")
    require(FAKETIME.exists(), "faketime")
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--seconds", "600"],
        cwd=TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def note(kind, **more):
    return {"kind": kind, "at": 0.0, **more}


A, B = "blake3:" + "a" * 64, "blake3:" + "b" * 64
STORED = note("stored", address=A, sha256="1", outcome="created")
DELETE, DELETED = note("delete", address=A), note("deleted", address=A, was_there=True)


@pytest.mark.parametrize(
    ("notes", "stored", "gone"),
    [
        ([note("ingest", sha256="1", size=1)], set(), set()),
        ([STORED], {A}, set()),
        ([STORED, DELETE], set(), set()),
        ([STORED, DELETE, DELETED], set(), {A}),
        ([STORED, DELETE, DELETED, STORED], {A}, set()),
        ([STORED, note("served", address=A)], {A}, set()),
    ],
)
def test_what_has_to_be_there_follows_from_the_history(notes, stored, gone):
    expected = expect(notes)
    assert (set(expected.stored), expected.gone) == (stored, gone)


@pytest.mark.slow
def test_the_judge_sees_what_is_lost_wrong_bad_and_back(daemon, has_tools, tmp_path):
    contents = [os.urandom(size) for size in (10, 20_000, 100_000, 100_001, 100_002)]
    history = []
    with connect(daemon.socket_path) as client:
        for content in contents:
            result = client.ingest_stream([content])
            address = str(result.receipt.content_address)
            digest = result.sha256_digest.hex
            history.append(note("stored", address=address, sha256=digest, outcome="created"))
        addresses = [each["address"] for each in history]

        def judge(notes, rotten=()):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(tmp_path / "work")
            (tmp_path / "work").mkdir()
            work = tmp_path / "work"
            return examine(daemon.socket_path, daemon.root, expect(notes), set(rotten), work)

        assert judge(history) == []
        lost = note("stored", address=A, sha256="0" * 64, outcome="created")
        assert judge([*history, lost]) == [f"lost: {A}"]
        back = [note("delete", address=addresses[0]), note("deleted", address=addresses[0])]
        assert judge([*history, *back]) == [f"came back: {addresses[0]}"]
        other = [*history[:-1], history[-1] | {"sha256": history[0]["sha256"]}]
        assert any("sha256sum" in problem and "FAILED" in problem for problem in judge(other))
        wrong = note("WRONG", address=addresses[1])
        assert judge([*history, wrong]) == [json.dumps(wrong)]
        hexadecimal = addresses[2].partition(":")[2]
        (path,) = (path for path in daemon.files("objects") if path.name.startswith(hexadecimal))
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.seek(70_000)
            byte = file.read(1)
            file.seek(70_000)
            file.write(bytes([byte[0] ^ 1]))
        problems = judge(history)
        assert f"said to be bad, and was not touched: {addresses[2]}" in problems
        assert any(problem.startswith("b3sum") for problem in problems)
        assert judge(history, [addresses[2]]) == []
