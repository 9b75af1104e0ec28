from datetime import UTC, datetime, timedelta

import pytest

from dataplane_client.blocking import connect
from dataplane_protocol import ContentAddress
from dataplaned.cli.private_daemon import private_daemon
from dataplaned.cli.reports import ask_connections, ask_metrics, ask_status
from dataplaned.cli.status import status_lines
from dataplaned.reports import BackendReport, DaemonReport

ADDRESS = ContentAddress("blake3:" + "0" * 64)
STARTED = datetime(2026, 11, 25, tzinfo=UTC)


def report(seconds, *, started=STARTED, backends=(), **more):
    values = {
        "version": "1.2",
        "pid": 7,
        "is_draining": False,
        "connections": 3,
        "calls_in_flight": 1,
        "held_bytes": 0,
        "calls_total": 0,
        "errors_total": 0,
        "received_bytes_total": 0,
        "sent_bytes_total": 0,
        "audit_lost": 0,
    }
    now = started + timedelta(seconds=seconds)
    return DaemonReport(**values | more, started_at=started, now=now, backends=backends)


def test_rates_are_those_since_the_start_or_the_report_before():
    first = report(100, calls_total=50, sent_bytes_total=1024 * 100)
    second = report(110, calls_total=150, sent_bytes_total=1024 * 100, errors_total=5)
    assert "  calls        1 open, 50, 0.5/s" in status_lines(first)
    assert "  sent         100.0 KiB, 1.0 KiB/s" in status_lines(first)
    lines = status_lines(second, first)
    assert "  calls        1 open, 150, 10.0/s" in lines
    assert "  errors       5, 0.5/s" in lines
    assert "  sent         100.0 KiB, 0 B/s" in lines


def test_a_report_of_another_run_is_none_to_compare_with():
    before = report(1000, calls_total=10_000)
    after = report(10, started=STARTED + timedelta(hours=1), calls_total=20)
    assert "  calls        1 open, 20, 2.0/s" in status_lines(after, before)


def test_what_is_unwell_is_said_and_what_is_not_known_is_left_open():
    backends = (
        BackendReport(backend_id="b", state="degraded", writable=False, message="disk\x1b is full"),
        BackendReport(backend_id="local", state="ok", writable=True, objects=5, scrub="idle"),
    )
    lines = status_lines(report(3661, backends=backends, is_draining=True, audit_lost=2))
    assert lines[0] == "dataplaned 1.2, process 7, up 1:01:01, stopping"
    assert "  audit        2 records lost" in lines
    assert lines[-4].split() == [
        "BACKEND", "STATE", "OBJECTS", "STORED", "FREE", "SCRUB", "DUE", "QUARANTINED",
    ]  # fmt: skip
    assert lines[-3].split() == ["b", "degraded,", "no", "writes", "-", "-", "-", "-", "-", "-"]
    assert lines[-2].split() == ["local", "ok", "5", "-", "-", "idle", "-", "-"]
    assert lines[-1] == "b: disk\\x1b is full"


def test_a_report_comes_over_the_wire_as_it_was():
    backend = BackendReport(
        backend_id="b", state="ok", writable=True, free_bytes=1, total_bytes=2, objects=3,
        stored_bytes=4, scrub="idle", due_objects=5, due_bytes=6, oldest_verification=STARTED,
        rotten_objects=7, quarantined=8,
    )  # fmt: skip
    sent = report(5, backends=(backend,), held_bytes=9)
    assert DaemonReport.from_wire(sent.to_wire()) == sent


def test_status_says_how_the_daemon_is(cli):
    document = cli("status", "--json").documents[0]
    assert document["backends"][0]["backend_id"] == "local"
    assert document["backends"][0]["state"] == "ok"
    assert document["connections"] >= 1
    done = cli("status")
    assert done.code == 0
    assert done.out.startswith(b"dataplaned ")


def test_backends_lists_them(cli):
    (document,) = cli("backends", "--json").documents
    assert (document["backend_id"], document["scrub"]) == ("local", "idle")
    assert cli("backends").out.split()[:2] == [b"BACKEND", b"STATE"]


def test_connections_lists_itself(cli):
    documents = cli("connections", "--json").documents
    assert documents[-1]["op"] == "dataplaned.connections"
    assert b"dataplaned.connections since" in cli("connections").out


def test_metrics_are_those_that_prometheus_reads(cli):
    lines = cli("metrics").out.decode().splitlines()
    assert any(line.startswith("dataplaned_calls_total{") for line in lines)
    assert 'dataplaned_backend_up{backend="local"} 1.0' in lines


def test_a_daemon_that_is_away_is_an_error(tmp_path, cli):
    cli.socket_path = str(tmp_path / "nothing")
    for command in ("status", "backends", "connections", "metrics"):
        assert cli(command).code == 69


@pytest.mark.slow
def test_more_connections_than_a_page_has_are_all_listed():
    with private_daemon() as path, connect(path) as client:
        others = []
        try:
            for _ in range(450):
                others.append(connect(path, pool_size=1))
                others[-1].stat_objects([ADDRESS])
            listed = list(ask_connections(client))
        finally:
            for other in others:
                other.close()
        assert len(listed) == 451
        numbers = [each.number for each in listed]
        assert numbers == sorted(set(numbers))
        assert ask_status(client).calls_total >= 450
        assert ask_metrics(client).endswith("\n")
