import pytest

from dataplaned.telemetry import Traceparent, parse_traceparent

from .conftest import TRACE

TRACE_ID, PARENT_ID = TRACE.split("-")[1:3]


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [
        (TRACE, True),
        (f"00-{TRACE_ID}-{PARENT_ID}-00", False),
        (f"00-{TRACE_ID}-{PARENT_ID}-03", True),
        (f"cc-{TRACE_ID}-{PARENT_ID}-01-what-will-be", True),
        (f"cc-{TRACE_ID}-{PARENT_ID}-01", True),
    ],
)
def test_a_traceparent_is_read(text, is_sampled):
    assert parse_traceparent(text) == Traceparent(
        trace_id=TRACE_ID, parent_id=PARENT_ID, is_sampled=is_sampled
    )


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        TRACE.upper(),
        f" {TRACE}",
        f"{TRACE}\n",
        f"{TRACE}-more",
        f"{TRACE}x",
        f"cc-{TRACE_ID}-{PARENT_ID}-01x",
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-{PARENT_ID}",
        f"cc-{TRACE_ID}-{PARENT_ID}-01-{'x' * 600}",
    ],
)
def test_anything_else_is_none(text):
    assert parse_traceparent(text) is None
