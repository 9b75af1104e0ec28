import io
import json
import sys

import pytest
import structlog

from dataplaned.config import LogConfig
from dataplaned.telemetry import set_up_logging

HOSTILE = '\x1b[2J\u202e\n{"event":"forged"}\x00'


class Terminal(io.StringIO):
    def isatty(self):
        return True


def log_to(stream, monkeypatch, **options):
    monkeypatch.setattr(sys, "stderr", stream)
    set_up_logging(LogConfig(**options))
    return structlog.get_logger()


def without_our_colours(text):
    for code in range(100):
        text = text.replace(f"\x1b[{code}m", "")
    return text


def test_a_line_is_json_where_nobody_looks_on(monkeypatch):
    stream = io.StringIO()
    log_to(stream, monkeypatch).info("listening", socket="/run/s", backends=["a"])
    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "listening", "level": "info", "socket": "/run/s", "backends": ["a"]}


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_no_text_can_forge_a_line_or_speak_to_the_terminal(monkeypatch, stream):
    log_to(stream, monkeypatch).warning("refused", op=HOSTILE, bare="\x1b[2J")
    (line,) = without_our_colours(stream.getvalue()).splitlines()
    assert not set("\x1b\u202e\x00\r") & set(line)


def test_a_traceback_shows_no_values(monkeypatch):
    for stream in (io.StringIO(), Terminal()):
        log = log_to(stream, monkeypatch)
        secret = "hunter" + "2"
        error = None
        try:
            secret.index("missing")
        except ValueError as exc:
            error = exc
        log.error("call_failed", exc_info=error)
        assert "ValueError: substring not found" in without_our_colours(stream.getvalue())
        assert "hunter2" not in stream.getvalue()
        structlog.reset_defaults()


def test_what_is_below_the_level_is_not_written(monkeypatch):
    stream = io.StringIO()
    log = log_to(stream, monkeypatch, level="warning")
    log.info("quiet")
    log.warning("loud")
    assert json.loads(stream.getvalue())["event"] == "loud"


def test_details_are_for_debugging_only(monkeypatch):
    stream = io.StringIO()
    log_to(stream, monkeypatch).debug("peer_gone")
    assert stream.getvalue() == ""
