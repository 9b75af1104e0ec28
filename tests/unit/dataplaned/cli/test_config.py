"""`dataplaned config`: without a daemon."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dataplaned.cli.program import run
from dataplaned.config import (
    AccessConfig,
    CredentialSource,
    DaemonConfig,
    FilesystemConfig,
    LogConfig,
    MetricsConfig,
    MirrorConfig,
    ObjectStoreConfig,
    SocketConfig,
    example,
    load_config,
    to_toml,
)


@pytest.fixture
def config(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: Any) -> Any:
    monkeypatch.delenv("DATAPLANED_CONFIG", raising=False)
    monkeypatch.delenv("DATAPLANED_SOCKET", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run(["config", *map(str, arguments)])
        captured = capfdbinary.readouterr()
        return code, captured.out.decode(), captured.err.decode()

    return call


def load(path: Path, text: str) -> Any:
    path.write_text(text)
    return load_config(str(path), socket=None, root=None)


def in_full() -> str:
    """The example with nothing commented out."""
    return re.sub(r"^#(\[|\w+ = )", r"\1", example(), flags=re.MULTILINE)


def test_the_example_is_a_configuration(config: Any, tmp_path: Path) -> None:
    code, out, err = config("example")
    assert (code, err) == (0, "")
    loaded = load(tmp_path / "example", out)
    assert loaded.daemon == DaemonConfig(socket="/run/dataplaned/dataplaned.sock")
    assert loaded.backend == {"local": FilesystemConfig(root="/var/lib/dataplaned/store")}


def test_the_example_has_every_key_and_its_default(tmp_path: Path) -> None:
    loaded = load(tmp_path / "example", in_full())
    tables = tomllib.loads(in_full())
    for given, kind in (
        (tables["daemon"], DaemonConfig),
        (tables["socket"]["clients"], SocketConfig),
        (tables["access"], AccessConfig),
        (tables["log"], LogConfig),
        (tables["metrics"], MetricsConfig),
        (tables["backend"]["local"], FilesystemConfig),
        (tables["backend"]["bucket"], ObjectStoreConfig),
        (tables["backend"]["safe"], MirrorConfig),
    ):
        fields = dataclasses.fields(kind)
        assert set(given) == {field.name for field in fields}
        for field in fields:
            if field.default not in (dataclasses.MISSING, None, ""):
                default = field.default
                expected = list(default) if isinstance(default, tuple) else default
                assert given[field.name] == expected, field.name
    assert set(loaded.backend) == {"local", "scratch", "bucket", "safe"}
    sources = loaded.backend["bucket"].credentials.values()
    assert {source.file is None for source in sources} == {True, False}


def test_what_is_shown_is_a_configuration_that_says_the_same(tmp_path: Path) -> None:
    loaded = load(tmp_path / "one", in_full())
    assert load(tmp_path / "two", to_toml(loaded)) == loaded
    assert CredentialSource(credential="s3-secret") in loaded.backend["bucket"].credentials.values()


def test_defaults_are_shown(config: Any, tmp_path: Path) -> None:
    code, out, err = config("show", "--effective", "--root", tmp_path, "--socket", "/run/s")
    assert (code, err) == (0, "")
    shown = tomllib.loads(out)
    assert shown["daemon"]["socket"] == "/run/s"
    assert shown["backend"]["local"]["root"] == str(tmp_path)
    assert shown["backend"]["local"]["scrub_rate"] == 16_777_216


def test_a_file_that_is_right_is_said_so(config: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(example())
    assert config("check", tmp_path / "a") == (0, f"{tmp_path / 'a'}: ok\n", "")


def test_everything_that_is_wrong_is_told(config: Any, tmp_path: Path) -> None:
    (tmp_path / "good").write_text(example())
    (tmp_path / "a").write_text("[daemon]\nmax_conections = 1\ndrain_timeout_s = 'long'\n")
    (tmp_path / "b").write_text("[daemon\n")
    code, out, err = config("check", tmp_path / "a", tmp_path / "good", tmp_path / "b", "/none")
    assert (code, out) == (78, f"{tmp_path / 'good'}: ok\n")
    lines = err.splitlines()
    assert len(lines) == 4
    assert (
        f"dataplaned: {tmp_path / 'a'}: daemon: unknown key 'max_conections', did you mean " in err
    )
    assert "'max_connections'?" in err
    assert f"{tmp_path / 'a'}: daemon.drain_timeout_s: is 'long', must be float" in err
    assert lines[-1] == "dataplaned: /none: No such file or directory"


def test_what_cannot_be_loaded_is_not_shown(config: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[daemon]\nnothing_like_it = 1\n")
    code, out, err = config("show", "--config", tmp_path / "a")
    assert (code, out) == (78, "")
    assert err == f"dataplaned: {tmp_path / 'a'}: daemon: unknown key 'nothing_like_it'\n"


def test_what_was_set_is_shown_with_where_it_came_from(
    config: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    main = tmp_path / "main.toml"
    main.write_text("[daemon]\nmax_calls = 5\nmax_connections = 7\n")
    (tmp_path / "main.toml.d").mkdir()
    (tmp_path / "main.toml.d" / "60-more.toml").write_text("[daemon]\nmax_calls = 6\n")
    monkeypatch.setenv("DATAPLANED_LOG__LEVEL", "debug")
    options = ("--config", main, "--socket", "/run/s", "--root", "/srv")
    code, out, _ = config("show", *options)
    assert code == 0
    assert out.splitlines() == [
        "[daemon]",
        'socket = "/run/s"  # --socket',
        f"max_connections = 7  # {main}",
        f"max_calls = 6  # {main}.d/60-more.toml",
        "",
        "[log]",
        'level = "debug"  # $DATAPLANED_LOG__LEVEL',
        "",
        "[backend.local]",
        'type = "filesystem"  # --root',
        'root = "/srv"  # --root',
    ]
    _, whole, _ = config("show", *options, "--effective")
    assert "max_bytes_in_flight = 1073741824  # default" in whole.splitlines()
    assert tomllib.loads(whole)["daemon"]["max_calls"] == 6


def test_the_file_of_the_environment_is_checked(
    config: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    code, _, err = config("check")
    assert (code, "no FILE is given" in err) == (2, True)
    (tmp_path / "a").write_text(example())
    monkeypatch.setenv("DATAPLANED_CONFIG", str(tmp_path / "a"))
    assert config("check") == (0, f"{tmp_path / 'a'}: ok\n", "")
    assert config("check", "--quiet") == (0, "", "")
