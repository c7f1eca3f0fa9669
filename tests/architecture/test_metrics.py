"""The metrics that operators rely on exist, and have no other labels than those that were agreed on."""

from __future__ import annotations

import re

import pytest

from tests.support.metrics import Family, families

# What dashboards and alerts of operators may use; names and labels change only with a line in CHANGELOG.md.
AGREED = {
    **{f"queue_{name}": "queue" for name in ("depth", "inflight", "delayed", "dead", "oldest_age_seconds")},
    "builds_waiting_quota": "",
    "messages_total": "queue actor outcome",
    "message_wait_seconds": "queue",
    "message_duration_seconds": "queue",
    **{f"worker_{name}": "pool" for name in ("threads", "busy_threads", "heartbeat_timestamp_seconds")},
    "builds_total": "executor framework outcome target",
    "build_phase_duration_seconds": "phase outcome",
    "build_cache_requests_total": "kind result",
    "deployments_total": "outcome target code",
    "deploy_duration_seconds": "target outcome",
    "deployments_stuck": "state",
    "rollbacks_total": "kind outcome",
    "sse_streams": "",
    "sse_lag_seconds": "",
    "http_requests_total": "route method status",
    "http_request_duration_seconds": "route method status",
    "db_query_duration_seconds": "",
    "redis_command_duration_seconds": "op",
    "s3_request_duration_seconds": "op",
    "dependency_up": "dependency",
    "active_sessions": "",
    "certificate_expiry_timestamp_seconds": "certificate",
    "routers": "state",
    "routers_lag_changes": "",
    "router_ready": "",
    "router_offline": "",
    "router_applied_number": "",
    "router_sites": "",
    "router_fetches_total": "outcome",
}
# Labels whose values come from enums, tables in the code or route templates.
BOUNDED = {
    "actor", "certificate", "code", "dependency", "executor", "framework", "kind", "lane", "method", "op", "outcome",
    "phase", "pool", "queue", "reason", "result", "route", "source", "state", "status", "target",
}  # fmt: skip


@pytest.mark.parametrize("name", AGREED)
def test_an_agreed_metric_exists_with_its_labels(name: str) -> None:
    found = {family.name: family for family in families()}
    assert name in found
    assert " ".join(found[name].labels) == AGREED[name]


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_a_metric_says_its_unit_and_has_bounded_labels(family: Family) -> None:
    assert set(family.labels) <= BOUNDED
    assert family.meaning.endswith(".")
    if family.kind == "histogram":
        assert family.name.endswith("_seconds")
    assert re.fullmatch(r"[a-z0-9_]+", family.name)


def test_buckets_reach_from_the_shortest_build_and_wait_to_half_an_hour() -> None:
    import shared.metrics

    for histogram in (shared.metrics._phases, shared.metrics._deploy_duration, shared.metrics._message_duration):
        assert (histogram._upper_bounds[0], histogram._upper_bounds[-2]) == (1, 1800)
    waits = shared.metrics._message_wait._upper_bounds
    assert (waits[0], waits[-2]) == (0.1, 1800)
