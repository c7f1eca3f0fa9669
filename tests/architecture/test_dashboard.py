"""The dashboard: every query asks for metrics that exist, and every panel says what it shows and in which unit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.metrics import families, unknown_names
from tests.support.promtool import promtool

_DASHBOARD = json.loads((Path(__file__).resolve().parents[2] / "monitoring" / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in _DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]
# Of https://grafana.com/docs/grafana/latest/panels-visualizations/configure-standard-options/#unit
UNITS = {"s", "bytes", "short", "percentunit", "ops", "reqps", "cpm", "bool_yes_no"}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']} {panel['title']}")
def test_a_panel_has_a_title_a_unit_and_queries_that_can_be_answered(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    for target in panel["targets"]:
        assert unknown_names(target["expr"]) == []
        assert target["legendFormat"]


def test_every_metric_is_shown() -> None:
    text = "\n".join(QUERIES)
    missing = [family.name for family in families() if not any(name in text for name in family.series())]
    assert missing == []


def test_prometheus_accepts_the_queries(tmp_path: Path) -> None:
    rules = [
        {"record": f"cloudify:query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(QUERIES)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", path)


def test_panels_have_their_own_ids_and_places() -> None:
    panels = _DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


@pytest.mark.parametrize(
    ("query", "unknown"),
    [
        ("sum(rate(cloudify_builds_total[5m]))", []),
        ("sum by (le) (rate(cloudify_sse_lag_seconds_bucket[5m]))", []),
        ("cloudify_sse_lag_seconds", ["cloudify_sse_lag_seconds"]),
        ('cloudify_builds_total{pool="a"}', ["cloudify_builds_total{pool}"]),
        ("sum by (tenant) (cloudify_queue_depth)", ["tenant"]),
    ],
)
def test_what_does_not_exist_is_found(query: str, unknown: list[str]) -> None:
    assert unknown_names(query) == unknown
