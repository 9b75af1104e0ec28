import os
import subprocess
import sys
from pathlib import Path

import pytest

import dataplaned
from dataplaned.cli.program import run

ADDRESS = "blake3:" + "00" * 32

#: Taken along only when an event loop, the wire or a terminal is really needed.
HEAVY = ("anyio", "asyncio", "trio", "rich", "cbor2", "cattrs", "structlog", "blake3")


def program(*arguments: str, **options: object) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "dataplaned", *arguments]
    return subprocess.run(command, capture_output=True, check=False, **options)  # type: ignore[call-overload, no-any-return]  # passed through


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["--version"], ["quarantine", "purge", "--help"]),
        *([name, "--help"] for name in ("serve", "get", "ls", "scrub", "backup", "fsck")),
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from dataplaned.cli.program import run\n"
        f"assert run({arguments!r}) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stderr == b"[]\n"


@pytest.mark.parametrize("arguments", [["ls"], ["quarantine", "ls"]])
def test_a_client_command_imports_no_event_loop_and_no_terminal_library(
    arguments: list[str], tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "from dataplaned.cli.program import run\n"
        f"assert run([*{arguments!r}, '--socket', {str(tmp_path / 'none')!r}]) == 69\n"
        "heavy = ('trio', 'rich', 'asyncio', 'sqlite3', 'blake3', 'structlog')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"dataplaned {dataplaned.__version__}\n"


def test_without_arguments_the_help_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["gett"],
        ["get"],
        ["get", "nonsense"],
        ["get", ADDRESS, "--range", "9-1"],
        ["get", ADDRESS, "--json"],
        ["get", ADDRESS, "--no-such-option"],
        ["stat"],
        ["stat", "blake3:\x1b[2J\n"],
        ["ingest"],
        ["ingest", "-", "-"],
        ["ingest", "a", "b", "--expect", ADDRESS],
        ["ingest", "a", "--algorithm", "md5"],
        ["verify"],
        ["verify", "--all", ADDRESS],
        ["delete", ADDRESS],
        ["delete", "--yes", "--if-generation", "-1", ADDRESS],
        ["delete", "--yes", "--if-generation", "1", ADDRESS, ADDRESS],
        ["get", ADDRESS, "--socket", "s" * 200],
        ["scrub", "stop"],
        ["quarantine", "restore"],
        ["quarantine", "restore", "--all", "1"],
        ["quarantine", "restore", "0"],
        ["quarantine", "purge", "--yes"],
        ["quarantine", "purge", "1"],
        ["backup", "here"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("dataplaned: ")
    assert output.err.count("\n") == 1
    assert output.err.rstrip("\n").isprintable()


@pytest.mark.parametrize(
    "arguments",
    [
        ["get", ADDRESS],
        ["stat", ADDRESS],
        ["ls"],
        ["verify", ADDRESS],
        ["verify", "--all"],
        ["delete", "--yes", ADDRESS, ADDRESS],
        ["health"],
        ["ingest", __file__, __file__],
        ["scrub", "status"],
        ["scrub", "start"],
        ["scrub", "pause"],
        ["quarantine", "ls"],
        ["quarantine", "restore", "1", "2"],
        ["quarantine", "restore", "--all"],
        ["quarantine", "purge", "--yes", "1"],
        ["backup"],
    ],
)
def test_no_daemon_is_one_line_and_exit_code_69(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--socket", str(tmp_path / "none")]) == 69
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("dataplaned: ")
    assert output.err.count("\n") == 1


def test_a_get_that_fails_leaves_no_file(tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert run(["get", ADDRESS, "-o", str(target), "--socket", str(tmp_path / "none")]) == 69
    assert os.listdir(tmp_path) == []


def test_the_socket_comes_from_the_environment_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATAPLANED_SOCKET", str(tmp_path / "of-the-environment"))
    assert run(["ls"]) == 69
    assert "of-the-environment" in capsys.readouterr().err


def test_output_that_cannot_be_written_is_an_error_and_no_traceback() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dataplaned", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 74
    assert done.stderr.startswith(b"dataplaned: ")
    assert done.stderr.count(b"\n") == 1


def test_a_bad_configuration_is_exit_code_78(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[daemon]\nsokket = 1\nmax_connections = 'many'\n")
    done = program("serve", "--config", str(tmp_path / "bad.toml"))
    assert done.returncode == 78
    lines = done.stderr.decode().splitlines()
    assert all(line.startswith(f"dataplaned: {tmp_path / 'bad.toml'}: ") for line in lines)
    assert {word for word in ("sokket", "max_connections") for line in lines if word in line} == {
        "sokket",
        "max_connections",
    }


def test_a_selftest_of_a_missing_file_is_local(tmp_path: Path) -> None:
    done = program("selftest", str(tmp_path / "none"))
    assert done.returncode == 74
    assert done.stderr.count(b"\n") == 1
