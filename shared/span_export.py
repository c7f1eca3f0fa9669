"""Exports spans by OTLP over HTTP, with OpenTelemetry. Import it only where spans are exported: it takes memory."""

from __future__ import annotations

import threading
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

_PATH = "/v1/traces"
_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER}
# Of one attempt to send a batch; spans are dropped while nobody takes them.
_TIMEOUT_SECONDS = 3
_WAITING_SPANS = 4096
_CLOSE_SECONDS = 4.0
_ATTRIBUTE_LENGTH = 500


class OtlpExporter:
    """Implements SpanExporter. `endpoint`: `http(s)://host:port`, with the path of its own if it has one.

    The SDK reads further settings from its own variables, such as OTEL_EXPORTER_OTLP_HEADERS.
    """

    def __init__(self, endpoint: str, role: str) -> None:
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({SERVICE_NAME: f"cloudify-{role}", SERVICE_VERSION: version("cloudify")}),
            span_limits=SpanLimits(max_attribute_length=_ATTRIBUTE_LENGTH),
            shutdown_on_exit=False,
        )
        url = endpoint if endpoint.rstrip("/").endswith(_PATH) else endpoint.rstrip("/") + _PATH
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=url, timeout=_TIMEOUT_SECONDS),
                max_queue_size=_WAITING_SPANS,
                schedule_delay_millis=1000,
            )
        )
        self._tracer = self._provider.get_tracer("cloudify")

    def start(self, name: str, kind: str, parent: tuple[str, str] | None) -> OtlpSpan:
        context = None
        if parent is not None:
            above = SpanContext(
                int(parent[0], 16), int(parent[1], 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
            )
            context = set_span_in_context(NonRecordingSpan(above))
        return OtlpSpan(self._tracer.start_span(name, context=context, kind=_KINDS[kind]))

    def close(self) -> None:
        # While the collector is away, the SDK tries each waiting batch for as long as one attempt may take.
        shutting_down = threading.Thread(target=self._provider.shutdown, name="span-export", daemon=True)
        shutting_down.start()
        shutting_down.join(_CLOSE_SECONDS)


class OtlpSpan:
    """Implements ExportedSpan."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, name: str, value: str | float | bool) -> None:
        self._span.set_attribute(name, value)

    def fail(self, message: str) -> None:
        self._span.set_status(Status(StatusCode.ERROR, message))

    def end(self) -> None:
        self._span.end()
