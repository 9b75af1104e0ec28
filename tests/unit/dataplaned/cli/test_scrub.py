"""`dataplaned scrub`, against a real daemon."""

from typing import Any

from dataplaned.cli.records import scrub_lines
from dataplaned.operations import scrub_status_from_wire


def test_a_scrub_that_is_started_finds_what_is_damaged(ward: Any) -> None:
    cli = ward.cli
    address = ward.ingest()
    ward.flip()
    [started] = cli("scrub", "start", "--json").documents
    assert (started["backend_id"], started["quarantined"]) == ("local", 0)
    assert ward.daemon.wait_for("scrubbed")
    [status] = cli("scrub", "status", "--json").documents
    assert status == {
        "backend_id": "local",
        "state": status["state"],
        "due_objects": 0,
        "due_bytes": 0,
        "rate": 16 * 1024 * 1024,
        "oldest_verification": None,
        "verified_objects": 1,
        "verified_bytes": len(ward.content),
        "rotten_objects": 1,
        "quarantined": 1,
    }
    assert cli("get", address).code == 65
    lines = cli("scrub", "status").out.decode().splitlines()
    assert lines[0] == "local"
    assert lines[-1] == "  quarantined  1 copy"


def test_a_pause_is_kept_over_a_restart_until_the_scrub_is_started(ward: Any) -> None:
    cli = ward.cli
    [paused] = cli("scrub", "pause", "--json").documents
    assert paused["state"] == "paused"
    assert ward.daemon.stop() == 0
    ward.daemon.start()
    [status] = cli("scrub", "status", "--json").documents
    assert status["state"] == "paused"
    [started] = cli("scrub", "start", "--json").documents
    assert started["state"] != "paused"


def test_a_scrub_that_is_off_is_not_started(start_daemon: Any, cli_of: Any, tmp_path: Any) -> None:
    config = tmp_path / "config.toml"
    root = tmp_path / "store"
    config.write_text(f'[backend.b]\ntype = "filesystem"\nroot = "{root}"\nscrub_rate = 0\n')
    cli = cli_of(start_daemon(("--config", str(config))))
    done = cli("scrub", "start")
    assert done.code == 78
    assert done.err == "dataplaned: the scrub is off: its rate is 0 bytes a second\n"
    assert b"  state        off\n" in done.out


def test_a_status_is_told_in_lines_of_facts() -> None:
    status = scrub_status_from_wire(
        {
            "backend_id": "local",
            "state": "running",
            "due_objects": 1,
            "due_bytes": 2048,
            "rate": 1024 * 1024,
            "oldest_verification_ms": 1_790_000_000_000,
            "verified_objects": 12,
            "verified_bytes": 5,
            "rotten_objects": 0,
            "quarantined": 2,
        }
    )
    assert scrub_lines(status).splitlines() == [
        "local",
        "  state        running",
        "  due          1 object, 2.0 KiB",
        "  rate         1.0 MiB/s",
        "  oldest       2026-09-21T14:13:20.000Z",
        "  verified     12 objects, 5 B",
        "  damaged      0 objects",
        "  quarantined  2 copies",
    ]
