"""Places in a trace, with and without an exporter of spans."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from shared.tracing import current_trace_id, current_traceparent, span
from tests.support.span_receiver import span_receiver

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = PARENT[3:35]


def test_a_block_continues_the_trace_of_its_parent_and_of_the_block_around_it() -> None:
    assert current_traceparent() is None
    with span("outer", parent=PARENT):
        assert current_trace_id() == TRACE
        with span("inner"):
            assert current_trace_id() == TRACE
    assert current_traceparent() is None


@pytest.mark.parametrize(
    "invalid",
    [
        None, "", "x", PARENT.upper(), PARENT[:-1], f"ff{PARENT[2:]}", f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01", f"{PARENT}\n", f"{PARENT}x", f"01{PARENT[2:]}-{'a' * 200}",
    ],
)  # fmt: skip
def test_without_a_valid_parent_a_trace_begins(invalid: str | None) -> None:
    with span("first", parent=invalid):
        first = current_traceparent()
    with span("second", parent=invalid):
        second = current_traceparent()
    assert first is not None
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", first)
    assert first != second
    assert TRACE not in first


def test_a_later_version_of_the_header_is_understood() -> None:
    with span("first", parent=f"01{PARENT[2:]}-more"):
        assert current_trace_id() == TRACE


def test_lines_of_the_log_carry_the_trace_and_nothing_of_opentelemetry_is_imported() -> None:
    code = f"""
import logging, sys, structlog
from shared.logging import configure_logging
from shared.settings import TracingSettings
from shared.tracing import export_spans, span
configure_logging("worker-build")
end = export_spans(TracingSettings(), "worker-build")
with span("job", parent="{PARENT}"):
    structlog.get_logger("a").warning("inside")
    logging.getLogger("library").warning("inside")
structlog.get_logger("a").warning("outside")
end()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    finished = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in finished.stderr.splitlines()]
    assert [line.get("trace_id") for line in lines] == [TRACE, TRACE, None]


def test_spans_are_exported_with_their_parents_attributes_and_failures() -> None:
    code = f"""
import sys
from shared.settings import TracingSettings
from shared.tracing import current_traceparent, export_spans, span
end = export_spans(TracingSettings(endpoint=sys.argv[1]), "api")
with span("request", {{"cloudify.request_id": "r1", "left.out": None}}, parent="{PARENT}", kind="server") as request:
    request.rename("POST /api/deployments")
    message = current_traceparent()
    with span("probe", is_exported=False), span("below"):
        pass
with span("job clone", parent=message, kind="consumer"):
    try:
        with span("command"):
            raise RuntimeError("a tenant's secret")
    except RuntimeError:
        pass
end()
"""
    with span_receiver() as receiver:
        subprocess.run([sys.executable, "-c", code, receiver.url], check=True, timeout=120)
        spans = {received.name: received for received in receiver.spans()}
    assert set(spans) == {"POST /api/deployments", "below", "job clone", "command"}
    request, job, command = spans["POST /api/deployments"], spans["job clone"], spans["command"]
    assert {received.trace_id for received in spans.values()} == {TRACE}
    assert {received.service for received in spans.values()} == {"cloudify-api"}
    assert request.parent_id == PARENT[36:52]
    assert job.parent_id == spans["below"].parent_id == request.span_id
    assert command.parent_id == job.span_id
    assert request.attributes == {"cloudify.request_id": "r1"}
    assert (command.is_error, job.is_error) == (True, False)
    assert "secret" not in repr(spans)


def test_a_collector_that_is_away_costs_a_stop_a_few_seconds_at_most() -> None:
    pytest.importorskip("opentelemetry.proto", reason="cloudify[tracing] is not installed")
    code = """
import time
from shared.settings import TracingSettings
from shared.tracing import export_spans, span
end = export_spans(TracingSettings(endpoint="http://127.0.0.1:1"), "api")
for _ in range(10_000):
    with span("request"):
        pass
started = time.monotonic()
end()
print(time.monotonic() - started)
"""
    finished = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert float(finished.stdout) < 10
