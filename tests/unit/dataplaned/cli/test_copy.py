"""`dataplaned copy`, between the backends of a real daemon."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from dataplane_client import blocking
from dataplane_protocol import ContentAddress, IngestHints

CONTENTS = [b"", b"small", os.urandom(70_000), os.urandom(3_000_000)]

CONFIG = """
[backend.old]
type = "filesystem"
root = "{root}"
min_free_bytes = 0
[backend.new]
type = "memory"
"""


@pytest.fixture
def two(
    start_daemon: Callable[..., Any], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> Generator[Any]:
    """A daemon with two backends, and commands for it."""
    from .conftest import Cli

    path = tmp_path / "dp.toml"
    path.write_text(CONFIG.format(root=tmp_path / "root"))
    daemon = start_daemon(["--config", str(path)])
    with contextlib.closing(blocking.connect(daemon.socket_path)) as plane:
        cli: Any = Cli(daemon.socket_path, capfdbinary)
        cli.plane, cli.daemon, cli.root = plane, daemon, tmp_path / "root"
        yield cli


def fill(two: Any, backend_id: str = "old") -> list[ContentAddress]:
    hints = IngestHints(backend_id=backend_id)
    return [
        two.plane.ingest_stream([data], hints=hints).receipt.content_address for data in CONTENTS
    ]


def held(two: Any, backend_id: str) -> set[ContentAddress]:
    pages = two.plane.list_objects(backend_id=backend_id)
    return {status.content_address for page in pages for status in page}


def test_everything_is_copied_once(two: Any) -> None:
    addresses = fill(two)
    size = sum(map(len, CONTENTS))
    done = two("copy", "--from", "old", "--to", "new", "--all", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.documents == [{"copied": 4, "copied_bytes": size, "present": 0, "failed": 0}]
    assert held(two, "new") == held(two, "old") == set(addresses)
    for address, data in zip(addresses, CONTENTS, strict=True):
        assert two.plane.verify_object(address, backend_id="new").verified
        with two.plane.serve_object(address, backend_id="new") as body:
            assert b"".join(body) == data
    done = two("copy", "--from", "old", "--to", "new", "--all")
    assert done == (0, b"copied 0 objects (0 B), 4 were there, 0 failed\n", "")


def test_named_objects_are_copied_by_either_name(two: Any, monkeypatch: Any) -> None:
    addresses = fill(two)
    (status,) = two.plane.stat_objects([addresses[2]], backend_id="old")
    monkeypatch.setattr(
        sys, "stdin", io.StringIO(f"{ContentAddress.from_digest(status.sha256_digest)}  a name\n\n")
    )
    done = two("copy", "--from", "old", "--to", "new", addresses[1], "-", "-j", 1)
    assert (done.code, done.err) == (0, "")
    assert held(two, "new") == {addresses[1], addresses[2]}


def test_a_dry_run_says_what_is_missing(two: Any) -> None:
    addresses = fill(two)
    two("copy", "--from", "old", "--to", "new", addresses[0])
    done = two("copy", "--from", "old", "--to", "new", "--all", "--dry-run")
    assert sorted(done.out.decode().split()) == sorted(map(str, addresses[1:]))
    assert held(two, "new") == {addresses[0]}


def test_what_is_missing_or_damaged_is_told_and_the_rest_copied(two: Any) -> None:
    addresses = fill(two)
    (path,) = (path for path in (two.root / "objects").rglob("*") if path.stat().st_size == 70_000)
    path.chmod(0o600)
    path.write_bytes(bytes(70_000))
    absent = "blake3:" + "00" * 32
    done = two("copy", "--from", "old", "--to", "new", absent, *addresses)
    assert done.code in (65, 66)
    assert done.out == b"copied 3 objects (2.9 MiB), 0 were there, 2 failed\n"
    assert f"dataplaned: {absent}: no object" in done.err
    assert f"dataplaned: {addresses[2]}: " in done.err
    assert held(two, "new") == {addresses[0], addresses[1], addresses[3]}


def test_a_bad_copy_in_the_target_is_healed(two: Any) -> None:
    addresses = fill(two)
    fill(two, "new")
    (path,) = (path for path in (two.root / "objects").rglob("*") if path.stat().st_size == 70_000)
    path.chmod(0o600)
    path.write_bytes(bytes(70_000))
    assert not two.plane.verify_object(addresses[2], backend_id="old").verified
    done = two("copy", "--from", "new", "--to", "old", "--all", "--json")
    assert done.documents[0] == {
        "copied": 1,
        "copied_bytes": 70_000,
        "present": 3,
        "failed": 0,
    }
    assert two.plane.verify_object(addresses[2], backend_id="old").verified


def test_it_keeps_to_a_rate(two: Any) -> None:
    from dataplaned.cli import copy as room

    address = fill(two)[3]
    pauses: list[float] = []
    clock = [0.0]

    class Time:
        @staticmethod
        def monotonic() -> float:
            return clock[0]

        @staticmethod
        def sleep(pause: float) -> None:
            pauses.append(pause)
            clock[0] += pause

    original, room.time = room.time, Time  # type: ignore[assignment]
    try:
        done = two("copy", "--from", "old", "--to", "new", address, "--rate", "1MiB", "-j", 1)
    finally:
        room.time = original
    assert done.code == 0
    assert sum(pauses) == pytest.approx(3_000_000 / (1 << 20))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--all"], "Missing option"),
        (["--from", "old", "--to", "new"], "name ADDRESS..., - or --all"),
        (["--from", "old", "--to", "old", "--all"], "are the same"),
        (["--from", "old", "--to", "new", "--all", "--rate", "fast"], "is not a number of bytes"),
        (["--from", "old", "--to", "new", "--all", "--rate", "0"], "is not a number of bytes"),
        (["--from", "old", "--to", "new", "blake3"], "blake3"),
    ],
)
def test_wrong_usage_is_refused(cli: Any, arguments: list[str], words: str) -> None:
    done = cli("copy", *arguments)
    assert done.code == 2
    assert words in done.err


def test_a_backend_that_is_not_there_is_said_once(two: Any) -> None:
    fill(two)
    done = two("copy", "--from", "old", "--to", "nowhere", "--all")
    assert done.code == 69
    assert done.err == "dataplaned: no backend with this id is configured\n"


@pytest.mark.slow
def test_an_interrupted_copy_goes_on_where_it_was(two: Any) -> None:
    hints = IngestHints(backend_id="old")
    for number in range(300):
        two.plane.ingest_stream([b"%d" % number * 1000], hints=hints)
    process = two.start(
        "copy",
        "--from",
        "old",
        "--to",
        "new",
        "--all",
        "--rate",
        "1MiB",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    with process:
        while len(held(two, "new")) < 20:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == b"dataplaned: interrupted\n"
    before = len(held(two, "new"))
    assert 20 <= before < 300
    done = two("copy", "--from", "old", "--to", "new", "--all", "--json")
    assert done.documents[0]["present"] == before
    assert held(two, "new") == held(two, "old")


@pytest.mark.slow
def test_a_store_moves_to_a_bucket_while_the_daemon_serves(
    ceph: Callable[[], Any],
    start_daemon: Callable[..., Any],
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    from .conftest import Cli

    path = tmp_path / "dp.toml"
    old = f'[backend.old]\ntype = "filesystem"\nroot = "{tmp_path}/root"\nmin_free_bytes = 0\n'
    path.write_text(old + ceph().toml(tmp_path, "new"))
    daemon = start_daemon(["--config", str(path)])
    with contextlib.closing(blocking.connect(daemon.socket_path)) as plane:
        cli: Any = Cli(daemon.socket_path, capfdbinary)
        cli.plane = plane
        addresses = fill(cli)
        done = cli("copy", "--from", "old", "--to", "new", "--all", "--json")
        assert done.documents[0]["copied"] == len(CONTENTS)
        for address, data in zip(addresses, CONTENTS, strict=True):
            assert plane.verify_object(address, backend_id="new").verified
            plane.delete_object(address, backend_id="old")
            with plane.serve_object(address, backend_id="new") as body:
                assert b"".join(body) == data
        assert held(cli, "old") == set()
