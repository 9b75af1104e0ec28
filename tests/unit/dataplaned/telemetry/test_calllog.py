import pytest
import structlog.testing

from dataplaned.telemetry import CallLog, set_level

from .conftest import TRACE


@pytest.mark.parametrize(
    ("code", "level"),
    [("denied", "info"), ("gone", "info"), ("internal", "warning"),
     ("corrupt", "warning"), ("unavailable", "warning"), ("no_space", "warning")],
)  # fmt: skip
def test_a_call_that_failed_has_a_line(make_call, code, level):
    with structlog.testing.capture_logs() as logs:
        CallLog()(make_call(code=code, reason="because", duration_s=0.0123456))
    (line,) = logs
    assert (line["event"], line["log_level"], line["code"]) == ("call", level, code)
    assert (line["uid"], line["pid"], line["socket"], line["connection"]) == (1001, 7, "clients", 3)
    assert line["duration_ms"] == 12.346
    assert ("reason" in line) == (code != "gone")


def test_a_call_that_went_well_has_one_at_debug_only(make_call):
    call = make_call(trace=TRACE, address="blake3:ab", received_bytes=5, outcome="created")
    with structlog.testing.capture_logs() as logs:
        set_level("info")
        CallLog()(call)
        CallLog()(make_call("serve_object", code="not_found"))
        assert logs == []
        set_level("debug")
        CallLog()(call)
        set_level("info")
    (line,) = logs
    assert line["trace_id"] == TRACE.split("-")[1]
    assert (line["object"], line["received_bytes"], line["outcome"]) == ("blake3:ab", 5, "created")
    assert "sent_bytes" not in line


def test_a_trace_that_is_none_is_left_out(make_call):
    with structlog.testing.capture_logs() as logs:
        CallLog()(make_call(trace="\x1b[2J", code="denied"))
    assert "trace_id" not in logs[0]
