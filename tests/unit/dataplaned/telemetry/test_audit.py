import errno
import io
import json
import os

import pytest
import structlog
import structlog.testing
import trio
import trio.testing

from dataplaned.config import LogConfig
from dataplaned.telemetry import Audit, set_up_logging

from .conftest import TRACE

ADDRESS = "blake3:" + "ab" * 32


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "audit.jsonl")


@pytest.fixture
def audit(path):
    audit = Audit(path)
    yield audit
    audit.close()


def records(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def test_a_record_says_who_did_what(audit, path, make_call):
    call = make_call(address=ADDRESS, outcome="created", received_bytes=9, trace=TRACE)
    call.backend_id = "local"
    audit(call)
    audit.flush()
    (record,) = records(path)
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "event": "audit",
        "audit_seq": 1,
        "op": "ingest_stream",
        "code": "ok",
        "uid": 1001,
        "pid": 7,
        "socket": "clients",
        "connection": 3,
        "backend": "local",
        "object": ADDRESS,
        "outcome": "created",
        "received_bytes": 9,
        "duration_ms": 0.0,
        "trace_id": TRACE.split("-")[1],
    }


@pytest.mark.parametrize(
    ("op", "code", "is_recorded"),
    [
        ("ingest_stream", "ok", True),
        ("ingest_stream", "no_space", True),
        ("delete_object", "ok", True),
        ("dataplaned.quarantine_purge", "ok", True),
        ("dataplaned.quarantine_restore", "ok", True),
        ("dataplaned.scrub_pause", "ok", True),
        ("dataplaned.status", "ok", False),
        ("dataplaned.quarantine_list", "ok", False),
        ("serve_object", "ok", False),
        ("serve_object", "denied", True),
        ("connect", "denied", True),
        ("connect", "unavailable", False),
        ("unknown", "unsupported", False),
    ],
)
def test_what_changes_something_and_what_is_denied_is_recorded(
    audit, path, make_call, op, code, is_recorded
):
    audit(make_call(op, code=code))
    audit.flush()
    assert [record["op"] for record in records(path)] == ([op] if is_recorded else [])


@pytest.mark.trio
async def test_all_of_a_turn_are_written_at_once_and_by_themselves(
    audit, path, make_call, monkeypatch
):
    writes = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: (writes.append(fd), write(fd, data))[1])
    for _ in range(100):
        audit(make_call())
    await trio.testing.wait_all_tasks_blocked()
    assert [record["audit_seq"] for record in records(path)] == list(range(1, 101))
    assert writes.count(audit._fd) == 1


def test_what_the_daemon_sets_aside_is_recorded(audit, path, monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    set_up_logging(LogConfig(format="json"))
    structlog.get_logger().error("rotten", backend="b", object=ADDRESS, reason="content differs")
    structlog.get_logger().error("other", backend="b")
    audit.flush()
    (record,) = records(path)
    assert (record["op"], record["by"], record["object"]) == ("rotten", "dataplaned", ADDRESS)


@pytest.mark.parametrize("kind", ["json", "human"])
def test_it_may_go_to_the_log(make_call, monkeypatch, kind):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    set_up_logging(LogConfig(format=kind, level="error"))
    audit = Audit("log")
    audit(make_call(address=ADDRESS))
    audit.close()
    assert stream.getvalue().count("\n") == 1
    assert ADDRESS in stream.getvalue()
    assert "audit" in stream.getvalue()


def test_it_may_be_off(make_call, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    set_up_logging(LogConfig(format="json"))
    audit = Audit("off")
    audit(make_call())
    audit.close()
    assert stream.getvalue() == ""


def test_a_file_that_was_moved_away_is_opened_anew(audit, path, make_call):
    audit(make_call())
    os.rename(path, f"{path}.1")
    audit.reopen()
    audit(make_call())
    audit.flush()
    assert [record["audit_seq"] for record in records(f"{path}.1")] == [1]
    assert [record["audit_seq"] for record in records(path)] == [2]


def test_a_file_that_cannot_be_opened_again_is_kept(audit, path, make_call):
    os.rename(path, f"{path}.1")
    os.mkdir(path)
    with pytest.raises(IsADirectoryError):
        audit.reopen()
    audit(make_call())
    audit.flush()
    assert len(records(f"{path}.1")) == 1


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link") as raised:
        Audit(str(tmp_path / "link"))
    assert raised.value.errno == errno.ELOOP


def test_records_that_are_lost_are_counted_and_said_once(audit, path, make_call, monkeypatch):
    def refuse(_fd, _data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(os, "write", refuse)
        for _ in range(3):
            audit(make_call())
            audit.flush()
    assert audit.lost == 3
    assert [(line["event"], line["reason"]) for line in logs] == [
        ("audit_failed", "No space left on device")
    ]
    audit(make_call())
    audit.flush()
    assert [record["audit_seq"] for record in records(path)] == [4]


def test_a_record_that_was_cut_short_spoils_no_other(audit, path, make_call, monkeypatch):
    write = os.write
    with monkeypatch.context() as patch, structlog.testing.capture_logs():
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:-20]))
        audit(make_call())
        audit(make_call())
        audit.flush()
    assert audit.lost == 1
    audit(make_call())
    audit.flush()
    with open(path) as file:
        whole, torn, last = file.read().splitlines()
    assert json.loads(whole)["audit_seq"] == 1
    assert json.loads(last)["audit_seq"] == 3
    with pytest.raises(ValueError, match=r".*"):
        json.loads(torn)
