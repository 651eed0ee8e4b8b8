"""Spans for OpenTelemetry: one a request, and below it one for each stage of each of its pictures.

Needs the extra `otel`. What is not told here is read by OpenTelemetry from its own variables: `OTEL_SERVICE_NAME`,
`OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from jetface.server.context import PROBES

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from jetface.metrics import Metrics
    from jetface.server.context import RequestContext

_SERVER_FAULT = 500


class Tracing:
    """Sends spans to a collector, in a thread of its own and in batches; what it cannot take is dropped, not kept."""

    def __init__(self, endpoint: str, *, version: str, metrics: Metrics) -> None:
        """Start the thread.

        Args:
            endpoint: Address of the collector, OTLP over HTTP, without the path: `http://collector:4318`.
            version: What the spans call the service's version.
            metrics: Where spans are counted.
        """
        named = Resource({"service.name": "jetface", "service.version": version})
        self._provider = TracerProvider(resource=named.merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter(f"{endpoint.rstrip('/')}/v1/traces", metrics)))
        self._tracer = self._provider.get_tracer("jetface")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, context: RequestContext, path: str) -> None:
        """Begin the span of a request, below the one that its `traceparent` names; probes have none.

        The context knows how to end it.
        """
        if path.startswith(PROBES):
            return
        names = ("traceparent", "tracestate")
        carrier = {name: value for name in names if (value := context.header(name.encode())) is not None}
        span = self._tracer.start_span(
            "request", self._propagator.extract(carrier), SpanKind.SERVER, start_time=_epoch_ns(context.started)
        )
        context.trace_id = format_trace_id(span.get_span_context().trace_id)
        context.end_span = partial(self._end, span, context)

    def _end(self, span: Span, context: RequestContext, method: str, route: str, status: int) -> None:
        """End the span of a request, and write those of its stages below it."""
        if span.is_recording():
            span.update_name(f"{method} {route}")
            span.set_attributes(
                {
                    "http.request.method": method,
                    "http.route": route,
                    "http.response.status_code": status,
                    "jetface.request_id": context.id,
                }
            )
            if status >= _SERVER_FAULT:
                span.set_status(Status(StatusCode.ERROR))
            below = set_span_in_context(span)
            for picture, times in enumerate(context.picture_times):
                for stage, began, ended in times.spans:
                    self._tracer.start_span(
                        stage, below, attributes={"jetface.picture": picture}, start_time=_epoch_ns(began)
                    ).end(_epoch_ns(ended))
        span.end()

    def close(self) -> None:
        """Send what is left, and end the thread."""
        self._provider.shutdown()


class _Exporter(OTLPSpanExporter):
    """Counts what becomes of spans."""

    def __init__(self, url: str, metrics: Metrics) -> None:
        super().__init__(url)
        self._spans = metrics.spans

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self._spans.labels("sent" if result is SpanExportResult.SUCCESS else "lost").inc(len(spans))
        return result


def _epoch_ns(reading_s: float) -> int:
    """Return when `time.perf_counter()` read `reading_s`, as nanoseconds since 1970."""
    return time.time_ns() - int((time.perf_counter() - reading_s) * 1e9)
