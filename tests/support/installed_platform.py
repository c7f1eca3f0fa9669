"""The platform as its operator installs it on Kubernetes: the chart, with the real engine of Helm, on a real cluster.

It is reached by the addresses of its Services. A cluster of tests may have no way out: this machine serves the
repositories, and the HTTP proxy through which the egress gateway reaches the package registries.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import helm_python
import httpx
import httpx_sse
import pytest

from tests.support.cluster_images import ClusterImages
from tests.support.git_server import GitServer, serving
from tests.support.helm_chart import CHART, Values, merged, values_of
from tests.support.kubernetes_cluster import CPU_REQUEST_PERCENT, missing_cluster, own_address, request
from tests.support.repositories import commit, make_repository
from tests.support.running_platform import DOWNLOAD_TIMEOUT_SECONDS, FINISHED, TIMEOUT_SECONDS, wait_for
from workers.egress.policy import EgressPolicy
from workers.egress.proxy import EgressProxy
from workers.executors.kubernetes.cluster import Cluster, ClusterError

# Kinds with a namespace, and the paths of their APIs, of which an uninstall may leave none behind.
_KINDS = {
    "api/v1": ("configmaps", "persistentvolumeclaims", "pods", "secrets", "serviceaccounts", "services"),
    "apis/apps/v1": ("deployments", "replicasets", "statefulsets"),
    "apis/autoscaling/v2": ("horizontalpodautoscalers",),
    "apis/batch/v1": ("cronjobs", "jobs"),
    "apis/networking.k8s.io/v1": ("ingresses", "networkpolicies"),
    "apis/policy/v1": ("poddisruptionbudgets",),
    "apis/rbac.authorization.k8s.io/v1": ("rolebindings", "roles"),
}
# What every namespace has, made by the cluster itself.
_OF_THE_CLUSTER = {"configmaps/kube-root-ca.crt", "serviceaccounts/default"}
_INSTALL_SECONDS = 600
_INTERRUPTIONS = """
SELECT coalesce(stage_runs.error_message, '') FROM stage_runs JOIN deployments ON deployments.id = deployment_id
WHERE host = %s AND stage_runs.status = 'retrying'
"""
DOMAIN = "sites.example"
# One machine runs all of it at once.
_SMALL: Values = {
    part: {"resources": {"requests": {"cpu": "10m", "memory": "96Mi"}, "limits": {"memory": "1Gi"}}}
    for part in ("api", "reconciler", "exporter", "router", "egress", "evaluation")
}


@dataclass(frozen=True)
class Surroundings:
    """What is around installations. `host`: this machine's address for the cluster's pods.

    `repositories` are served by `git`, whose address `git_gate` answers 404 until `gate` is set.
    """

    kubeconfig: Path
    images: ClusterImages
    host: str
    proxy_port: int
    git: GitServer
    repositories: Path
    gate: threading.Event

    @property
    def git_gate(self) -> str:
        return self.git.url("gate")


@contextlib.contextmanager
def surroundings(kubeconfig: Path, images: ClusterImages, repositories: Path) -> Generator[Surroundings]:
    with contextlib.closing(Cluster.connect("default", kubeconfig)) as cluster:
        host = own_address(cluster)
    gate = threading.Event()

    def answer(_method: str, path: str, _headers: object, _body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        if path != "/gate":
            return None
        return (200 if gate.is_set() else 404), {}, b""

    listener = socket.create_server((host, 0))
    port = listener.getsockname()[1]
    proxy = EgressProxy(listener, EgressPolicy((), ()))
    with contextlib.closing(proxy), serving(repositories, host=host) as git:
        git.respond = answer
        yield Surroundings(kubeconfig, images, host, port, git, repositories, gate)


@pytest.fixture(scope="session")
def cluster_surroundings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Surroundings]:
    """Skips without a cluster, and says why."""
    obstacle = missing_cluster()
    if obstacle is not None:
        pytest.skip(obstacle)
    images: ClusterImages = request.getfixturevalue("cluster_images")
    directory = tmp_path_factory.mktemp("repositories")
    with surroundings(Path(os.environ["KUBECONFIG"]), images, directory) as around:
        yield around


@dataclass
class Installation:
    """A release of the chart, with namespaces of its own."""

    around: Surroundings
    release: str = "cloudify"
    namespace: str = field(default_factory=lambda: f"system-{secrets.token_hex(4)}")

    def __post_init__(self) -> None:
        self.config = helm_python.Config(kubeconfig_path=self.around.kubeconfig, namespace=self.namespace)
        self.cluster = Cluster.connect(self.namespace, self.around.kubeconfig)
        self.http = httpx.Client(timeout=60, trust_env=False)
        self.api = httpx.Client(timeout=60, trust_env=False)

    def close(self) -> None:
        """Deletes what is left of it."""
        with contextlib.suppress(helm_python.HelmError):
            self.uninstall()
        for name in self.namespaces:
            with contextlib.suppress(ClusterError):
                request(self.cluster, "DELETE", f"/api/v1/namespaces/{name}")
        self.disconnect()

    def disconnect(self) -> None:
        for each in (self.http, self.api, self.config, self.cluster):
            each.close()

    # The release

    @property
    def builds(self) -> str:
        return f"builds-{self.namespace[-8:]}"

    @property
    def sites(self) -> str:
        return f"sites-{self.namespace[-8:]}"

    @property
    def namespaces(self) -> tuple[str, str, str]:
        return self.namespace, self.builds, self.sites

    def name(self, component: str) -> str:
        """Of a component's objects, as the chart shortens it."""
        name = self.release[:40] if "cloudify" in self.release else f"{self.release[:31].rstrip('-')}-cloudify"
        return f"{name}-{component}"

    def values(self, *changes: Values) -> dict[str, Any]:
        platform, builder, evaluation = self.around.images
        host = f"{self.around.host}/32"
        own: Values = {
            "domain": DOMAIN,
            "image": platform,
            "executor": {"builderImage": builder, "userNamespaces": False},
            "imagePullPolicy": "Never",
            "evaluation": {"image": evaluation, "password": "p" * 24},
            "namespaces": {"builds": {"name": self.builds}, "sites": {"name": self.sites}},
            "workers": {"defaults": {"resources": {"requests": {"cpu": "10m", "memory": "96Mi"}}}},
            # Clones reach this machine's git server, and installs the registries through its proxy.
            "settings": {
                "CLOUDIFY_EGRESS_ALLOWED_NETWORKS": host,
                "CLOUDIFY_EGRESS_PROXY": f"http://{self.around.host}:{self.around.proxy_port}",
                "CLOUDIFY_KUBERNETES_CPU_REQUEST_PERCENT": CPU_REQUEST_PERCENT,
                "CLOUDIFY_LARGEST_BUILD_CPUS": 1,
                "CLOUDIFY_LARGEST_BUILD_MEMORY_MB": 1024,
            },
            # The tests come from outside of the cluster, whose DNS may be a process of the node.
            "networkPolicy": {"dnsPeers": [], "ingressFrom": [{"namespaceSelector": {}}, {"ipBlock": {"cidr": host}}]},
        }
        return merged(values_of("values-evaluation.yaml"), _SMALL, own, *changes)

    def make_namespace(self) -> None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}}
        request(self.cluster, "POST", "/api/v1/namespaces", body)

    def install(self, *changes: Values) -> None:
        self.config.install(
            CHART, self.release, self.values(*changes), namespace=self.namespace, wait="watcher",
            timeout=_INSTALL_SECONDS,
        )  # fmt: skip

    def upgrade(self, *changes: Values, waits: bool = True) -> None:
        self.config.upgrade(
            CHART, self.release, self.values(*changes), namespace=self.namespace,
            wait="watcher" if waits else "hookOnly", timeout=_INSTALL_SECONDS,
        )  # fmt: skip

    def uninstall(self) -> None:
        self.config.uninstall(self.release, wait="watcher", timeout=_INSTALL_SECONDS)

    def left(self) -> list[str]:
        """What is in the namespaces, and of the release outside of them, as `namespace: kind/name`."""
        found: list[str] = []
        own = {f"{namespace}: {name}" for namespace in self.namespaces for name in _OF_THE_CLUSTER}
        for namespace in self.namespaces:
            for group, kinds in _KINDS.items():
                for kind in kinds:
                    names = self._names(f"/{group}/namespaces/{namespace}/{kind}")
                    found += [
                        f"{namespace}: {kind}/{name}" for name in names if f"{kind}/{name}" not in _OF_THE_CLUSTER
                    ]
        for path in ("/apis/scheduling.k8s.io/v1/priorityclasses", "/api/v1/namespaces"):
            kind = path.rpartition("/")[2]
            found += [f"{kind}/{name}" for name in self._names(path) if self._is_ours(name)]
        return sorted(set(found) - own)

    def _is_ours(self, name: str) -> bool:
        return name in (self.builds, self.sites) or f"-{self.namespace}-" in name

    def _names(self, path: str) -> list[str]:
        return [item["metadata"]["name"] for item in request(self.cluster, "GET", path)["items"]]

    # What runs

    def pods(self, component: str) -> list[dict[str, Any]]:
        selector = f"app.kubernetes.io/instance={self.release},app.kubernetes.io/component={component}"
        path = f"/api/v1/namespaces/{self.namespace}/pods?{urlencode({'labelSelector': selector})}"
        return request(self.cluster, "GET", path)["items"]

    def build_pods(self) -> list[dict[str, Any]]:
        return request(self.cluster, "GET", f"/api/v1/namespaces/{self.builds}/pods")["items"]

    def site_pods(self) -> list[dict[str, Any]]:
        return request(self.cluster, "GET", f"/api/v1/namespaces/{self.sites}/pods")["items"]

    def delete_pod(self, name: str, *, grace_seconds: int | None = None) -> None:
        query = "" if grace_seconds is None else f"?gracePeriodSeconds={grace_seconds}"
        request(self.cluster, "DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{name}{query}")

    def scale(self, component: str, replicas: int) -> None:
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.name(component)}/scale"
        scale = request(self.cluster, "GET", path)
        scale["spec"]["replicas"] = replicas
        request(self.cluster, "PUT", path, scale)

    def run(self, component: str, *command: str, stdin: str = "") -> str:
        """Runs a command in a pod of the component; returns its stdout."""
        from kubernetes.client import CoreV1Api
        from kubernetes.stream import stream

        [pod, *_] = [pod for pod in self.pods(component) if pod["status"]["phase"] == "Running"]
        client = CoreV1Api(self.cluster._client)  # pyright: ignore[reportPrivateUsage]
        connection = stream(
            client.connect_get_namespaced_pod_exec, pod["metadata"]["name"], self.namespace, command=list(command),
            stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False,
        )  # fmt: skip
        try:
            connection.write_stdin(stdin)
            connection.run_forever(timeout=TIMEOUT_SECONDS)
            assert connection.returncode == 0, connection.read_stderr()
            return str(connection.read_stdout())
        finally:
            connection.close()

    def interruptions(self, site: str) -> list[str]:
        """Why stages of the site's deployments were run again, from the database of the evaluation."""
        program = f"""
import json, psycopg
password = open("/run/cloudify/stores/password").read().strip()
with psycopg.connect(f"postgresql://cloudify:{{password}}@127.0.0.1:5432/cloudify") as connection:
    print(json.dumps([message for message, in connection.execute({_INTERRUPTIONS!r}, [{site!r}])]))
"""
        return json.loads(self.run("stores", "python", "-c", program))

    # What a user does

    def address(self, component: str) -> str:
        """URL of the component's Service, by the cluster's own address."""
        path = f"/api/v1/namespaces/{self.namespace}/services/{self.name(component)}"
        return f"http://{request(self.cluster, 'GET', path)['spec']['clusterIP']}"

    def make_owner(self) -> None:
        said = self.run(
            "api", "cloudify", "admin", "create-owner", "owner@example.com", stdin=f"{secrets.token_urlsafe(20)}\n"
        )
        self.api.base_url = self.address("api")
        self.api.headers.update({"Host": f"api.{DOMAIN}", "Authorization": f"Bearer {said.split()[-1]}"})

    def call(self, method: str, path: str, body: Any = None) -> Any:
        response = self.api.request(method, path, json=body)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json().get("data") if response.content else None

    def create_project(self, name: str, site: Mapping[str, str] | str, **settings: Any) -> str:
        """With a repository of this name, in which the site is committed."""
        make_repository(self.around.repositories / self.namespace / name, site)
        url = self.around.git.url(f"{self.namespace}/{name}")
        return str(self.call("POST", "/api/projects", {"name": name, "repositoryUrl": url, **settings})["id"])

    def commit(self, name: str, site: Mapping[str, str]) -> None:
        commit(self.around.repositories / self.namespace / name, site)

    def create_deployment(self, project: str, **body: Any) -> str:
        return str(self.call("POST", "/api/deployments", {"projectId": project, **body})["id"])

    def deployment(self, identity: str) -> dict[str, Any]:
        return self.call("GET", f"/api/deployments/{identity}")

    def finish(self, identity: str, *, seconds: float = DOWNLOAD_TIMEOUT_SECONDS) -> dict[str, Any]:
        """The deployment when it has ended. The API may be away for a while."""

        def ended() -> dict[str, Any] | None:
            with contextlib.suppress(httpx.HTTPError, AssertionError):
                found = self.deployment(identity)
                return found if found["status"] in FINISHED else None
            return None

        found = wait_for(ended, seconds=seconds, what=f"{identity} has ended", every=0.5)
        assert found is not None
        return found

    def log_text(self, identity: str) -> str:
        lines: list[str] = []
        after = 0
        while page := self.call("GET", f"/api/deployments/{identity}/logs?after={after}&limit=1000"):
            lines += [line["text"] for line in page]
            after = page[-1]["seq"]
        return "\n".join(lines)

    def follow(self, identity: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Kind and content of each event of the deployment's log stream, until it ends."""
        path = f"/api/deployments/{identity}/logs/stream"
        with httpx_sse.connect_sse(self.api, "GET", path) as source:
            assert source.response.status_code == 200, source.response.read()
            for event in source.iter_sse():
                yield event.event, event.json() if event.data else {}

    def wait_for_line(self, identity: str, text: str) -> None:
        """Returns while the command that printed it still runs. Asks again: the API may be away for a while."""

        def is_there() -> bool:
            with contextlib.suppress(httpx.HTTPError, AssertionError):
                return text in self.log_text(identity)
            return False

        wait_for(is_there, seconds=DOWNLOAD_TIMEOUT_SECONDS, what=f"the log says {text}", every=0.5)

    def get_site(self, name: str, path: str = "/") -> httpx.Response:
        return self.http.get(f"{self.address('router')}{path}", headers={"Host": f"{name}.{DOMAIN}"})
