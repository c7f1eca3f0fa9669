"""The alert rules: each fires and keeps quiet when it should, and asks for metrics that exist."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.metrics import unknown_names
from tests.support.promtool import promtool

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
_GROUPS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in _GROUPS for rule in group["rules"]]
CASES: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.test.yaml").read_text())["tests"]
# What operators are promised to be told.
AGREED = {
    "BuildsFailing", "ApiErrors", "DatabaseSlow", "RedisDown", "QueueDeep", "QueueStalled", "NoWorkers", "MetricsStale",
    "DeadLetters", "DeploymentsStuck", "CertificateExpiring",
}  # fmt: skip


def test_prometheus_accepts_the_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", MONITORING / "alerts.yaml")


def test_every_rule_fires_and_keeps_quiet_as_its_cases_say() -> None:
    assert "SUCCESS" in promtool("test", "rules", MONITORING / "alerts.test.yaml")


def test_every_rule_has_a_case_that_fires_and_one_that_does_not() -> None:
    outcomes: dict[str, set[bool]] = defaultdict(set)
    for case in CASES:
        for check in case["alert_rule_test"]:
            outcomes[check["alertname"]].add(bool(check["exp_alerts"]))
    assert outcomes == {rule["alert"]: {True, False} for rule in RULES}


def test_the_agreed_alerts_exist() -> None:
    assert {f"Cloudify{name}" for name in AGREED} <= {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    assert unknown_names(rule["expr"]) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_says_what_happens_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description"}
    for text in rule["annotations"].values():
        assert re.search(r"[.}]$", text)


def test_cases_use_metrics_and_labels_that_exist() -> None:
    for case in CASES:
        for series in case["input_series"]:
            assert unknown_names(series["series"], more_labels={"instance"}) == [], series
