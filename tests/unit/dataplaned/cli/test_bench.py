import os
import signal
import subprocess

import pytest

from dataplaned.cli import bench as module

CALLS = ["ingest", "stat", "get", "verify", "delete"]


def test_every_kind_of_call_is_measured_and_nothing_is_left(cli):
    before = cli("ls").out
    done = cli("bench", "--count", 20, "-j", 3, "--size", "70000", "--json")
    assert done.code == 0
    assert [each["call"] for each in done.documents] == [
        "ingest",
        "stat",
        "get",
        "verify",
        "delete",
    ]
    assert all(each["calls"] == 20 and each["p99_seconds"] > 0 for each in done.documents)
    assert done.documents[2]["bytes_per_second"] > 0
    assert cli("ls").out == before


def test_it_is_told_to_people(cli):
    lines = cli("bench", "--count", 2).out.decode().splitlines()
    assert [line.split()[0] for line in lines] == CALLS


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("--size", "2GiB"), 2, "limit is 1073741824"),
        (("--size", "1GiB", "--count", "1000000"), 2, "limit is a quarter of"),
        (("--size", "many"), 2, "not a number of bytes"),
        (("--backend", "none"), 69, "no backend"),
    ],
)
def test_what_it_refuses(cli, arguments, code, reason):
    done = cli("bench", *arguments)
    assert done.code == code
    assert reason in done.err
    assert done.err.count("\n") == 1


def test_an_error_in_the_middle_deletes_what_was_stored(cli, monkeypatch):
    before = cli("ls").out

    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module._Trial, "get", fail)
    assert cli("bench", "--count", 5).code == 74
    assert cli("ls").out == before


@pytest.mark.slow
def test_an_interrupt_deletes_what_was_stored(cli):
    before = cli("ls").out
    process = cli.start("bench", "--count", "1000000", "--size", "1KiB", stdout=subprocess.PIPE)
    while cli("ls").out == before:
        assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"interrupted: deleting" in err
    assert cli("ls").out == before


def test_pieces_have_the_size_and_no_two_objects_are_the_same():
    rest = os.urandom(1_000_000)
    for size in (0, 1, 15, 16, 17, 4096, 2_500_000):
        first, second = (b"".join(module._pieces(size, rest)) for _ in range(2))
        assert len(first) == len(second) == size
        assert size < 15 or first != second
