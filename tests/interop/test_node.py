"""A client in another language, written from SPEC.md alone, against the vectors and the daemon."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

INTEROP = Path(__file__).parent
VECTORS = INTEROP.parents[1] / "protocol" / "vectors"


def tool(name):
    """Find a program; without it a test is left out, but not where all of it has to run."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def run(script, *arguments, directory=INTEROP):
    """Run a script and give how many checks passed; none may have failed."""
    finished = subprocess.run(
        [tool("node"), str(directory / script), *map(str, arguments)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
    )
    output = finished.stdout + finished.stderr
    assert finished.returncode == 0, output
    summary = re.fullmatch(r"(\d+) passed, 0 failed(, \d+ skipped)?", output.splitlines()[-1])
    assert summary, output
    return int(summary[1])


def test_its_codec_reads_and_writes_the_frames_of_the_vectors():
    assert run("vectors.mjs") > 200


def test_it_does_what_the_vectors_have_a_client_do():
    assert run("server_role.mjs") > 30


def test_it_does_what_no_vector_can_show():
    assert run("unshown.mjs") > 3


def test_the_daemon_does_what_the_vectors_have_a_server_do_to_it(daemon):
    assert run("replay.mjs", daemon.socket_path) > 80


def test_it_and_the_daemon_understand_each_other(daemon):
    assert run("run.mjs", daemon.socket_path) > 30
    assert not [line for line in daemon.log if line.get("level") in ("error", "critical")]


def test_its_command_line_stores_and_gives_back_a_file(daemon):
    content = bytes(range(256)) * 1000
    command = [tool("node"), str(INTEROP / "client.mjs"), daemon.socket_path]
    stored = subprocess.run([*command, "ingest"], input=content, capture_output=True, check=True)
    (address,) = re.findall(rb'"primary_digest":"(blake3:[0-9a-f]{64})"', stored.stdout)
    given = subprocess.run([*command, "serve", address], capture_output=True, check=True)
    assert given.stdout == content
    refused = subprocess.run([*command, "serve", "blake3:00"], capture_output=True)
    assert refused.returncode == 1
    assert b'"code":"bad_request"' in refused.stderr


@pytest.mark.slow
def test_a_cbor_library_of_another_language_agrees_with_the_vectors(tmp_path):
    npm = tool("npm")
    directory = tmp_path / "interop"
    shutil.copytree(INTEROP, directory, ignore=shutil.ignore_patterns("node_modules", "*.py"))
    subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=directory,
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    assert run("library.mjs", VECTORS, directory=directory) > 100
