import builtins
import http.server
import threading

import pytest
import structlog.testing
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from dataplane_client import blocking
from dataplane_protocol import ContentAddress, UnknownBackendError
from dataplaned.telemetry import Tracing, tracing_from

from .conftest import TRACE

TRACE_ID, PARENT_ID = TRACE.split("-")[1:3]


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider)
    yield tracing
    tracing.close()


def test_a_call_is_the_child_of_its_callers_span(tracing, exporter, make_call):
    call = make_call("ingest_stream", trace=TRACE)
    with tracing.span(call):
        call.outcome, call.received_bytes, call.address = "created", 5, "blake3:ab"
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("ingest_stream", SpanKind.SERVER)
    assert f"{span.context.trace_id:032x}" == TRACE_ID
    assert f"{span.parent.span_id:016x}" == PARENT_ID
    assert span.attributes["dataplaned.outcome"] == "created"
    assert span.attributes["dataplaned.object"] == "blake3:ab"
    assert span.attributes["dataplaned.uid"] == 1001
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("code", "status"),
    [("corrupt", StatusCode.ERROR), ("gone", StatusCode.UNSET), ("ok", StatusCode.UNSET)],
)
def test_an_error_is_one(tracing, exporter, make_call, code, status):
    call = make_call(trace=TRACE)
    with tracing.span(call):
        call.code = code
    assert exporter.get_finished_spans()[0].status.status_code is status


@pytest.mark.parametrize("trace", [None, "\x1b[2J", TRACE.upper(), TRACE[:-1] + "x"])
def test_what_carries_no_trace_has_no_span(tracing, exporter, make_call, trace):
    with tracing.span(make_call(trace=trace)):
        pass
    assert exporter.get_finished_spans() == ()


def test_what_the_caller_does_not_record_is_not_recorded(tracing, exporter, make_call):
    with tracing.span(make_call(trace=TRACE[:-2] + "00")):
        pass
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_made_where_nobody_asks(environment, make_call):
    tracing = tracing_from(environment)
    with tracing.span(make_call(trace=TRACE)):
        pass
    tracing.close()
    assert tracing._provider is None


def test_what_is_not_installed_is_said(monkeypatch):
    load = builtins.__import__

    def refuse(name, *more):
        if name.startswith("opentelemetry.exporter"):
            raise ImportError("no module")
        return load(name, *more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with structlog.testing.capture_logs() as logs:
        tracing_from({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert [line["event"] for line in logs] == ["no_traces"]


class Collector(http.server.BaseHTTPRequestHandler):
    """What plays an OpenTelemetry collector."""

    def do_POST(self):
        request = ExportTraceServiceRequest()
        request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_spans_of_a_daemon_reach_a_collector(daemon, monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.spans = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        daemon.stop()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        daemon.start()
        with blocking.connect(daemon.socket_path, trace=lambda: TRACE) as client:
            client.ingest_stream([b"traced"])
            with pytest.raises(UnknownBackendError):
                client.serve_object(ContentAddress("blake3:" + "0" * 64), backend_id="none")
        with blocking.connect(daemon.socket_path) as client:
            client.ingest_stream([b"not traced"])
        assert daemon.stop() == 0
        server.shutdown()
        thread.join()
    assert [
        (span.name, span.trace_id.hex(), span.parent_span_id.hex()) for span in server.spans
    ] == [
        ("ingest_stream", TRACE_ID, PARENT_ID),
        ("serve_object", TRACE_ID, PARENT_ID),
    ]
    failed = [line for line in daemon.events("call") if line["code"] == "unknown_backend"]
    assert [line["trace_id"] for line in failed] == [TRACE_ID]
    traced = [line.get("trace_id") for line in daemon.events("audit")]
    assert traced == [TRACE_ID, None]


@pytest.mark.slow
def test_a_collector_that_is_away_costs_nothing(daemon, monkeypatch):
    daemon.stop()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    daemon.start()
    with blocking.connect(daemon.socket_path, trace=lambda: TRACE) as client:
        client.ingest_stream([b"traced"])
    assert daemon.stop() == 0
