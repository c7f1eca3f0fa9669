"""The one listener of a platform on one machine serves the metrics of all its processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.metrics import PREFIX, families
from tests.support.repositories import make_repository
from tests.support.running_platform import Platform, wait_for
from tests.support.sites import BUILD, node_site

pytestmark = pytest.mark.e2e

# Series that only appear where something has gone wrong, or where a store is reached by TLS.
_SILENT = {"http_refusals_total", "log_compactions_total", "certificate_expiry_timestamp_seconds"}


def _series(platform: Platform) -> dict[str, list[tuple[dict[str, str], float]]]:
    text = httpx.get(platform.metrics_url, timeout=60, trust_env=False).text
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def _missing(series: Mapping[str, object]) -> set[str]:
    return {family.name for family in families() if not any(name in series for name in family.series())}


def _is_live(platform: Platform) -> bool:
    try:
        return platform.client.get("/api/health/live").status_code == 200
    except httpx.HTTPError:
        return False


def test_everything_is_exposed_after_a_deployment_and_a_rollback(platform: Platform, repositories: Path) -> None:
    url = make_repository(repositories / "site", node_site("measured"))
    project = platform.create_project("measured", url, **BUILD)
    deployment = platform.finish(platform.create_deployment(project["id"])["id"])
    platform.call("POST", f"/api/deployments/{deployment['id']}/rollback", status=202)
    wait_for(lambda: "cloudify_rollbacks_total" in _series(platform), what="the rollback is counted")
    with platform.client.stream("GET", f"/api/deployments/{deployment['id']}/logs/stream") as answer:
        answer.read()

    # A source of the exporter that takes longer than a scrape may wait has no series until the next one.
    series: dict[str, list[tuple[dict[str, str], float]]] = {}

    def is_complete() -> bool:
        series.clear()
        series.update(_series(platform))
        return _missing(series) <= _SILENT

    wait_for(is_complete, what="every family has series")

    def values(name: str, **labels: str) -> list[float]:
        return [value for found, value in series[PREFIX + name] if labels.items() <= found.items()]

    for queue in ("clone", "install", "build", "upload", "deploy", "rollback"):
        assert sum(values("messages_total", queue=queue, outcome="succeeded")) >= 1
        assert sum(values("message_wait_seconds_count", queue=queue)) >= 1
        assert values("worker_threads", pool=queue)
    for dependency in ("database", "redis", "object_store"):
        assert values("dependency_up", dependency=dependency) == [1]
    assert values("routers", state="ready") == [1]
    assert values("router_ready") == [1]
    assert sum(values("router_fetches_total", outcome="placed")) >= 1
    # Of one process each, also after a restart.
    platform.kill("api")
    wait_for(lambda: _is_live(platform), what="the API is back")
    assert len(_series(platform)["cloudify_sse_streams"]) == 1
