"""`dataplaned fsck`, on stores that a real daemon has made."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dataplaned.cli.program import run

LATE = b"came later, and is large enough for a file" * 2_000


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def fsck(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Done]:
    """Runs the command."""

    def call(*arguments: object) -> Done:
        code = run(["fsck", *map(str, arguments)])
        captured = capfdbinary.readouterr()
        return Done(code, captured.out.decode(), captured.err.decode())

    return call


@pytest.mark.slow
def test_a_store_in_use_is_refused_and_a_stopped_one_is_not(ward: Any, fsck: Any) -> None:
    ward.ingest()
    ward.ingest(b"small")
    root = ward.daemon.root
    for options in ((), ("--repair",)):
        assert fsck("--root", root, *options) == (
            75,
            "",
            f"dataplaned: store {root} is in use by process {ward.daemon.pid}\n",
        )
    ward.daemon.stop()
    line = "2 objects, 293.0 KiB, 0 copies in quarantine\n"
    assert fsck("--root", root) == (0, line, "")
    assert fsck("--root", root, "--verify", "--repair") == (0, line, "")
    (document,) = fsck("--root", root, "--json").documents
    assert document == {
        "kind": "total",
        "objects": 2,
        "size_bytes": 300_005,
        "quarantined": 0,
        "findings": 0,
        "not_repaired": 0,
    }
    ward.daemon.start()
    assert ward.cli("verify", "--all").code == 0


@pytest.mark.slow
def test_damage_is_found_then_repaired_and_then_known(ward: Any, fsck: Any) -> None:
    address = ward.ingest()
    ward.flip()
    ward.daemon.kill()
    root = ward.daemon.root
    assert fsck("--root", root).code == 0
    detail = "content differs, first between bytes 131072 and 196607"
    done = fsck("--root", root, "--verify")
    assert done.code == 65
    assert done.out.splitlines()[0] == f"object      {address}  {detail}"
    assert done.err == "dataplaned: 1 of 1 findings are not repaired\n"
    found, total = fsck("--root", root, "--verify", "--repair", "--json").documents
    assert found == {
        "kind": "object",
        "subject": address,
        "detail": detail,
        "outcome": "quarantined",
    }
    assert (total["quarantined"], total["findings"], total["not_repaired"]) == (1, 1, 0)
    assert fsck("--root", root, "--verify").code == 0
    ward.daemon.start()
    assert ward.cli("get", address).code == 65
    ward.ingest()
    assert ward.cli("get", address).out == ward.content


@pytest.mark.slow
def test_an_older_backup_in_the_place_of_the_catalog_loses_no_object_with_a_file(
    ward: Any, fsck: Any
) -> None:
    old = [ward.ingest(), ward.ingest(b"small and old")]
    backup = ward.cli("backup").out.decode().rstrip("\n")
    new = ward.ingest(LATE)
    daemon = ward.daemon
    daemon.stop()
    shutil.copy(backup, daemon.root / "catalog.sqlite3")
    with pytest.raises(AssertionError, match="did not start"):
        daemon.start()
    assert any("is a backup" in str(line) and "fsck --repair" in str(line) for line in daemon.log)
    assert fsck("--root", daemon.root).code == 65
    assert fsck("--root", daemon.root, "--repair").code == 0
    daemon.start()
    assert daemon.wait_for("swept")
    assert ward.cli("verify", *old, new).code == 0
    assert ward.cli("get", new).out == LATE


@pytest.mark.slow
@pytest.mark.parametrize("has_backup", [False, True])
def test_a_daemon_starts_again_after_its_catalog_was_lost(
    ward: Any, fsck: Any, has_backup: bool
) -> None:
    large, small = ward.ingest(), ward.ingest(b"small")
    if has_backup:
        ward.cli("backup")
    daemon = ward.daemon
    daemon.kill()
    for file in daemon.root.glob("catalog.sqlite3*"):
        file.unlink()
    with pytest.raises(AssertionError, match="did not start"):
        daemon.start()
    done = fsck("--root", daemon.root, "--repair")
    assert (done.code, done.err) == (0, "")
    daemon.start()
    assert daemon.wait_for("swept")
    assert ward.cli("verify", large).code == 0
    assert ward.cli("verify", small).code == (0 if has_backup else 66)


def test_the_store_is_found_in_the_configuration(tmp_path: Path, fsck: Any) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[backend.one]\ntype = "filesystem"\nroot = "{tmp_path}/one"\n'
        f'[backend.two]\ntype = "filesystem"\nroot = "{tmp_path}/two"\n'
        '[backend.three]\ntype = "memory"\n'
    )
    for arguments, code, message in (
        ((), 74, f"{tmp_path}/one: No such file or directory"),
        (("--backend", "two"), 74, f"{tmp_path}/two: No such file or directory"),
        (("--backend", "three"), 78, "backend three has no directory"),
        (("--backend", "four"), 69, "no backend four is configured"),
    ):
        assert fsck("--config", config, *arguments) == (code, "", f"dataplaned: {message}\n")


def test_what_is_no_store_or_cannot_be_read_has_its_own_exit_code(
    tmp_path: Path, fsck: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ((), ("--repair",)):
        done = fsck("--root", tmp_path, *options)
        assert done == (78, "", f"dataplaned: {tmp_path} is not a store\n")
    assert os.listdir(tmp_path) == []
    assert fsck("--root", tmp_path, "--backend", "one").code == 2
    (tmp_path / "bad.toml").write_text("nonsense")
    assert fsck("--config", tmp_path / "bad.toml").code == 78
    (tmp_path / "file").touch()
    assert fsck("--root", tmp_path / "file").code == 74
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert fsck("--root", tmp_path, "--repair").code == 77
