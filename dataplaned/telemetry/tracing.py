"""Spans of calls, for OpenTelemetry, where that is installed and its environment asks for it.

Only a call that carries a `traceparent` gets one: it is the child of its caller's span. The
variables are OpenTelemetry's own: `OTEL_EXPORTER_OTLP_ENDPOINT` says where spans go.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import structlog

from ..calls import GONE, OK, Call
from .traceparent import parse_traceparent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

#: Seconds that spans have to leave in when the daemon stops.
_FLUSH_S: Final = 2.0

#: Variables that ask for spans.
_WISHES: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
)

_log = structlog.get_logger(__name__)


class Tracing:
    """Makes spans.

    Args:
        provider: Of OpenTelemetry's SDK; nothing is made when `None`.
    """

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("dataplaned")

    def close(self) -> None:
        """Have spans sent that were not, for some seconds at most."""
        if self._provider is not None:
            self._provider.force_flush(int(_FLUSH_S * 1000))
            self._provider.shutdown()

    def span(self, call: Call) -> AbstractContextManager[object]:
        """Give a span to carry a call out in; what is known of the call at its end is noted.

        One that nobody traces costs a comparison.
        """
        if self._tracer is None or call.trace is None:
            return nullcontext()
        return _CallSpan(self._tracer, call)


def tracing_from(environment: Mapping[str, str] = os.environ) -> Tracing:
    """Make spans if the environment asks for them and the SDK is installed."""
    is_off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    is_wished = any(environment.get(name) for name in _WISHES)
    if is_off or not is_wished or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        _log.warning("no_traces", reason=str(exc), install="pip install 'dataplaned[otel]'")
        return Tracing()
    provider = TracerProvider(
        resource=Resource.create(
            {"service.name": environment.get("OTEL_SERVICE_NAME", "dataplaned")}
        ),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


class _CallSpan:
    """The span of one call, as a context."""

    def __init__(self, tracer: Any, call: Call) -> None:
        self._tracer = tracer
        self._call = call
        self._span: Any = None

    def __enter__(self) -> object:
        from opentelemetry.trace import (
            NonRecordingSpan,
            SpanContext,
            SpanKind,
            TraceFlags,
            set_span_in_context,
        )

        parent = parse_traceparent(self._call.trace)
        if parent is None:
            return None
        context = SpanContext(
            trace_id=int(parent.trace_id, 16),
            span_id=int(parent.parent_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(int(parent.is_sampled)),
        )
        self._span = self._tracer.start_span(
            self._call.op, set_span_in_context(NonRecordingSpan(context)), kind=SpanKind.SERVER
        )
        return self._span

    def __exit__(self, *_: object) -> None:
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        call = self._call
        attributes = {
            "dataplaned.op": call.op,
            "dataplaned.code": call.code,
            "dataplaned.backend": call.backend_id,
            "dataplaned.object": call.address,
            "dataplaned.outcome": call.outcome,
            "dataplaned.received_bytes": call.received_bytes,
            "dataplaned.sent_bytes": call.sent_bytes,
            "dataplaned.uid": call.caller.uid,
        }
        self._span.set_attributes({name: value for name, value in attributes.items() if value})
        if call.code not in (OK, GONE):
            self._span.set_status(StatusCode.ERROR, call.code)
        self._span.end()
