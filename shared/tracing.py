"""One trace from a request to the release that it leads to, across processes by W3C's `traceparent`.

Every span has a place in a trace, also without an exporter: log lines then carry the id of their trace. Spans are
exported where `export_spans` has been called, which imports OpenTelemetry; nothing else does.

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from shared.settings.processes import TracingSettings

Value = str | int | float | bool

# Version, 16 bytes of the trace, 8 of the parent span, flags; all zeros are invalid. Later versions may be longer.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
_MAXIMUM_LENGTH = 128

_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


class ExportedSpan(Protocol):
    """A span of an exporter. Used by the thread or task that started it."""

    @property
    def traceparent(self) -> str: ...

    def rename(self, name: str) -> None: ...

    def set(self, name: str, value: Value) -> None: ...

    def fail(self, message: str) -> None: ...

    def end(self) -> None: ...


class SpanExporter(Protocol):
    """Safe from any thread."""

    def start(self, name: str, kind: str, parent: tuple[str, str] | None) -> ExportedSpan:
        """`kind`: internal, server or consumer. `parent`: the ids of the trace and of the span, as hexadecimal."""
        ...

    def close(self) -> None:
        """Sends what is waiting, for a few seconds at most."""
        ...


class Span:
    """What a block knows of its span. Everything is ignored where spans aren't exported."""

    def __init__(self, exported: ExportedSpan | None) -> None:
        self._exported = exported

    def rename(self, name: str) -> None:
        if self._exported is not None:
            self._exported.rename(name)

    def set(self, name: str, value: Value) -> None:
        if self._exported is not None:
            self._exported.set(name, value)

    def fail(self, message: str) -> None:
        """Marks the span as failed. An exception that leaves the block does that, too."""
        if self._exported is not None:
            self._exported.fail(message)


_exporter: SpanExporter | None = None
_NOT_EXPORTED = Span(None)


def export_spans(settings: TracingSettings, role: str) -> Callable[[], None]:
    """Exports this process's spans if the settings name an endpoint. Call it once; returns what ends the export."""
    global _exporter  # noqa: PLW0603 - like logging, tracing belongs to the process
    if not settings.endpoint:
        return _do_nothing
    try:
        from shared.span_export import OtlpExporter
    except ImportError as error:
        raise SystemExit("CLOUDIFY_OTLP_ENDPOINT is set; install 'cloudify[tracing]', which it needs.") from error
    _exporter = exporter = OtlpExporter(settings.endpoint, role)
    return exporter.close


def _do_nothing() -> None:
    pass


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, Value | None] | None = None,
    *,
    parent: str | None = None,
    kind: str = "internal",
    is_exported: bool = True,
) -> Generator[Span]:
    """A part of a trace: a child of `parent` (a traceparent, ignored if invalid), of the block around it, or the first.

    `name` and the attributes' names have few values; neither they nor the values may hold anything secret.
    """
    above = _parse(parent) or _parse(_current.get())
    if _exporter is None or not is_exported:
        token = _current.set(_format(*above) if above else _format(os.urandom(16).hex(), os.urandom(8).hex()))
        try:
            yield _NOT_EXPORTED
        finally:
            _current.reset(token)
        return
    exported = _exporter.start(name, kind, above)
    token = _current.set(exported.traceparent)
    try:
        for key, value in (attributes or {}).items():
            if value is not None:
                exported.set(key, value)
        yield Span(exported)
    except BaseException as error:
        # The type alone: a message may quote what a tenant's program printed.
        exported.fail(type(error).__name__)
        raise
    finally:
        _current.reset(token)
        exported.end()


def current_traceparent() -> str | None:
    """The place in the trace of the running block, for a message to another process."""
    return _current.get()


def current_trace_id() -> str | None:
    current = _parse(_current.get())
    return None if current is None else current[0]


def _parse(traceparent: str | None) -> tuple[str, str] | None:
    if traceparent is None or len(traceparent) > _MAXIMUM_LENGTH:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    return None if found is None else (found[1], found[2])


def _format(trace_id: str, span_id: str) -> str:
    # Sampled: whether to keep a trace is decided where all traces are collected, and not by clients.
    return f"00-{trace_id}-{span_id}-01"
