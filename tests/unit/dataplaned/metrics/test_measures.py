import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dataplaned.access import ALL_ROLES, Caller
from dataplaned.calls import Call
from dataplaned.metrics import CallMeasures, Histogram, StoreMeasures, store_measures
from dataplaned.metrics.figures import BackendFigures, Figures, LimiterFigures
from dataplaned.metrics.page import render

CALLER = Caller(pid=1, uid=0, socket="main", roles=ALL_ROLES)


def call(op="ingest_stream", **more):
    return Call(op=op, caller=CALLER, connection=1, started=0.0, **more)


def test_a_value_is_counted_up_to_its_bound():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.add(value)
    assert (histogram.counts, histogram.total) == ([2, 2, 1], 14.0)


def test_calls_are_counted_by_operation_code_backend_and_outcome():
    measures = CallMeasures(["local", "other"])
    measures(call(outcome="created", received_bytes=10, duration_s=0.5))
    measures(call(outcome="created", received_bytes=10, backend_id="other"))
    measures(call(code="no_space", received_bytes=3))
    measures(call("serve_object", sent_bytes=7, backend_id="local"))
    measures(call("verify_object", outcome="corrupt", backend_id="made up"))
    assert dict(measures.calls) == {
        ("ingest_stream", "ok"): 2,
        ("ingest_stream", "no_space"): 1,
        ("serve_object", "ok"): 1,
        ("verify_object", "ok"): 1,
    }
    assert dict(measures.outcomes) == {
        ("ingest_stream", "local", "created"): 1,
        ("ingest_stream", "other", "created"): 1,
    }
    assert measures.received_bytes == {"local": 13, "other": 10}
    assert measures.sent_bytes == {"local": 7, "other": 0}
    assert measures.seconds["ingest_stream"].total == 0.5


def test_several_threads_lose_no_count():
    measures = StoreMeasures()

    def work():
        for _ in range(2000):
            measures.add_sync("data", 0.001)
            measures.add_rotten()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(measures.sync_seconds["data"].counts) == measures.rotten == 8000


def test_a_store_is_measured_in_one_place():
    assert store_measures("one") is store_measures("one")
    assert store_measures("one") is not store_measures("two")


def figures(**more):
    calls = CallMeasures(["local"])
    calls(call(outcome="created", received_bytes=10, duration_s=0.002))
    store = StoreMeasures()
    store.add_sync("data", 0.003)
    store.add_commit(0.004, 5)
    values = {
        "version": "1.2",
        "started_at": 1000.5,
        "is_draining": False,
        "connections": {"main": 3},
        "in_flight": {"ingest_stream": 2},
        "held_bytes": 4096,
        "calls": calls,
        "backends": {
            "local": BackendFigures(
                is_up=True, is_writable=False, free_bytes=5, store=store,
                more={"stored_bytes": 99.0}, scrub={"due_objects": 4.0},
            ),
            "bucket": BackendFigures(is_up=False, is_writable=False),
        },
        "limiters": {"disk": [LimiterFigures(total=32, borrowed=2, waiting=1)] * 2},
        "loop_lag": Histogram((0.1,)),
        "audit_lost": 6,
        "log_lost": 7,
    }  # fmt: skip
    return Figures(**values | more)


@pytest.fixture
def page():
    """Give what a reader of the page gets: values by name and labels."""
    text, content_type = render(figures())
    assert content_type.startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("dataplaned_build_info", {"version": "1.2"}, 1),
        ("dataplaned_start_time_seconds", {}, 1000.5),
        ("dataplaned_connections", {"socket": "main"}, 3),
        ("dataplaned_calls_in_flight", {"op": "ingest_stream"}, 2),
        ("dataplaned_held_bytes", {}, 4096),
        ("dataplaned_calls_total", {"op": "ingest_stream", "code": "ok"}, 1),
        ("dataplaned_outcomes_total",
         {"op": "ingest_stream", "backend": "local", "outcome": "created"}, 1),
        ("dataplaned_received_bytes_total", {"backend": "local"}, 10),
        ("dataplaned_call_seconds_bucket", {"op": "ingest_stream", "le": "0.001"}, 0),
        ("dataplaned_call_seconds_bucket", {"op": "ingest_stream", "le": "0.0025"}, 1),
        ("dataplaned_call_seconds_bucket", {"op": "ingest_stream", "le": "+Inf"}, 1),
        ("dataplaned_call_seconds_sum", {"op": "ingest_stream"}, 0.002),
        ("dataplaned_backend_up", {"backend": "bucket"}, 0),
        ("dataplaned_backend_up", {"backend": "local"}, 1),
        ("dataplaned_backend_writable", {"backend": "local"}, 0),
        ("dataplaned_backend_free_bytes", {"backend": "local"}, 5),
        ("dataplaned_backend_stored_bytes", {"backend": "local"}, 99),
        ("dataplaned_scrub_due_objects", {"backend": "local"}, 4),
        ("dataplaned_sync_seconds_sum", {"backend": "local", "kind": "data"}, 0.003),
        ("dataplaned_commit_changes_sum", {"backend": "local"}, 5),
        ("dataplaned_rotten_total", {"backend": "local"}, 0),
        ("dataplaned_threads_limit", {"purpose": "disk"}, 64),
        ("dataplaned_threads_borrowed", {"purpose": "disk"}, 4),
        ("dataplaned_audit_lost_total", {}, 6),
        ("dataplaned_log_lost_total", {}, 7),
    ],
)  # fmt: skip
def test_the_page_has_it(page, name, labels, value):
    assert page[name, *sorted(labels.items())] == value


def test_what_a_backend_cannot_tell_is_left_out(page):
    assert ("dataplaned_backend_free_bytes", ("backend", "bucket")) not in page
    assert not [key for key in page if key[0].endswith("_created")]
