"""The values, their schema, their page, and the code they are for."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from api.cli.main import COMMANDS
from shared.deployments.state import DEFAULT_THREADS, Pool, Stage
from shared.plans import LIMITS
from shared.settings import load_settings
from shared.settings.declaration import PREFIX, settings_of
from tests.support.chart_readme import COPIED, README, documented_values, readme, schema_of
from tests.support.documentation import parts
from tests.support.environment import ENVIRONMENT
from tests.support.helm_chart import (
    CHART,
    FIVE_VALUES,
    ROOT,
    evaluation_values,
    merged,
    of_kind,
    pod_specs,
    render,
    values_of,
    variables,
)


def _leaves(values: dict[str, Any], before: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in values.items():
        is_part = isinstance(value, dict) and value and "properties" in (schema_of(before + key) or {})
        found |= _leaves(value, f"{before}{key}.") if is_part else {before + key}
    return found


def test_every_value_has_a_comment_and_a_schema() -> None:
    documented = {value.path for value in documented_values()}
    leaves = {path for path in _leaves(values_of("values.yaml")) if not path.startswith("workers.pools.")}
    without_comment = {
        path for path in leaves if not any(path == known or path.startswith(f"{known}.") for known in documented)
    }
    assert without_comment == set()
    assert {path for path in leaves | documented if schema_of(path) is None} == set()
    for value in documented_values():
        assert value.about[0].isupper() or value.about[0] == "`", value
        assert value.about.endswith("."), value


def test_the_schema_knows_no_value_that_is_not_there() -> None:
    def paths(schema: dict[str, Any], before: str = "") -> set[str]:
        found: set[str] = set()
        for key, part in schema.get("properties", {}).items():
            found |= {before + key} | paths(part, f"{before}{key}.")
        return found

    values = values_of("values.yaml")

    def is_there(path: str) -> bool:
        value: Any = values
        for key in path.split("."):
            if not isinstance(value, dict):
                return False
            if value == {}:
                return True  # what it may hold is in the schema alone
            if key not in value:
                return False
            value = value[key]
        return True

    known = paths(json.loads((CHART / "values.schema.json").read_text()))
    # Of a budget's two fields one may be set.
    assert {path for path in known if not is_there(path) and ".pdb." not in path} == {"global"}


def test_the_readme_is_up_to_date() -> None:
    written = README.read_text() if README.is_file() else ""
    assert written == readme(), "charts/cloudify/README.md is out of date; run `make docs` and commit it."


def test_pools_are_the_platform_s_pools() -> None:
    pools = values_of("values.yaml")["workers"]["pools"]
    default = values_of("values.yaml")["workers"]["defaults"]["threads"]
    threads = {re.sub(r"([A-Z])", r"-\1", name).lower(): own.get("threads", default) for name, own in pools.items()}
    assert threads == {pool.value: DEFAULT_THREADS[pool] for pool in Pool}
    validation = (CHART / "templates" / "validation.yaml").read_text()
    assert "list " + " ".join(f'"{stage.value}"' for stage in Stage) + " }}" in validation


def test_the_longest_stage_is_the_largest_plan_s() -> None:
    longest = max(limits.stage_timeout_seconds for limits in LIMITS.values())
    assert f"stageTimeoutSeconds | default {longest} " in (CHART / "templates" / "validation.yaml").read_text()
    assert values_of("values.yaml")["workers"]["defaults"]["drainSeconds"] >= longest


def test_every_variable_is_a_setting_and_every_process_a_command() -> None:
    settings = {PREFIX + setting.name for part in parts().values() for _, setting in settings_of(part)}
    for values in (FIVE_VALUES, merged(FIVE_VALUES, {"router": {"persistence": {"enabled": True}}})):
        resources = render(values)
        for workload, pod in pod_specs(resources):
            named = {name.removesuffix("_FILE") for name in variables(resources, workload)} - {"POD_IP"}
            assert named <= settings, workload
            [container] = pod["containers"]
            assert container["args"][:1] == ["cloudify"]
            assert container["args"][1] in COMMANDS


def test_the_settings_of_every_process_can_be_loaded() -> None:
    """All but the secrets, which are files."""
    resources = render(FIVE_VALUES)
    for workload, _pod in pod_specs(resources):
        given = {name: value for name, value in variables(resources, workload).items() if not name.endswith("_FILE")}
        token = {"CLOUDIFY_EGRESS_TOKEN": "t" * 32} if "CLOUDIFY_EGRESS_GATEWAY" in given else {}
        settings = load_settings(ENVIRONMENT | {"CLOUDIFY_EXECUTOR": "bubblewrap"} | given | token)
        if "CLOUDIFY_SITES_DOMAIN" in given:
            assert settings.sites.url("name") == "https://name.example.com"
            assert "api.example.com" in settings.api.hosts
            assert settings.api.trusted_proxies


@pytest.mark.parametrize("value", [True, "true"])
def test_builds_get_a_network_by_settings_alone(value: object) -> None:
    chosen = {"settings": {"CLOUDIFY_BUILD_NETWORK": "filtered", "CLOUDIFY_BUILD_NETWORK_CHOICE": value}}
    for values, is_open in ((FIVE_VALUES, False), (merged(FIVE_VALUES, chosen), True)):
        resources = render(values)
        for workload in ("api", "worker-build"):
            [name] = [found for found, _pod in pod_specs(resources) if found.endswith(workload)]
            given = variables(resources, name)
            assert given.get("CLOUDIFY_BUILD_NETWORK", "none") == ("filtered" if is_open else "none")
            assert given.get("CLOUDIFY_BUILD_NETWORK_CHOICE", "false") == ("true" if is_open else "false")


def test_secrets_are_mounted_where_the_settings_look() -> None:
    for values in (FIVE_VALUES, evaluation_values()):
        resources = render(values)
        for workload, pod in pod_specs(resources):
            files = {path for name, path in variables(resources, workload).items() if name.endswith("_FILE")}
            mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
            mounted = {
                f"{mounts[volume['name']]}/{item['path']}"
                for volume in pod["volumes"]
                for source in volume.get("projected", {}).get("sources", [volume])
                for item in source.get("secret", {}).get("items", [])
            }
            assert files <= mounted, workload


def test_probes_have_the_figures_of_the_specification() -> None:
    figures = {"startupProbe": (5, 5, 30), "livenessProbe": (10, 30, 3), "readinessProbe": (5, 10, 3)}
    names = ("initialDelaySeconds", "periodSeconds", "failureThreshold")
    resources = render(evaluation_values())
    for name, pod in pod_specs(resources):
        if name.startswith("Job/"):
            continue
        for probe, wanted in figures.items():
            [container] = pod["containers"]
            assert tuple(container[probe][key] for key in names) == wanted, name
    api = of_kind(resources, "Deployment")["cloudify-api"]["spec"]["template"]["spec"]["containers"][0]
    assert [api[probe]["httpGet"]["path"] for probe in figures] == [
        "/api/health/startup",
        "/api/health/live",
        "/api/health/ready",
    ]


def test_a_pod_is_killed_only_after_its_drain() -> None:
    for name, pod in pod_specs(render(FIVE_VALUES)):
        if "worker-" in name:
            drain = int(variables(render(FIVE_VALUES), name)["CLOUDIFY_DRAIN_SECONDS"])
            # A worker needs up to 30 s more to hand its jobs back.
            assert pod["terminationGracePeriodSeconds"] > drain + 30


@pytest.mark.parametrize("name", COPIED)
def test_the_alert_rules_and_the_dashboard_are_those_of_the_repository(name: str) -> None:
    ours, copied = ROOT / "monitoring" / name, CHART / "files" / name
    assert copied.read_text() == ours.read_text(), (
        f"monitoring/{name} has changed; run `make docs` and commit the copy."
    )


def test_the_rules_reach_prometheus_as_they_are() -> None:
    monitored = {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}
    resources = render(merged(FIVE_VALUES, {"monitoring": monitored}))
    [rule] = of_kind(resources, "PrometheusRule").values()
    assert rule["spec"] == yaml.safe_load((ROOT / "monitoring" / "alerts.yaml").read_text())
    dashboard = of_kind(resources, "ConfigMap")["cloudify-dashboard"]["data"]["cloudify.json"]
    assert json.loads(dashboard) == json.loads((ROOT / "monitoring" / "dashboard.json").read_text())


def test_the_chart_has_the_package_s_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    [version] = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert (chart["version"], chart["appVersion"]) == (version, version)
