"""`dataplaned quarantine`, against a real daemon."""

import os
import pty
import subprocess
from typing import Any

import pytest


@pytest.fixture
def address(ward: Any) -> str:
    """An object whose only copy is in quarantine, under the number 1."""
    address: str = ward.ingest()
    ward.flip()
    assert ward.cli("verify", address).code == 65
    return address


def test_a_bad_copy_is_listed_until_it_is_purged(ward: Any, address: str) -> None:
    cli = ward.cli
    [listed] = cli("quarantine", "ls", "--json").documents
    assert listed == {
        "number": 1,
        "content_address": address,
        "size_bytes": len(ward.content),
        "reason": "content differs, first between bytes 131072 and 196607",
        "found_at": listed["found_at"],
        "is_only_copy": True,
    }
    row = f"     1   293.0 KiB  {listed['found_at']}  only copy  {address}  {listed['reason']}\n"
    assert cli("quarantine", "ls") == (0, row.encode(), "")

    [bad] = ward.daemon.files("objects")
    ward.ingest()
    assert cli("get", address).out == ward.content
    replaced = row.replace("only copy", "replaced ").encode()
    assert cli("quarantine", "ls") == (0, replaced, "")

    assert cli("quarantine", "restore", "1").code == 1
    done = cli("quarantine", "purge", "--yes", "1")
    assert done == (0, f"purged       1  {address}\n".encode(), "")
    assert cli("quarantine", "ls") == (0, b"", "")
    assert not bad.exists()
    assert len(ward.daemon.files("objects")) == 1
    assert cli("verify", address).code == 0


def test_a_copy_that_is_right_after_all_is_restored(ward: Any, address: str) -> None:
    cli = ward.cli
    done = cli("quarantine", "restore", "1")
    assert done.code == 65
    assert done.out.startswith(f"DAMAGED        1  {address}  content differs".encode())
    assert done.err == "dataplaned: still damaged: copy 1\n"
    [document] = cli("quarantine", "restore", "--all", "--json").documents
    assert (document["restored"], document["mismatch"][:15]) == (False, "content differs")
    ward.flip()
    assert cli("get", address).code == 65
    done = cli("quarantine", "restore", "--all")
    assert done == (0, f"restored       1  {address}\n".encode(), "")
    assert cli("get", address).out == ward.content
    assert cli("quarantine", "ls").out == b""
    assert cli("quarantine", "restore", "--all") == (0, b"", "")


def test_an_object_goes_with_its_only_copy_and_that_is_told(ward: Any, address: str) -> None:
    cli = ward.cli
    other = ward.ingest(os.urandom(300_000))
    foretold = cli("quarantine", "purge", "--all", "--dry-run")
    assert (foretold.code, foretold.out) == (0, cli("quarantine", "ls").out)
    assert cli("quarantine", "purge", "-n", "999").code == 66
    assert cli("quarantine", "purge", "-n", "--all", "--json").documents != []
    done = cli("quarantine", "purge", "--all", "--yes", "--json")
    assert (done.code, done.err) == (0, "dataplaned: 1 object loses its only copy\n")
    assert done.documents == [{"number": 1, "content_address": address, "was_only_copy": True}]
    assert cli("stat", address).code == 66
    assert cli("ls").out.decode().split() == [other]
    assert len(ward.daemon.files("objects")) == 1
    assert cli("quarantine", "purge", "--all", "--yes") == (0, b"", "")


def test_a_number_that_names_nothing_does_not_stop_the_others(ward: Any, address: str) -> None:
    cli = ward.cli
    missing = "dataplaned: copy 7: no copy 7 in quarantine\n"
    done = cli("quarantine", "restore", "7", "1")
    assert (done.code, done.err) == (66, missing + "dataplaned: still damaged: copy 1\n")
    done = cli("quarantine", "purge", "--yes", "7", "1", "1")
    assert done.code == 66
    assert done.out == f"purged       1  {address}  only copy\n".encode()
    assert done.err == "dataplaned: 1 object loses its only copy\n" + missing


@pytest.mark.parametrize(("answer", "code", "remains"), [(b"y\n", 0, False), (b"\n", 1, True)])
def test_a_purge_asks_on_a_terminal(
    ward: Any, address: str, answer: bytes, code: int, remains: bool
) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    process = ward.cli.start("quarantine", "purge", "1", stdin=theirs, stdout=subprocess.PIPE)
    _, err = process.communicate()
    os.close(ours)
    os.close(theirs)
    assert b"1 object loses its only copy. Remove this copy for good?" in err
    assert process.returncode == code
    assert (ward.cli("stat", address).code == 0) is remains


@pytest.mark.parametrize(
    "arguments",
    [
        ("scrub", "status"),
        ("scrub", "start"),
        ("scrub", "pause"),
        ("quarantine", "ls"),
        ("quarantine", "restore", "1", "2"),
        ("quarantine", "purge", "--yes", "1"),
        ("backup",),
    ],
)
def test_an_unknown_backend_is_unavailable(cli: Any, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments, "--backend", "none")
    assert (done.code, done.out, done.err.count("\n")) == (69, b"", 1)
