"""`dataplaned hash`: what sha256sum and b3sum say, without a daemon."""

import hashlib
import io
import os
import subprocess
import sys
from typing import Any

import pytest
from blake3 import blake3

from dataplaned.cli.output import parse_sum_line, sum_line
from dataplaned.cli.program import run

CONTENT = os.urandom(700_000)


@pytest.fixture
def hash_(capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    def call(*arguments: object) -> tuple[int, bytes, str]:
        code = run(["hash", *map(str, arguments)])
        captured = capfdbinary.readouterr()
        return code, captured.out, captured.err.decode()

    return call


@pytest.fixture
def file(tmp_path: Any) -> Any:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def addresses(content: bytes) -> tuple[str, str]:
    return f"blake3:{blake3(content).hexdigest()}", f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_both_addresses_are_given(hash_: Any, file: Any) -> None:
    first, second = addresses(CONTENT)
    assert hash_(file) == (0, f"{first}  {file}\n{second}  {file}\n".encode(), "")
    assert hash_(file, "--algorithm", "sha256") == (0, f"{second}  {file}\n".encode(), "")


def test_json_has_both_in_one_document(hash_: Any, file: Any) -> None:
    import json

    code, out, _ = hash_("--json", file)
    first, second = addresses(CONTENT)
    assert (code, json.loads(out)) == (
        0,
        {"file": str(file), "blake3": first, "sha256": second, "size_bytes": len(CONTENT)},
    )


def test_standard_input_is_read(file: Any) -> None:
    with file.open("rb") as opened:
        done = subprocess.run(
            [sys.executable, "-m", "dataplaned", "hash", "-", "--algorithm", "blake3"],
            stdin=opened,
            capture_output=True,
            check=True,
        )
    assert done.stdout.decode() == f"{addresses(CONTENT)[0]}  -\n"


def test_what_it_says_is_checked(hash_: Any, tmp_path: Any) -> None:
    names = ["plain", "two  spaces", "back\\slash", "line\nend", "return\r", "\udcff"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode(errors="surrogateescape"))
    _, out, _ = hash_(*(tmp_path / name for name in names))
    (tmp_path / "list").write_bytes(out)
    code, out, err = hash_("-c", tmp_path / "list")
    assert (code, err) == (0, "")
    assert out.count(b": ok\n") == 2 * len(names)
    (tmp_path / "plain").write_bytes(b"changed")
    (tmp_path / "two  spaces").unlink()
    code, out, err = hash_("-c", tmp_path / "list")
    assert code == 65
    assert out.count(b": ok\n") == 2 * (len(names) - 2)
    assert out.count(b"plain: DIFFERS\n") == 2
    assert "two  spaces: No such file or directory" in err


def test_lists_of_other_programs_are_no_lists(hash_: Any, tmp_path: Any) -> None:
    (tmp_path / "list").write_text(
        "d41d8cd98f00b204e9800998ecf8427e  file\nblake3:00\nmd5:aa  file\n\nblake3:xx  file\n"
    )
    code, out, err = hash_("--check", tmp_path / "list")
    assert (code, out) == (2, b"")
    assert [line.split(":")[2] for line in err.splitlines()] == ["1", "2", "3", "5"]


def test_missing_files_and_directories_are_told_and_the_others_hashed(
    hash_: Any, file: Any, tmp_path: Any
) -> None:
    code, out, err = hash_(tmp_path / "none", tmp_path, file)
    assert code == 74
    assert out.count(b"\n") == 2
    assert "none: No such file" in err
    assert "Is a directory" in err


def test_standard_input_can_be_read_once(hash_: Any) -> None:
    code, _, err = hash_("-", "-")
    assert code == 2
    assert "can be read once" in err


@pytest.mark.parametrize("name", ["a", "a  b", "\\", "\\n", "\n", "\r\n", "a\\r"])
def test_a_line_is_read_as_it_was_written(name: str) -> None:
    assert parse_sum_line(sum_line("blake3:00", name)) == ("blake3:00", name)


def test_bytes_are_hashed_as_they_come(hash_: Any, monkeypatch: Any, tmp_path: Any) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert hash_(empty)[1].decode().split()[0] == addresses(b"")[0]
