"""Pods, rights, namespaces and secrets."""

from __future__ import annotations

import json
import re

import pytest
import yaml

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
        f"{_BUILDS}/cloudify-reconciler": {"jobs": {"list", "delete"}, "pods": {"list", "delete"}},
        f"{_SYSTEM}/cloudify-reconciler": {"pods": {"list", "patch"}},
    }
    assert of_kind(resources, "ClusterRole") == {}
    assert of_kind(resources, "Role")["cloudify-builds"]["metadata"]["namespace"] == _BUILDS


def test_only_who_speaks_to_the_api_server_has_a_token() -> None:
    with_token = {
        name for name, pod in pod_specs(render(FIVE_VALUES)) if pod.get("automountServiceAccountToken") is not False
    }
    assert with_token == {
        "Deployment/cloudify-reconciler",
        "Deployment/cloudify-worker-build",
        "Deployment/cloudify-worker-install",
        "Job/cloudify-keys",
    }
    elsewhere = {**FIVE_VALUES, "executor": {"name": "docker"}}
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
    egress_of_builds = [
        policy["spec"]["egress"]
        for policy in policies.values()
        if policy["metadata"]["namespace"] == _BUILDS and policy["spec"].get("egress")
    ]
    assert len(egress_of_builds) == 1
    assert "53" not in json.dumps(egress_of_builds)


def test_a_quota_bounds_builds_and_sites() -> None:
    resources = render(FIVE_VALUES)
    quotas, limits = of_kind(resources, "ResourceQuota"), of_kind(resources, "LimitRange")
    # Figures of the specification's section 7.1.2.
    assert quotas["site-quota"]["spec"]["hard"] == {"pods": "100", "requests.cpu": "10", "requests.memory": "5Gi"}
    assert {quota["metadata"]["namespace"] for quota in quotas.values()} == {_BUILDS, _SITES}
    assert {limit["metadata"]["namespace"] for limit in limits.values()} == {_BUILDS, _SITES}


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
