"""Pods, rights, namespaces and secrets."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

from shared.plans import Plan, limits_of
from tests.support.helm_chart import (
    CHART,
    FIVE_VALUES,
    evaluation_values,
    of_kind,
    pod_specs,
    render,
    render_texts,
)
from tests.support.pod_security import violations
from workers.commands.sandboxed import run_limits
from workers.executors.base import ExecutionSpec, Mount, Overlay, StoredTree
from workers.executors.kubernetes.manifests import NETWORK_LABEL, PodSettings, RunNames, job_of
from workers.executors.kubernetes.plan import plan_trees

_SYSTEM, _BUILDS, _SITES = "cloudify-system", "cloudify-builds", "cloudify-sites"


@pytest.mark.parametrize("values", [FIVE_VALUES, evaluation_values()], ids=["five values", "evaluation"])
def test_every_pod_is_restricted(values: dict[str, object]) -> None:
    found = {name: list(violations(pod)) for name, pod in pod_specs(render(values))}
    assert len(found) >= 12
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_a_pod_that_is_not_restricted_is_found() -> None:
    pod = {"containers": [{"name": "shell", "securityContext": {"privileged": True}}], "hostNetwork": True}
    assert {"hostNetwork is set", "shell is privileged", "shell may run as root"} <= set(violations(pod))


def test_writable_are_volumes_of_limited_size_or_storage() -> None:
    for name, pod in pod_specs(render(FIVE_VALUES)):
        for container in pod["containers"]:
            writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            assert writable == {"/tmp", "/var/lib/cloudify"}, name
            assert "ephemeral-storage" in container["resources"]["limits"], name


def test_roles_name_what_they_are_for() -> None:
    rights: dict[str, dict[str, set[str]]] = {}
    resources = render(FIVE_VALUES)
    for name, role in of_kind(resources, "Role").items():
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], name
            for resource in rule["resources"]:
                rights.setdefault(name, {}).setdefault(resource, set()).update(rule["verbs"])
    assert rights == {
        "cloudify-keys": {"secrets": {"create"}},
        "cloudify-builds": {
            "jobs": {"create", "get", "list", "watch", "patch", "delete"},
            "pods": {"get", "list", "watch", "delete"},
            "pods/log": {"get"},
            "secrets": {"create"},
            "events": {"list", "watch"},
        },
        "cloudify-sites": {
            "deployments": {"create", "get"},
            "services": {"create", "get"},
            "secrets": {"create"},
            "poddisruptionbudgets": {"create"},
            "pods": {"list"},
        },
        "cloudify-sites-upkeep": {
            "deployments": {"create", "get", "list", "patch", "delete"},
            "services": {"create", "get", "list", "delete"},
            "secrets": {"create", "delete"},
            "poddisruptionbudgets": {"create", "delete"},
        },
        f"{_BUILDS}/cloudify-reconciler": {"jobs": {"list", "delete"}, "pods": {"list", "delete"}},
        f"{_SYSTEM}/cloudify-reconciler": {"pods": {"list", "patch"}},
    }
    assert of_kind(resources, "ClusterRole") == {}
    roles = of_kind(resources, "Role")
    assert roles["cloudify-builds"]["metadata"]["namespace"] == _BUILDS
    assert {roles[name]["metadata"]["namespace"] for name in ("cloudify-sites", "cloudify-sites-upkeep")} == {_SITES}


def test_only_who_speaks_to_the_api_server_has_a_token() -> None:
    with_token = {
        name for name, pod in pod_specs(render(FIVE_VALUES)) if pod.get("automountServiceAccountToken") is not False
    }
    assert with_token == {
        "Deployment/cloudify-reconciler",
        "Deployment/cloudify-worker-build",
        "Deployment/cloudify-worker-deploy",
        "Deployment/cloudify-worker-install",
        "Deployment/cloudify-worker-rollback",
        "Job/cloudify-keys",
    }
    elsewhere = {**FIVE_VALUES, "executor": {"name": "docker"}, "sitePods": {"enabled": False}}
    assert {
        name for name, pod in pod_specs(render(elsewhere)) if pod.get("automountServiceAccountToken") is not False
    } == {"Job/cloudify-keys"}


def test_the_namespaces_enforce_the_level() -> None:
    created = of_kind(render({**FIVE_VALUES, "namespaces": {"system": {"create": True}}}), "Namespace")
    assert set(created) == {_SYSTEM, _BUILDS, _SITES}
    for namespace in created.values():
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_each_namespace_denies_what_no_policy_allows() -> None:
    policies = of_kind(render(FIVE_VALUES), "NetworkPolicy")
    for namespace in (_SYSTEM, _BUILDS, _SITES):
        spec = policies[f"{namespace}/default-deny"]["spec"]
        assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ways_out = {
        name: policy["spec"]
        for name, policy in policies.items()
        if policy["metadata"]["namespace"] == _BUILDS and policy["spec"].get("egress")
    }
    assert {name: spec["podSelector"] for name, spec in ways_out.items()} == {
        "object-store": {},
        "egress-gateway": {"matchLabels": {NETWORK_LABEL: "filtered"}},
    }
    assert "53" not in json.dumps(ways_out)


def _matches(selector: dict[str, Any], component: str) -> bool:
    pod = {"app.kubernetes.io/component": component}
    wanted = selector.get("matchLabels", {})
    if wanted.get("app.kubernetes.io/component", component) != component:
        return False
    is_in = {"In": True, "NotIn": False}
    return all(
        (pod.get(each["key"]) in each["values"]) == is_in[each["operator"]]
        for each in selector.get("matchExpressions", [])
    )


def _ports(policies: dict[str, Any], component: str, direction: str) -> set[int]:
    """Ports that the policies of the release's namespace open for a component, towards any peer."""
    return {
        int(port["port"])
        for policy in policies.values()
        if policy["metadata"]["namespace"] == _SYSTEM and _matches(policy["spec"]["podSelector"], component)
        for rule in policy["spec"].get(direction, [])
        for port in rule.get("ports", [])
    }


