import os
import socket

import pytest

from dataplaned.cli import checks
from dataplaned.cli.checks import Verdict
from dataplaned.config import Config, FilesystemConfig, MirrorConfig


def findings(made):
    return {each.subject.split()[0]: each for each in made}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "store").mkdir(mode=0o700)
    return tmp_path / "store"


def store_findings(root, **more):
    config = Config(backend={"b": FilesystemConfig(root=str(root), **more)})
    return findings(checks.check_stores(config))


def test_an_installation_that_is_well(cli, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(f'[backend.b]\ntype = "filesystem"\nroot = "{tmp_path}/none"\n')
    done = cli("doctor", "--config", config, "--json")
    assert done.code == 0
    verdicts = {each["subject"]: each for each in done.documents}
    assert verdicts["backend local"]["verdict"] == "ok"
    assert verdicts["daemon"]["verdict"] == "ok"
    assert verdicts[f"store {tmp_path}/none"]["fact"].startswith("is not there yet")
    assert all(each["advice"] for each in done.documents if each["verdict"] != "ok")
    assert cli("ls").out == cli("ls").out  # nothing was left by the probe


def test_a_daemon_that_is_away_does_not_end_the_examination(cli, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(f'[backend.b]\ntype = "filesystem"\nroot = "{tmp_path}"\n')
    cli.socket_path = str(tmp_path / "nothing")
    done = cli("doctor", "--config", config)
    assert done.code == 1
    assert b"fail  socket" in done.out
    assert b"fsync beside" in done.out


def test_a_configuration_that_is_wrong_is_told(cli, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[daemon]\nmax_conections = 1\n")
    done = cli("doctor", "--config", config)
    assert done.code == 1
    assert b"did you mean 'max_connections'" in done.out


def test_a_store_that_is_well(root):
    found = store_findings(root)
    assert found["store"].verdict is Verdict.OK
    assert found["fsync"].verdict in (Verdict.OK, Verdict.WARNING)
    assert os.listdir(root.parent) == ["store"]


def test_both_sides_of_a_mirror_are_looked_at(root, tmp_path):
    config = Config(
        backend={
            "m": MirrorConfig(
                first=FilesystemConfig(root=str(root)),
                second=FilesystemConfig(root=str(tmp_path / "other")),
            )
        }
    )
    subjects = [each.subject for each in checks.check_stores(config)]
    assert f"store {root}" in subjects
    assert f"store {tmp_path}/other" in subjects


def test_a_store_that_others_may_write_fails(root):
    root.chmod(0o777)
    found = store_findings(root)["store"]
    assert (found.verdict, found.fact) == (Verdict.FAILED, "mode 0777")
    assert found.advice == f"chmod o-w {root}"


def test_too_little_space_fails(root):
    assert store_findings(root, min_free_bytes=2**52)["space"].verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [("ext4", Verdict.OK), ("tmpfs", Verdict.FAILED), ("nfs4", Verdict.WARNING)],
)
def test_the_kind_of_filesystem_matters(root, monkeypatch, kind, verdict):
    monkeypatch.setattr(checks, "_filesystem_of", lambda _: kind)
    assert store_findings(root)["filesystem"].verdict is verdict


def test_the_kind_is_that_of_the_mount(tmp_path):
    assert checks._filesystem_of("/proc") == "proc"
    assert checks._filesystem_of("/proc/self/") == "proc"
    assert checks._filesystem_of(str(tmp_path)) != "unknown"


def test_a_disk_that_cannot_sync_fails(root, monkeypatch):
    def refuse(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    assert store_findings(root)["fsync"].fact == "fails: Input/output error"
    assert os.listdir(root.parent) == ["store"]


def test_a_disk_that_syncs_faster_than_any_is_suspected(root, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    assert store_findings(root)["fsync"].verdict is Verdict.WARNING


def test_sockets_that_are_not_as_they_should(tmp_path):
    path = str(tmp_path / "s")
    (missing,) = checks.check_socket(path)
    assert (missing.verdict, missing.fact) == (Verdict.FAILED, "No such file or directory")
    (tmp_path / "file").touch()
    (file,) = checks.check_socket(str(tmp_path / "file"))
    assert (file.verdict, file.fact) == (Verdict.FAILED, "is not a socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o666)
        (open_to_all,) = checks.check_socket(path)
        assert open_to_all.verdict is Verdict.WARNING
        os.chmod(path, 0o660)
        (well,) = checks.check_socket(path)
        assert well.verdict is Verdict.OK
