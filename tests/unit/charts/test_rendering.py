"""The chart renders, with many values, what the API server accepts."""

from __future__ import annotations

from typing import Any

import helm_python
import jsonschema
import pytest

from tests.support.helm_chart import (
    CHART,
    FIVE_VALUES,
    Resource,
    Values,
    evaluation_values,
    merged,
    of_kind,
    pod_specs,
    render,
    variables,
)
from tests.support.kubernetes_schemas import CUSTOM, validate

_PROMETHEUS = {"monitoring": {"prometheusUrl": "http://prometheus.monitoring.svc:9090"}}

MATRIX: dict[str, Values] = {
    "five values": FIVE_VALUES,
    "evaluation": evaluation_values(),
    "evaluation with a volume": merged(evaluation_values(), {"evaluation": {"storage": "5Gi"}}),
    "KEDA": merged(FIVE_VALUES, _PROMETHEUS, {"workers": {"defaults": {"keda": {"enabled": True}}}}),
    "HPA": merged(
        FIVE_VALUES, {"api": {"hpa": {"enabled": True}}, "workers": {"pools": {"build": {"hpa": {"enabled": True}}}}}
    ),
    "Gateway API": merged(
        FIVE_VALUES, {"ingress": {"enabled": False}, "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}
    ),
    "cert-manager": merged(
        FIVE_VALUES, {"tls": {"mode": "certManager", "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"}}}
    ),
    "no TLS": merged(FIVE_VALUES, {"tls": {"mode": "none"}}),
    "monitoring": merged(
        FIVE_VALUES,
        {
            "monitoring": {
                "podMonitor": {"enabled": True},
                "prometheusRule": {"enabled": True},
                "dashboard": {"enabled": True},
            },
            "settings": {"CLOUDIFY_OTLP_ENDPOINT": "http://collector.monitoring:4318"},
        },
    ),
    "external secrets": merged(
        FIVE_VALUES,
        {
            "migrations": {"mode": "job"},
            "externalSecrets": {
                "enabled": True,
                "secretStoreRef": {"name": "vault", "kind": "ClusterSecretStore"},
                "database": "cloudify/database",
                "redis": "cloudify/redis",
                "objectStore": "cloudify/s3",
            },
        },
    ),
    "own keys, own namespaces": merged(
        FIVE_VALUES,
        {
            "keys": {"existingSecret": "keys"},
            "namespaces": {
                "system": {"create": True},
                "builds": {"name": "b", "create": False},
                "sites": {"name": "s", "create": False},
            },
        },
    ),
    "a volume for each router": merged(
        FIVE_VALUES, {"router": {"persistence": {"enabled": True, "storageClassName": "fast"}}}
    ),
    "placement": merged(
        FIVE_VALUES,
        {
            "imagePullSecrets": [{"name": "registry"}],
            "pods": {
                "tolerations": [{"key": "platform", "operator": "Exists"}],
                "nodeSelector": {"pool": "platform"},
                "labels": {"team": "web"},
                "annotations": {"note": "yes"},
            },
            "workers": {
                "pools": {
                    "build": {
                        "replicas": 4,
                        "nodeSelector": {"pool": "builds"},
                        "affinity": {"podAntiAffinity": {}},
                        "spreadTopologyKey": "topology.kubernetes.io/zone",
                    }
                }
            },
        },
    ),
    "everything off": merged(
        FIVE_VALUES,
        {
            "ingress": {"enabled": False},
            "networkPolicy": {"enabled": False},
            "quotas": {"builds": {"enabled": False}, "sites": {"enabled": False}},
            "priorityClasses": {"enabled": False},
            "executor": {"name": "docker", "builderImage": "cloudify-builder@sha256:" + "a" * 64},
            "api": {"pdb": None},
        },
    ),
    "more settings": merged(
        FIVE_VALUES,
        {
            "settings": {"CLOUDIFY_LOG_LEVEL": "debug", "CLOUDIFY_BUILD_OUTPUT_MB": 1000000},
            "limits": {"stageTimeoutSeconds": 600},
            "workers": {"defaults": {"drainSeconds": 660, "cacheMb": 2000000}},
            "caBundle": {"existingConfigMap": "certificates"},
            "objectStore": {"endpoint": "http://minio.storage.svc:9000"},
        },
    ),
}


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
@pytest.mark.parametrize("version", ["1.29", "1.35"])
def test_everything_fits_the_schemas_of_kubernetes(values: Values, version: str) -> None:
    resources = render(values)
    for resource in resources:
        validate(resource, version)
    identities = [
        (resource["kind"], resource["metadata"].get("namespace"), resource["metadata"]["name"])
        for resource in resources
    ]
    assert len(identities) == len(set(identities))


def test_every_kind_of_an_operator_is_rendered_and_has_its_schema() -> None:
    rendered = {resource["kind"] for values in MATRIX.values() for resource in render(values)}
    known = {path.stem for path in CUSTOM.glob("*.json")}
    assert known - rendered == set()


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_lint_has_nothing_to_say(values: Values) -> None:
    report = helm_python.lint(CHART, dict(values), strict=True, namespace="cloudify-system")
    complaints = [message for message in report["messages"] if message["error"] != "icon is recommended"]
    assert (complaints, report["errors"]) == ([], [])


def test_names_fit_however_long_the_release_s_is() -> None:
    resources = render(FIVE_VALUES, name="a" * 53, namespace="n" * 63)
    for resource in resources:
        name = resource["metadata"]["name"]
        longest = 253 if resource["kind"] == "PriorityClass" else 63
        assert len(name) <= longest, name
        assert not name.endswith("-")
        for label in resource["metadata"].get("labels", {}).values():
            assert len(label) <= 63