def test_the_egress_gateway_reaches_names_and_public_networks_alone() -> None:
    policies = of_kind(render(FIVE_VALUES), "NetworkPolicy")
    assert _ports(policies, "egress", "egress") == {53, 80, 443}
    [_, public] = policies["cloudify-egress"]["spec"]["egress"]
    assert "10.0.0.0/8" in public["to"][0]["ipBlock"]["except"]
    assert "secrets" not in json.dumps(dict(pod_specs(render(FIVE_VALUES)))["Deployment/cloudify-egress"]["volumes"])


def test_only_workers_that_run_commands_reach_the_control_port() -> None:
    policies = of_kind(render(FIVE_VALUES), "NetworkPolicy")
    components = {name.removeprefix("cloudify-") for name in of_kind(render(FIVE_VALUES), "Deployment")}
    with_access = {name for name in components if 3129 in _ports(policies, name, "egress")}
    assert with_access == {"worker-build", "worker-install"}
    [_, control] = policies["cloudify-egress"]["spec"]["ingress"]
    assert control["ports"] == [{"protocol": "TCP", "port": 3129}]
    assert {name for name in components if _matches(control["from"][0]["podSelector"], name)} == with_access
    with_token = {
        name.removeprefix("Deployment/cloudify-")
        for name, pod in pod_specs(render(FIVE_VALUES))
        if "egress-token" in json.dumps(pod["volumes"])
    }
    assert with_token == with_access | {"egress"}


