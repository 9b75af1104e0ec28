import os
import socket
import struct

import pytest
import structlog

from dataplaned.config import LogConfig
from dataplaned.telemetry import journal, lines, set_up_logging


def fields_of(entry):
    """Read an entry as the journal does."""
    fields = {}
    while entry:
        head, _, entry = entry.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", entry)
            value, entry = entry[8 : 8 + length], entry[9 + length :]
        fields[name.decode()] = value.decode()
    return fields


class Listening:
    """What plays the journal."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.setblocking(False)

    def receive(self):
        data, fds, _, _ = socket.recv_fds(self.socket, 1_000_000, 1)
        if fds:
            with os.fdopen(fds[0], "rb") as file:
                file.seek(0)
                data = file.read()
        return fields_of(data)


@pytest.fixture
def path(short_path):
    return str(short_path / "journal")


@pytest.fixture
def listening(path, monkeypatch):
    monkeypatch.setattr(journal.Journal.__init__, "__defaults__", (path,))
    heard = Listening(path)
    set_up_logging(LogConfig(format="journal"))
    yield heard
    heard.socket.close()


def test_every_field_can_be_searched_for(listening):
    structlog.get_logger().warning("side_away", backend="b", seconds=2.5, keys=["a"], nothing=None)
    assert listening.receive() == {
        "MESSAGE": "side_away backend=b seconds=2.5 keys=['a'] nothing=None",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "dataplaned",
        "DATAPLANED_EVENT": "side_away",
        "DATAPLANED_BACKEND": "b",
        "DATAPLANED_SECONDS": "2.5",
        "DATAPLANED_KEYS": '["a"]',
    }


def test_no_text_can_forge_a_field(listening):
    hostile = "x\nPRIORITY=0\n\x1b[2J\x00\ud800"
    structlog.get_logger().info("refused", op=hostile)
    fields = listening.receive()
    assert fields["PRIORITY"] == "6"
    assert fields["DATAPLANED_OP"] == "x\nPRIORITY=0\n\x1b[2J\x00\\ud800"
    assert fields["MESSAGE"] == f"refused op={hostile!a}"


def test_a_traceback_has_its_lines(listening):
    try:
        int("nothing")
    except ValueError as exc:
        structlog.get_logger().error("call_failed", exc_info=exc)
    message = listening.receive()["MESSAGE"]
    assert message.startswith("call_failed\nTraceback")
    assert message.endswith("'nothing'")


def test_what_is_too_large_for_a_datagram_arrives(listening):
    entry = journal.entry_of("info", "m", {"large": "x" * 400_000})
    assert lines.current_sink()._journal.send(entry)
    assert len(listening.receive()["DATAPLANED_LARGE"]) == 400_000


def test_a_full_journal_costs_the_line_and_nothing_else(listening):
    log = structlog.get_logger()
    for _ in range(1000):
        log.info("again")
    assert lines.current_sink().lost > 0


def test_without_a_journal_lines_go_to_standard_error(path, monkeypatch, capsys):
    monkeypatch.setattr(journal.Journal.__init__, "__defaults__", (path,))
    set_up_logging(LogConfig(format="journal"))
    structlog.get_logger().info("listening", backend="b")
    assert capsys.readouterr().err == "MESSAGE=listening backend=b\n"
    assert lines.current_sink().lost == 0


def test_standard_error_is_the_journal_where_systemd_says_so(monkeypatch, tmp_path):
    with open(tmp_path / "err", "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert journal.is_standard_error()
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
        assert not journal.is_standard_error()
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not journal.is_standard_error()
    assert not journal.is_standard_error()  # closed
