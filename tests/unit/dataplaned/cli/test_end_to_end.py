"""Commands against a real daemon."""

import contextlib
import hashlib
import io
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

#: Larger than what lives in a catalog row, so that there is a file to damage.
LARGE = 300_000

ABSENT = "blake3:" + "00" * 32


def blake3_name(content: bytes) -> str:
    return "blake3:" + blake3(content).hexdigest()


def sha256_name(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def ingest(cli: Any, directory: Path, content: bytes) -> str:
    (directory / "content").write_bytes(content)
    done = cli("ingest", directory / "content")
    assert done.code == 0
    return done.out.split()[0].decode()


def damage_everything(daemon: Any) -> None:
    for path in daemon.files("objects"):
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.seek(LARGE // 2)
            byte = file.read(1)[0]
            file.seek(LARGE // 2)
            file.write(bytes([byte ^ 1]))


def test_what_is_ingested_can_be_had_under_both_names(cli: Any, tmp_path: Path) -> None:
    content = os.urandom(LARGE)
    name = tmp_path / "some\nname"
    name.write_bytes(content)
    escaped = str(name).replace("\n", "\\n")
    by_blake3, by_sha256 = blake3_name(content), sha256_name(content)
    assert cli("ingest", name) == (0, f"\\{by_blake3}  {escaped}\n".encode(), "")
    done = cli("ingest", name, "--algorithm", "sha256")
    assert done == (0, f"\\{by_sha256}  {escaped}\n".encode(), "")
    for address in (by_blake3, by_sha256):
        assert cli("get", address) == (0, content, "")
        assert cli("get", address, "-o", tmp_path / "copy") == (0, b"", "")
        assert (tmp_path / "copy").read_bytes() == content


def test_files_that_cannot_be_stored_do_not_stop_the_others(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"")
    done = cli("ingest", tmp_path, tmp_path / "a", tmp_path / "none", tmp_path / "b")
    assert done.code == 74
    assert done.out.decode().splitlines() == [
        f"{blake3_name(b'a')}  {tmp_path / 'a'}",
        f"{blake3_name(b'')}  {tmp_path / 'b'}",
    ]
    assert done.err.splitlines() == [
        f"dataplaned: {tmp_path}: Is a directory",
        f"dataplaned: {tmp_path / 'none'}: No such file or directory",
    ]


def test_standard_input_is_a_file_too(cli: Any) -> None:
    content = os.urandom(LARGE)
    process = cli.start("ingest", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, err = process.communicate(content)
    assert (process.returncode, err) == (0, b"")
    assert out == f"{blake3_name(content)}  -\n".encode()
    assert cli("get", blake3_name(content)).out == content


def test_bytes_that_are_not_the_expected_ones_are_not_stored(cli: Any, tmp_path: Path) -> None:
    content = os.urandom(100)
    (tmp_path / "a").write_bytes(content)
    for wrong in (blake3_name(b"b"), sha256_name(b"b")):
        done = cli("ingest", tmp_path / "a", "--expect", wrong)
        assert (done.code, done.out, done.err.count("\n")) == (65, b"", 1)
    assert cli("stat", blake3_name(content)).code == 66
    done = cli("ingest", tmp_path / "a", "--expect", sha256_name(content))
    assert done == (0, f"{sha256_name(content)}  {tmp_path / 'a'}\n".encode(), "")


def test_ranges_include_both_ends_and_may_be_open(cli: Any, tmp_path: Path) -> None:
    content = os.urandom(LARGE)
    address = ingest(cli, tmp_path, content)
    assert cli("get", address, "--range", "0-99").out == content[:100]
    assert cli("get", address, "--range", "65530-65545").out == content[65530:65546]
    assert cli("get", address, "--range", "299990-").out == content[299_990:]
    assert cli("get", address, "--range", "299990-999999999").out == content[299_990:]
    done = cli("get", address, "--range", "300000-")
    assert (done.code, done.out, done.err.count("\n")) == (2, b"", 1)


def test_a_missing_object_is_told_and_leaves_no_file(cli: Any, tmp_path: Path) -> None:
    for arguments in (("get", ABSENT), ("get", ABSENT, "-o", tmp_path / "out"), ("stat", ABSENT)):
        done = cli(*arguments)
        assert (done.code, done.out, done.err.count("\n")) == (66, b"", 1)
    assert os.listdir(tmp_path) == []


def test_a_damaged_object_is_never_served_whole_and_is_found(
    daemon: Any, cli_of: Any, tmp_path: Path
) -> None:
    cli = cli_of(daemon)
    address = ingest(cli, tmp_path, os.urandom(LARGE))
    (tmp_path / "content").unlink()
    damage_everything(daemon)
    done = cli("get", address, "-o", tmp_path / "out")
    assert (done.code, done.err.count("\n")) == (65, 1)
    assert os.listdir(tmp_path) == []
    assert cli("get", address).code == 65
    done = cli("verify", address)
    assert done.code == 65
    assert done.out.startswith(f"DAMAGED  {address}".encode())
    assert cli("verify", "--all").code == 65
    [document] = cli("verify", "--json", address).documents
    assert document["verified"] is False


def test_everything_can_be_read_as_json(daemon: Any, cli_of: Any, tmp_path: Path) -> None:
    cli = cli_of(daemon)
    content = os.urandom(LARGE)
    (tmp_path / "file").write_bytes(content)
    address, other = blake3_name(content), sha256_name(content)

    [stored] = cli("ingest", "--json", tmp_path / "file").documents
    assert stored["file"] == str(tmp_path / "file")
    assert (stored["content_address"], stored["sha256_digest"]) == (address, other)
    assert (stored["size_bytes"], stored["outcome"], stored["backend_id"]) == (
        *(LARGE, "created"),
        "local",
    )
    assert stored["stored_at"].endswith("Z")

    done = cli("stat", "--json", other, ABSENT)
    [described] = done.documents
    assert (done.code, done.err) == (66, f"dataplaned: no such object: {ABSENT}\n")
    assert described == {
        "content_address": address,
        "sha256_digest": other,
        "size_bytes": LARGE,
        "generation": stored["generation"],
        "stored_at": stored["stored_at"],
        "verified_at": described["verified_at"],
        "state": "ok",
    }
    assert cli("ls", "--json").documents == [described]

    [verified] = cli("verify", "--json", "--all").documents
    assert (verified["verified"], verified["actual_size_bytes"]) == (True, LARGE)

    [got] = cli("get", "--json", "--range", "10-19", address, "-o", tmp_path / "out").documents
    assert (got["size_bytes"], got["offset"], got["length"]) == (LARGE, 10, 10)

    [health] = cli("health", "--json").documents
    assert (health["default"], health["backends"][0]["object_count"]) == ("local", 1)
    [one] = cli("health", "--json", "--backend", "local").documents
    assert one["state"] == "ok"

    foretold = cli("delete", "--dry-run", address, ABSENT)
    assert (foretold.code, foretold.err) == (0, "")
    assert foretold.out.startswith(f"would delete  {address}  ".encode())
    assert cli("delete", "-n", "--json", address).documents[0]["content_address"] == address
    assert cli("delete", "--dry-run", ABSENT).code == 66
    [deleted] = cli("delete", "--yes", "--json", address).documents
    assert deleted == {"content_address": address, "backend_id": "local", "deleted": True}


def test_listings_are_ordered_and_can_begin_anywhere(
    daemon: Any, cli_of: Any, tmp_path: Path
) -> None:
    cli = cli_of(daemon)
    names = [str(tmp_path / f"{number}") for number in range(5)]
    for name in names:
        Path(name).write_text(name)
    assert cli("ingest", *names).code == 0
    addresses = sorted(blake3_name(name.encode()) for name in names)
    assert cli("ls").out.decode().split() == addresses
    assert cli("ls", "--after", addresses[1]).out.decode().split() == addresses[2:]
    rows = cli("ls", "--long").out.decode().splitlines()
    assert [row.split()[-1] for row in rows] == addresses


def test_deleting_what_is_not_there_is_an_error_only_if_nothing_was(
    cli: Any, tmp_path: Path
) -> None:
    address = ingest(cli, tmp_path, b"bytes")
    done = cli("delete", "--yes", ABSENT, sha256_name(b"bytes"))
    assert done == (0, f"absent   {ABSENT}\ndeleted  {sha256_name(b'bytes')}\n".encode(), "")
    done = cli("delete", "--yes", address)
    assert (done.code, done.out) == (66, f"absent   {address}\n".encode())
    assert cli("get", address).code == 66


def test_a_delete_may_depend_on_the_generation(cli: Any, tmp_path: Path) -> None:
    address = ingest(cli, tmp_path, b"bytes")
    [described] = cli("stat", "--json", address).documents
    generation = described["generation"]
    done = cli("delete", "--yes", "--if-generation", generation + 1, address)
    assert (done.code, done.out, done.err.count("\n")) == (1, b"", 1)
    assert cli("delete", "--yes", "--if-generation", generation, address).code == 0


@pytest.mark.parametrize(
    ("answer", "code", "remains"), [(b"y\n", 0, False), (b"n\n", 1, True), (b"\n", 1, True)]
)
def test_a_delete_asks_on_a_terminal(
    cli: Any, tmp_path: Path, answer: bytes, code: int, remains: bool
) -> None:
    address = ingest(cli, tmp_path, b"bytes")
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    process = cli.start("delete", address, stdin=theirs, stdout=subprocess.PIPE)
    out, err = process.communicate()
    os.close(ours)
    os.close(theirs)
    assert (process.returncode, b"for good?" in err) == (code, True)
    assert (b"deleted" in out) is not remains
    assert (cli("stat", address).code == 0) is remains


def test_an_unknown_backend_is_unavailable(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    for arguments in (
        *(("health",), ("ls",), ("get", ABSENT), ("stat", ABSENT), ("verify", ABSENT)),
        *(("delete", "--yes", ABSENT), ("ingest", tmp_path / "a", tmp_path / "a")),
    ):
        done = cli(*arguments, "--backend", "none")
        assert (done.code, done.out, done.err.count("\n")) == (69, b"", 1)


def test_a_reader_that_goes_away_ends_a_get_quietly(cli: Any, tmp_path: Path) -> None:
    address = ingest(cli, tmp_path, os.urandom(1_000_000))
    process = cli.start("get", address, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert len(process.stdout.read(10)) == 10
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 141)
    process.stderr.close()


def test_output_that_cannot_be_written_is_local(cli: Any, tmp_path: Path) -> None:
    address = ingest(cli, tmp_path, b"bytes")
    for command in ("get", "stat"):
        with open("/dev/full", "wb") as full:
            process = cli.start(command, address, stdout=full)
            _, err = process.communicate()
        assert process.returncode == 74
        assert err == b"dataplaned: standard output: No space left on device\n"


def test_bytes_never_go_to_a_descriptor_that_only_took_the_number_of_the_output(
    cli: Any, tmp_path: Path
) -> None:
    address = ingest(cli, tmp_path, b"bytes")
    process = cli.start("get", address, shell='exec "$@" >&-')
    _, err = process.communicate()
    assert process.returncode == 74
    assert err == b"dataplaned: standard output: Bad file descriptor\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_ingest_stores_nothing(cli: Any, number: signal.Signals, code: int) -> None:
    before = cli("ls")
    process = cli.start("ingest", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    # More than a pipe holds: once it is written, the command is in the middle of the ingest.
    process.stdin.write(bytes(1_000_000))
    process.stdin.flush()
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (code, b""), err
    assert err == (b"dataplaned: interrupted\n" if number is signal.SIGINT else b"")
    assert cli("ls") == before


def test_a_daemon_that_dies_is_told_in_one_line(daemon: Any, cli_of: Any) -> None:
    process = cli_of(daemon).start("ingest", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(bytes(1_000_000))
    process.stdin.flush()
    daemon.kill()
    out, err = process.communicate(bytes(1_000_000))
    assert process.returncode in {69, 75}
    assert (out, err.count(b"\n")) == (b"", 1)
    assert err.startswith(b"dataplaned: ")


def test_a_second_daemon_on_the_socket_says_so(cli: Any, tmp_path: Path) -> None:
    done = cli.start("serve", "--root", str(tmp_path / "store"), stdout=subprocess.PIPE)
    _, err = done.communicate()
    assert done.returncode == 75
    assert err.splitlines()[-1].startswith(b"dataplaned: ")
    assert b"Traceback" not in err


def test_in_a_pipe_there_is_no_progress_bar(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplaned.cli.progress.LONG_TRANSFER", 0)
    with contextlib.redirect_stderr(io.StringIO()) as screen:
        ingest(cli, tmp_path, os.urandom(LARGE))
    assert screen.getvalue() == ""
