"""A namespace of sites in a real cluster, as the chart has it, and a platform on this machine that uses it.

Routers, API and object store are on this machine, outside of the cluster: one more policy than the chart's lets this
machine in, and the pods out to it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from shared.settings import ObjectStoreSettings
from tests.support.cluster_images import ClusterImages
from tests.support.helm_chart import FIVE_VALUES, merged, render
from tests.support.kubernetes_cluster import forwarded, missing_cluster, own_address, request
from tests.support.running_platform import Platform
from workers.executors.kubernetes.cluster import Cluster
from workers.site_pods.manifests import DEPLOYMENT_LABEL, SELECTOR

ROUTER_LABELS = {"app.kubernetes.io/name": "cloudify", "app.kubernetes.io/instance": "cloudify"}
_KINDS = {
    "Namespace": "/api/v1/namespaces",
    "ResourceQuota": "/api/v1/namespaces/{}/resourcequotas",
    "LimitRange": "/api/v1/namespaces/{}/limitranges",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
}


@dataclass(frozen=True)
class SitesNamespace:
    name: str
    image: str
    host: str
    kubeconfig: Path
    cluster: Cluster

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`path` below the namespace, as `/api/v1:pods/name`."""
        group, _, rest = path.partition(":")
        return request(self.cluster, method, f"{group}/namespaces/{self.name}/{rest}", body)

    def objects(self, deployment_id: str = "") -> dict[str, list[str]]:
        """Kind → names of the objects of one deployment or of all."""
        kinds = {
            "deployments": "/apis/apps/v1",
            "services": "/api/v1",
            "secrets": "/api/v1",
            "poddisruptionbudgets": "/apis/policy/v1",
        }
        return {
            kind: [item["metadata"]["name"] for item in self._items(group, kind, deployment_id)]
            for kind, group in kinds.items()
        }

    def pods(self, deployment_id: str = "") -> list[dict[str, Any]]:
        """As `objects`; those that are being deleted not counted."""
        pods = self._items("/api/v1", "pods", deployment_id)
        return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    @contextlib.contextmanager
    def system_namespace(self) -> Generator[str]:
        """A namespace in which the chart's policies believe the platform to be."""
        name = _system(self.name)
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        request(self.cluster, "POST", "/api/v1/namespaces", body)
        try:
            yield name
        finally:
            request(self.cluster, "DELETE", f"/api/v1/namespaces/{name}")

    def _items(self, group: str, kind: str, deployment_id: str) -> list[dict[str, Any]]:
        selector = f"{SELECTOR},{DEPLOYMENT_LABEL}={deployment_id}" if deployment_id else SELECTOR
        query = {"labelSelector": selector}
        return self.cluster.call("GET", f"{group}/namespaces/{self.name}/{kind}", query)["items"]


@contextlib.contextmanager
def sites_namespace(image: str) -> Generator[SitesNamespace]:
    """Makes the namespace with the chart's quota, limits and policies, and deletes it."""
    kubeconfig = Path(os.environ["KUBECONFIG"])
    name = f"sites-{os.getpid()}"
    with contextlib.closing(Cluster.connect(name, kubeconfig)) as cluster:
        host = own_address(cluster)
        for resource in _resources(name):
            request(cluster, "POST", _KINDS[resource["kind"]].format(name), resource)
        try:
            yield SitesNamespace(name, image, host, kubeconfig, cluster)
        finally:
            request(cluster, "DELETE", f"/api/v1/namespaces/{name}")


def _resources(name: str) -> list[dict[str, Any]]:
    """The namespace first."""
    values = merged(FIVE_VALUES, {"namespaces": {"sites": {"name": name}}})
    rendered = render(values, namespace=_system(name))
    namespace = [each for each in rendered if each["kind"] == "Namespace" and each["metadata"]["name"] == name]
    inside = [each for each in rendered if each["kind"] in _KINDS and each["metadata"].get("namespace") == name]
    return namespace + inside


def _system(name: str) -> str:
    return f"system-of-{name}"


def open_to_host(namespace: SitesNamespace, ports: list[int]) -> None:
    """Lets this machine's routers reach the pods, and the pods these ports of this machine."""
    peer = {"ipBlock": {"cidr": f"{namespace.host}/32"}}
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "this-machine"},
        "spec": {
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "site"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [peer], "ports": [{"protocol": "TCP", "port": 8080}]}],
            "egress": [{"to": [peer], "ports": [{"protocol": "TCP", "port": port} for port in ports]}],
        },
    }
    namespace.request("POST", "/apis/networking.k8s.io/v1:networkpolicies", policy)


@contextlib.contextmanager
def platform_with_pods(
    home: Path, namespace: SitesNamespace, store: ObjectStoreSettings, **settings: str
) -> Generator[Platform]:
    """A platform on this machine whose sites may have pods in the namespace."""
    with contextlib.ExitStack() as stack:
        store_port = stack.enter_context(forwarded(namespace.host, urlsplit(store.endpoint).port or 80))
        platform = Platform(
            home,
            S3_ENDPOINT=store.endpoint,
            S3_LINK_ENDPOINT=f"http://{namespace.host}:{store_port}",
            S3_ACCESS_KEY=store.access_key,
            S3_SECRET_KEY=store.secret_key,
            S3_BUCKET=store.bucket,
            KUBERNETES_CONFIG=str(namespace.kubeconfig),
            SITES_NAMESPACE=namespace.name,
            SITES_IMAGE=namespace.image,
            **settings,
        )
        api_port = stack.enter_context(forwarded(namespace.host, urlsplit(platform.api_url).port or 80))
        platform.environment["CLOUDIFY_SITES_API_URL"] = f"http://{namespace.host}:{api_port}"
        open_to_host(namespace, [store_port, api_port])
        stack.callback(platform.close)
        platform.start()
        yield platform


@pytest.fixture(scope="module")
def site_namespace(request: pytest.FixtureRequest) -> Iterator[SitesNamespace]:
    """The module's namespace; skips without a cluster, and says why."""
    obstacle = missing_cluster()
    if obstacle is not None:
        pytest.skip(obstacle)
    images: ClusterImages = request.getfixturevalue("cluster_images")
    with sites_namespace(images.platform) as namespace:
        yield namespace