@pytest.mark.parametrize(
    ("proxy", "port", "peers"),
    [
        ("http://10.1.2.3:3128", 3128, [{"ipBlock": {"cidr": "10.1.2.3/32"}}]),
        ("http://proxy.example:8080", 8080, None),
    ],
)
def test_the_way_out_that_an_operator_names_is_open(proxy: str, port: int, peers: object) -> None:
    settings = {"CLOUDIFY_EGRESS_PROXY": proxy, "CLOUDIFY_EGRESS_ALLOWED_NETWORKS": "10.9.0.0/16, 10.8.0.1/32"}
    policies = of_kind(render({**FIVE_VALUES, "settings": settings}), "NetworkPolicy")
    networks = {"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}, {"ipBlock": {"cidr": "10.8.0.1/32"}}]}
    through_proxy = {"ports": [{"protocol": "TCP", "port": port}], **({} if peers is None else {"to": peers})}
    for name in ("cloudify-clones", "cloudify-egress"):
        assert policies[name]["spec"]["egress"][-2:] == [networks, through_proxy]


def test_other_executors_have_no_gateway() -> None:
    for resource in render({**FIVE_VALUES, "executor": {"name": "docker"}}):
        assert "egress" not in json.dumps(resource["metadata"]["labels"]), resource["metadata"]["name"]


def test_a_quota_bounds_builds_and_sites() -> None:
    resources = render(FIVE_VALUES)
    quotas, limits = of_kind(resources, "ResourceQuota"), of_kind(resources, "LimitRange")
    # Figures of the specification's section 7.1.2.
    assert quotas["site-quota"]["spec"]["hard"] == {"pods": "100", "requests.cpu": "10", "requests.memory": "5Gi"}
    assert {quota["metadata"]["namespace"] for quota in quotas.values()} == {_BUILDS, _SITES}
    assert {limit["metadata"]["namespace"] for limit in limits.values()} == {_BUILDS, _SITES}


@pytest.mark.parametrize("plan", Plan)
def test_the_namespace_of_builds_takes_builds_of_every_plan(plan: Plan) -> None:
    resources = render(FIVE_VALUES)
    maximum = of_kind(resources, "LimitRange")["build-limits"]["spec"]["limits"][0]["max"]
    hard = of_kind(resources, "ResourceQuota")["build-quota"]["spec"]["hard"]
    layers = tuple(StoredTree("tenant", str(number)) for number in range(4))
    spec = ExecutionSpec(
        name="build",
        command=("true",),
        working_directory="/",
        mounts=(Mount(StoredTree("tenant", "tool"), "/opt/tool"),),
        overlay=Overlay("changes", "/workspace", layers),
        environment={},
        limits=run_limits(limits_of(plan), output_bytes=200 * 1024 * 1024),
        network="none",
    )
    names = RunNames("run-" + "1" * 40, "secret", "run", "staging")
    pod = job_of(spec, plan_trees(spec), names, PodSettings("image", "amd64"), has_certificates=True)["spec"][
        "template"
    ]
    for container in (*pod["spec"]["initContainers"], *pod["spec"]["containers"]):
        for kind, bound in maximum.items():
            assert parse_quantity(container["resources"]["limits"][kind]) <= parse_quantity(bound), kind
        for kind, bound in hard.items():
            which, _, what = kind.partition(".")
            if which in ("requests", "limits"):
                # Some at once.
                assert 4 * parse_quantity(container["resources"][which][what]) <= parse_quantity(bound), kind


def test_no_secret_is_rendered_outside_of_evaluation() -> None:
    resources = render(FIVE_VALUES)
    assert of_kind(resources, "Secret") == {}
    for resource in resources:
        assert not re.search(r"://[^/@\s]*:[^/@\s]+@", json.dumps(resource))


def test_secrets_reach_a_process_as_files() -> None:
    for name, pod in pod_specs(render(evaluation_values())):
        for container in pod["containers"]:
            for variable in container.get("env", []):
                assert "secretKeyRef" not in variable.get("valueFrom", {}), name
            assert all("secretRef" not in source for source in container.get("envFrom", [])), name


def test_the_platform_s_keys_are_made_by_a_job_and_stay() -> None:
    texts = render_texts(FIVE_VALUES)
    job = next(
        resource
        for resource in yaml.safe_load_all(texts["jobs.yaml"])
        if resource["kind"] == "Job" and resource["metadata"]["name"] == "cloudify-keys"
    )
    # No upgrade makes keys: those that are lost have to be restored.
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install"
    assert "make-keys" in job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "cloudify-keys" in texts["NOTES.txt"]
    theirs = render({**FIVE_VALUES, "keys": {"existingSecret": "mine"}})
    assert "cloudify-keys" not in of_kind(theirs, "Job")
    assert "cloudify-keys" not in json.dumps(theirs)


def test_the_evaluation_has_no_default_password_and_says_what_it_is() -> None:
    assert "password" not in yaml.safe_load((CHART / "values-evaluation.yaml").read_text())["evaluation"]
    assert "NOT FOR PRODUCTION" in (CHART / "values-evaluation.yaml").read_text()
    assert "Not for production" in render_texts(evaluation_values())["NOTES.txt"]
    resources = render(evaluation_values())
    assert list(of_kind(resources, "Secret")) == ["cloudify-evaluation"]


def test_an_uninstall_leaves_nothing_but_the_keys() -> None:
    """Resources of hooks are no part of a release: Helm deletes them after the hook, or nobody does."""
    for values in (FIVE_VALUES, evaluation_values()):
        for resource in render(values):
            annotations = resource["metadata"].get("annotations", {})
            assert annotations.get("helm.sh/resource-policy") is None
            if "helm.sh/hook" in annotations:
                assert "hook-succeeded" in annotations["helm.sh/hook-delete-policy"], resource["metadata"]["name"]
            if resource["kind"] == "StatefulSet" and "volumeClaimTemplates" in resource["spec"]:
                assert resource["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"
