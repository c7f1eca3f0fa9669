"""A namespace of a real cluster for tests of builds in pods, and what they need in addition.

KUBECONFIG names the cluster, and KUBERNETES_LOAD the command that brings an image archive into it
(`COMMAND IMAGE.tar`), so that kind, k3d or any other does. The cluster's pods must reach this machine, where the
object store runs.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from shared.settings import ObjectStoreSettings
from tests.support.cluster_images import IMAGES, ClusterImages
from tests.support.ports import free_ports
from workers.egress.tunnel import Tunnel
from workers.executors.kubernetes.cluster import Cluster

# All suites share the processors of one small node, and what reserves them pushes others away.
CPU_REQUEST_PERCENT = 4


def missing_cluster() -> str | None:
    """Why no test can use a cluster; None when one can."""
    if not os.environ.get("KUBECONFIG"):
        return "no cluster: KUBECONFIG is not set"
    if not os.environ.get("KUBERNETES_LOAD") and not os.environ.get(IMAGES):
        return "no way to bring an image into the cluster: KUBERNETES_LOAD is not set"
    return None


@dataclass(frozen=True)
class BuildsNamespace:
    """`host`: this machine's address for the cluster's pods. `store`: the object store, linked by that address."""

    kubeconfig: Path
    name: str
    image: str
    host: str
    store: ObjectStoreSettings
    proxy_ports: tuple[int, ...]
    key: bytes

    def connect(self) -> Cluster:
        return Cluster.connect(self.name, self.kubeconfig)


@contextlib.contextmanager
def builds_namespace(
    store: ObjectStoreSettings, proxy_ports: tuple[int, ...], image: str
) -> Generator[BuildsNamespace]:
    """Makes the namespace with the network policies of builds, and deletes it."""
    kubeconfig = Path(os.environ["KUBECONFIG"])
    name = f"builds-{os.getpid()}"
    cluster = Cluster.connect(name, kubeconfig)
    host = own_address(cluster)
    with contextlib.closing(cluster), forwarded(host, urlsplit(store.endpoint).port or 80) as port:
        linked = ObjectStoreSettings(
            endpoint=store.endpoint,
            access_key=store.access_key,
            secret_key=store.secret_key,
            bucket=store.bucket,
            link_endpoint=f"http://{host}:{port}",
        )
        request(cluster, "POST", "/api/v1/namespaces", _namespace(name))
        try:
            for policy in network_policies(f"{host}/32", port, proxy_ports):
                request(cluster, "POST", f"/apis/networking.k8s.io/v1/namespaces/{name}/networkpolicies", policy)
            yield BuildsNamespace(kubeconfig, name, image, host, linked, proxy_ports, secrets.token_bytes(32))
        finally:
            request(cluster, "DELETE", f"/api/v1/namespaces/{name}")


def request(cluster: Cluster, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return cluster.call(method, path, body=body)


def left_in_cluster(namespace: BuildsNamespace | None) -> list[str]:
    """Names of Jobs, pods and Secrets in the namespace."""
    assert namespace is not None
    with contextlib.closing(namespace.connect()) as cluster:
        kinds = ("apis/batch/v1/{}/jobs", "api/v1/{}/pods", "api/v1/{}/secrets")
        paths = [f"/{kind.format(f'namespaces/{namespace.name}')}" for kind in kinds]
        return [item["metadata"]["name"] for path in paths for item in request(cluster, "GET", path)["items"]]


def network_policies(network: str, store_port: int, proxy_ports: tuple[int, ...]) -> list[dict[str, Any]]:
    """As the chart has them: nothing for all pods, the store for builds, and the proxy for those that may use it."""
    denied = {"metadata": {"name": "none"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}
    store = _egress("builds", {}, network, [store_port])
    proxy = _egress("filtered", {"cloudify.io/network": "filtered"}, network, [*proxy_ports])
    return [
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **policy} for policy in (denied, store, proxy)
    ]


def _egress(name: str, labels: Mapping[str, str], network: str, ports: list[int]) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "build", **labels}},
            "policyTypes": ["Egress"],
            "egress": [
                {"to": [{"ipBlock": {"cidr": network}}], "ports": [{"protocol": "TCP", "port": port} for port in ports]}
            ],
        },
    }


def _namespace(name: str) -> dict[str, Any]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def own_address(cluster: Cluster) -> str:
    """The address that this machine uses towards the cluster. Nothing is sent."""
    server = urlsplit(cluster._client.configuration.host)  # pyright: ignore[reportPrivateUsage]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((server.hostname, server.port or 443))
        return str(probe.getsockname()[0])


@contextlib.contextmanager
def forwarded(host: str, port: int) -> Generator[int]:
    """A port of `host` that leads to the same server as 127.0.0.1:`port`."""
    listener = socket.create_server((host, 0))

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
            Tunnel(client, server).run()

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def kubernetes(request: pytest.FixtureRequest) -> Iterator[BuildsNamespace]:
    """The session's namespace; skips without a cluster, and says why."""
    obstacle = missing_cluster()
    if obstacle is not None:
        pytest.skip(obstacle)
    server = request.getfixturevalue("object_store_server")
    settings = server.settings(bucket="kubernetes")
    from minio import Minio

    client = Minio(
        settings.endpoint.removeprefix("http://"), settings.access_key, settings.secret_key, secure=False,
        region=settings.region,
    )  # fmt: skip
    client.make_bucket(settings.bucket)
    images: ClusterImages = request.getfixturevalue("cluster_images")
    with builds_namespace(settings, tuple(free_ports(4)), images.builder) as namespace:
        yield namespace