def test_selectors_meet_the_pods_they_are_for() -> None:
    resources = render(evaluation_values())
    pods = [
        resource["spec"]["template"]["metadata"]["labels"]
        for resource in resources
        if resource["kind"] in ("Deployment", "StatefulSet")
    ]
    for kind in ("Service", "PodDisruptionBudget"):
        for name, resource in of_kind(resources, kind).items():
            selector = resource["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            assert len([pod for pod in pods if wanted.items() <= pod.items()]) == 1, name


def test_a_pool_is_the_defaults_with_its_own_values() -> None:
    values = merged(
        FIVE_VALUES,
        {
            "workers": {
                "defaults": {"replicas": 2, "resources": {"limits": {"memory": "3Gi"}}},
                "pools": {"build": {"replicas": 5, "threads": 1}},
            }
        },
    )
    workers = of_kind(render(values), "Deployment")
    build, clone = workers["cloudify-worker-build"]["spec"], workers["cloudify-worker-clone"]["spec"]
    assert (build["replicas"], clone["replicas"]) == (5, 2)
    [container] = build["template"]["spec"]["containers"]
    assert container["args"] == ["cloudify", "worker", "build", "--threads", "1"]
    assert container["resources"]["limits"] == {"memory": "3Gi", "ephemeral-storage": "16Gi"}


def test_the_replicas_belong_to_the_autoscaler_where_there_is_one() -> None:
    for values, kind in ((MATRIX["KEDA"], "ScaledObject"), (MATRIX["HPA"], "HorizontalPodAutoscaler")):
        resources = render(values)
        scaled = [scaler["spec"]["scaleTargetRef"]["name"] for scaler in of_kind(resources, kind).values()]
        assert scaled
        for name, deployment in of_kind(resources, "Deployment").items():
            assert ("replicas" in deployment["spec"]) == (name not in scaled)


def test_keda_reads_the_jobs_that_wait_and_run() -> None:
    scaler = of_kind(render(MATRIX["KEDA"]), "ScaledObject")["cloudify-worker-preview-cleanup"]
    [trigger] = scaler["spec"]["triggers"]
    where = '{namespace="cloudify-system",queue="preview-cleanup"}'
    assert trigger["metadata"]["query"] == f"max(cloudify_queue_depth{where}) + max(cloudify_queue_inflight{where})"
    assert scaler["spec"]["minReplicaCount"] == 0


def _endpoint_policy(endpoint: str) -> Resource:
    resources = render(merged(FIVE_VALUES, {"objectStore": {"endpoint": endpoint}}))
    return of_kind(resources, "NetworkPolicy")["object-store"]["spec"]["egress"][0]


@pytest.mark.parametrize(
    ("endpoint", "port", "peers"),
    [
        (
            "http://minio.storage.svc:9000",
            9000,
            [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "storage"}}}],
        ),
        ("https://10.1.2.3", 443, [{"ipBlock": {"cidr": "10.1.2.3/32"}}]),
        ("http://10.1.2.3", 80, [{"ipBlock": {"cidr": "10.1.2.3/32"}}]),
    ],
)
def test_builds_reach_the_object_store_alone(endpoint: str, port: int, peers: list[Any]) -> None:
    policy = _endpoint_policy(endpoint)
    assert (policy["ports"], policy["to"]) == ([{"protocol": "TCP", "port": port}], peers)


def test_builds_reach_no_private_address_where_the_object_store_is_unknown() -> None:
    policy = _endpoint_policy("https://s3.example.com")
    assert policy["ports"] == [{"protocol": "TCP", "port": 443}]
    assert "10.0.0.0/8" in policy["to"][0]["ipBlock"]["except"]
    assert "169.254.0.0/16" in policy["to"][0]["ipBlock"]["except"]


def test_other_images_have_the_registry_and_tag_of_the_platform_s() -> None:
    worker = "Deployment/cloudify-worker-build"
    assert variables(render(FIVE_VALUES), worker)["CLOUDIFY_BUILDER_IMAGE"] == (
        "registry.example:5000/cloudify-builder:0.1.0"
    )
    evaluation = dict(pod_specs(render(evaluation_values())))["StatefulSet/cloudify-stores"]
    assert evaluation["containers"][0]["image"] == "cloudify-evaluation:0.1.0"
    named = render(merged(FIVE_VALUES, {"executor": {"builderImage": "builder:2"}}))
    assert variables(named, worker)["CLOUDIFY_BUILDER_IMAGE"] == "builder:2"


@pytest.mark.parametrize("change", [{"spec": {"replicaz": 1}}, {"spec": {"replicas": "1"}}, {"speck": {}}])
@pytest.mark.parametrize("kind", ["Deployment", "PodMonitor"])
def test_a_mistake_is_found(change: Values, kind: str) -> None:
    resource = next(iter(of_kind(render(MATRIX["monitoring"]), kind).values()))
    validate(resource, "1.35")
    with pytest.raises(jsonschema.ValidationError):
        validate(merged(resource, change), "1.35")


def test_pods_of_builds_and_sites_pull_with_the_secrets_of_the_platform_s_image() -> None:
    values = merged(FIVE_VALUES, {"imagePullSecrets": [{"name": "a"}, {"name": "b"}]})
    for workload in ("Deployment/cloudify-worker-deploy", "Deployment/cloudify-reconciler"):
        assert variables(render(values), workload)["CLOUDIFY_SITES_PULL_SECRETS"] == "a,b"
        assert "CLOUDIFY_SITES_PULL_SECRETS" not in variables(render(FIVE_VALUES), workload)
    build = "Deployment/cloudify-worker-build"
    assert variables(render(values), build)["CLOUDIFY_KUBERNETES_PULL_SECRETS"] == "a,b"
    assert "CLOUDIFY_KUBERNETES_PULL_SECRETS" not in variables(render(FIVE_VALUES), build)
