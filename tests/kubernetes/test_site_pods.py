"""Sites with pods of their own, in a real cluster: releases, isolation, quota, and what is left behind."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.db.database import Database
from shared.errors import PlatformError
from shared.releases.site_pod_repository import SitePodRepository
from shared.routing.bell import RouteBell
from shared.routing.log import RouteLog
from shared.settings import ObjectStoreSettings, SitePodSettings, load_settings
from shared.storage.object_store import S3ArtifactStore
from tests.support.docker_engine import SECONDS
from tests.support.kubernetes_cluster import request
from tests.support.repositories import commit, make_repository
from tests.support.router_fleet import stored_artifact
from tests.support.running_platform import Platform, wait_for
from tests.support.sites_namespace import ROUTER_LABELS, SitesNamespace, platform_with_pods
from workers.artifacts.reader import ArtifactReader
from workers.site_pods.manifests import SitePodSpec
from workers.site_pods.objects import SiteObjects
from workers.site_pods.site_pods import SitePods
from workers.site_pods.upkeep import SitePodUpkeep

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(SECONDS)]

QUOTA = "/api/v1:resourcequotas"
STATIC = {"index.html": "<h1>one</h1>", "about.html": "about", "404.html": "nothing here"}


@pytest.fixture(scope="module")
def platform(
    site_namespace: SitesNamespace,
    module_object_store_settings: ObjectStoreSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("platform") / "home"
    settings = {"LEASE_SECONDS": "8", "RECONCILE_SECONDS": "1", "SITES_QUOTA_WAIT_SECONDS": "15"}
    with platform_with_pods(home, site_namespace, module_object_store_settings, **settings) as platform:
        yield platform


@pytest.fixture(autouse=True)
def _account(platform: Platform) -> Iterator[None]:
    with platform.new_account():
        yield


class Site:
    """A project with a repository of its own."""

    def __init__(self, platform: Platform, folder: Path, name: str, **settings: Any) -> None:
        self.platform = platform
        self.folder = folder / name
        self.name = name
        url = make_repository(self.folder, STATIC)
        self.project = platform.create_project(name, url, runtime="pods", **settings)

    def begin(self, content: str) -> str:
        commit(self.folder, {"index.html": content})
        return self.platform.create_deployment(self.project["id"])["id"]

    def deploy(self, content: str) -> str:
        found = self.platform.finish(self.begin(content))
        assert found["status"] == "ready", (found["error"], self.platform.log_text(found["id"]))
        return found["id"]

    def text(self) -> str:
        return self.platform.get_site(self.name).text

    def rollback(self, deployment_id: str) -> None:
        self.platform.call("POST", f"/api/deployments/{deployment_id}/rollback", status=202)
        wait_for(lambda: self.platform.deployment(deployment_id)["isActive"], what="the rollback is done")


@pytest.fixture
def make_site(platform: Platform, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(name: str, **settings: Any) -> Site:
        made.append(Site(platform, tmp_path, name, **settings))
        return made[-1]

    yield make
    # So that the quota of the namespace is never used up by tests that are over.
    for site in made:
        platform.call("DELETE", f"/api/projects/{site.project['id']}", status=(202, 404))


def test_a_release_a_rollback_and_the_end(
    platform: Platform,
    site_namespace: SitesNamespace,
    make_site: Callable[..., Site],
) -> None:
    site = make_site("pods-life", replicas=2)
    first = site.deploy("<h1>one</h1>")
    assert site.text() == "<h1>one</h1>"
    assert platform.get_site(site.name, "/about").text == "about"
    missing = platform.get_site(site.name, "/missing")
    assert (missing.status_code, missing.text) == (404, "nothing here")
    log = platform.log_text(first)
    assert "Starting 2 pods for the site." in log
    assert len(site_namespace.pods(first)) == 2
    assert len(site_namespace.objects(first)["poddisruptionbudgets"]) == 1

    second = site.deploy("<h1>two</h1>")
    assert site.text() == "<h1>two</h1>"
    # The former production deployment's pods stay, and a rollback to it starts none.
    before = {pod["metadata"]["uid"] for pod in site_namespace.pods(first)}
    assert len(before) == 2
    site.rollback(first)
    assert site.text() == "<h1>one</h1>"
    assert {pod["metadata"]["uid"] for pod in site_namespace.pods(first)} == before

    platform.call("DELETE", f"/api/projects/{site.project['id']}", status=202)
    wait_for(lambda: not site_namespace.pods(first) and not site_namespace.pods(second), what="the pods are removed")
    wait_for(lambda: platform.get_site(site.name).status_code == 404, what="the site is removed")
    for deployment in (first, second):
        wait_for(lambda: not any(site_namespace.objects(deployment).values()), what="nothing of it is left")  # noqa: B023 - called at once


@contextlib.contextmanager
def quota_of_pods(site_namespace: SitesNamespace, pods: int) -> Generator[None]:
    """The namespace has room for so many pods only, those that are there counted."""
    quota = {"metadata": {"name": "full"}, "spec": {"hard": {"pods": str(pods)}}}
    site_namespace.request("POST", QUOTA, {"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    path = f"{QUOTA}/full"
    # It is enforced from the moment at which the present pods are counted.
    wait_for(lambda: site_namespace.request("GET", path).get("status", {}).get("used"), what="the quota is counted")
    try:
        yield
    finally:
        site_namespace.request("DELETE", path)


def test_a_rollback_to_a_deployment_without_pods_starts_them(
    site_namespace: SitesNamespace, make_site: Callable[..., Site]
) -> None:
    site = make_site("pods-again")
    first = site.deploy("one")
    second, third = site.deploy("two"), site.deploy("three")
    wait_for(lambda: not site_namespace.pods(first), what="the pods of all but the last former one are removed")
    assert len(site_namespace.pods(second)) == len(site_namespace.pods(third)) == 1
    site.rollback(first)
    assert site.text() == "one"
    assert len(site_namespace.pods(first)) == 1


def test_what_is_deleted_by_hand_is_made_again(
    platform: Platform, site_namespace: SitesNamespace, make_site: Callable[..., Site]
) -> None:
    site = make_site("pods-by-hand")
    deployment = site.deploy("one")
    [pod] = site_namespace.pods(deployment)
    name = pod["metadata"]["labels"]["cloudify.io/site"]
    site_namespace.request("DELETE", f"/api/v1:services/{name}")
    site_namespace.request("DELETE", f"/apis/apps/v1:deployments/{name}")
    wait_for(
        lambda: name in site_namespace.objects()["deployments"] and name in site_namespace.objects()["services"],
        what="the objects are made again",
    )
    # At another address, which the routers are told.
    wait_for(lambda: platform.get_site(site.name).status_code == 200, what="the site is served again")
    assert site.text() == "one"
    # What nobody serves is removed.
    stray = site_namespace.request("GET", f"/api/v1:services/{name}")
    stray = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "site-stray", "labels": stray["metadata"]["labels"]},
        "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]},
    }
    site_namespace.request("POST", "/api/v1:services", stray)
    wait_for(lambda: "site-stray" not in site_namespace.objects()["services"], what="the stray Service is removed")
    assert name in site_namespace.objects()["services"]


def test_a_used_up_quota_fails_the_deployment_and_leaves_the_former_one(
    platform: Platform, site_namespace: SitesNamespace, make_site: Callable[..., Site]
) -> None:
    site = make_site("pods-full")
    first = site.deploy("one")
    with quota_of_pods(site_namespace, 0):
        failed = platform.finish(site.begin("two"))
        assert (failed["status"], failed["error"]["code"]) == ("failed", "SITE_QUOTA_EXCEEDED")
        log = platform.log_text(failed["id"])
        assert "Waiting for room in the cluster's quota of sites" in log
        assert "exceeded quota: full" in log
        assert site.text() == "one"
    wait_for(
        lambda: not any(site_namespace.objects(failed["id"]).values()), what="the failed one's objects are removed"
    )
    assert site.text() == "one"
    assert len(site_namespace.pods(first)) == 1


def test_another_worker_continues_to_wait_for_the_quota(
    platform: Platform, site_namespace: SitesNamespace, make_site: Callable[..., Site]
) -> None:
    site = make_site("pods-adopted")
    with quota_of_pods(site_namespace, 0):
        deployment = site.begin("one")
        wait_for(lambda: "Waiting for room" in platform.log_text(deployment), what="the worker waits")
        platform.kill("worker-deploy")
    assert platform.finish(deployment)["status"] == "ready"
    assert site.text() == "one"
    assert len(site_namespace.objects(deployment)["deployments"]) == len(site_namespace.pods(deployment)) == 1


def test_a_cancelled_deployment_leaves_nothing(
    platform: Platform, site_namespace: SitesNamespace, make_site: Callable[..., Site]
) -> None:
    site = make_site("pods-cancelled")
    with quota_of_pods(site_namespace, 0):
        deployment = site.begin("one")
        wait_for(lambda: "Waiting for room" in platform.log_text(deployment), what="the worker waits")
        platform.call("POST", f"/api/deployments/{deployment}/cancel", status=(200, 202))
        assert platform.finish(deployment)["status"] == "cancelled"
    wait_for(lambda: not any(site_namespace.objects(deployment).values()), what="nothing of it is left")


# argv: `open` or `closed`, and addresses as HOST:PORT. The container's last words are those that can be reached. The
# cluster's network learns of a new pod a moment after its start, so each address gets time to be as expected.
PROBE = """
import socket, sys, time

def is_reached(host, port):
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        return False
    return True

deadline = time.monotonic() + 60
with open("/dev/termination-log", "w") as words:
    for target in sys.argv[2:]:
        host, _, port = target.rpartition(":")
        while (found := is_reached(host, port)) != (sys.argv[1] == "open") and time.monotonic() < deadline:
            time.sleep(0.5)
        if found:
            words.write(target + " ")
"""


def reached(
    site_namespace: SitesNamespace,
    namespace: str,
    labels: dict[str, str],
    targets: list[str],
    *,
    expected: str = "closed",
) -> list[str]:
    """Which of the addresses a pod with these labels can connect to."""
    name = f"probe-{secrets.token_hex(4)}"
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    resources = {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "16Mi"}
    container = {
        "name": "probe",
        "image": site_namespace.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", PROBE, expected, *targets],
        "securityContext": security,
        "resources": {"requests": resources, "limits": resources},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }  # fmt: skip
    cluster = site_namespace.cluster
    request(cluster, "POST", f"/api/v1/namespaces/{namespace}/pods", pod)

    def ended() -> dict[str, Any] | None:
        found = request(cluster, "GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        statuses = found["status"].get("containerStatuses") or [{}]
        return statuses[0].get("state", {}).get("terminated")

    state = wait_for(ended, what="the probe has ended") or {}
    request(cluster, "DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}")
    assert state["exitCode"] == 0, state
    return str(state.get("message", "")).split()


def test_no_site_reaches_another_one_or_anything_else(
    site_namespace: SitesNamespace, make_site: Callable[..., Site]
) -> None:
    victim, attacker = make_site("pods-victim"), make_site("pods-attacker")
    [pod] = site_namespace.pods(victim.deploy("secret"))
    [own] = site_namespace.pods(attacker.deploy("attacker"))
    service = site_namespace.request("GET", f"/api/v1:services/{pod['metadata']['labels']['cloudify.io/site']}")
    api_server = request(site_namespace.cluster, "GET", "/api/v1/namespaces/default/services/kubernetes")
    sites = [f"{pod['status']['podIP']}:8080", f"{service['spec']['clusterIP']}:8080"]
    others = [
        f"{api_server['spec']['clusterIP']}:443",
        f"{site_namespace.host}:22",
        "1.1.1.1:443",
        "169.254.169.254:80",
    ]
    # As a site that was broken into: with all labels of one but that by which its controller would take it for its own.
    labels = {name: value for name, value in own["metadata"]["labels"].items() if name != "pod-template-hash"}
    assert reached(site_namespace, site_namespace.name, labels, [*sites, *others]) == []
    assert reached(site_namespace, site_namespace.name, {"app": "stranger"}, [*sites, *others]) == []
    # The chart's routers do, and nobody else of their namespace.
    router = {**ROUTER_LABELS, "app.kubernetes.io/component": "router"}
    with site_namespace.system_namespace() as system:
        assert reached(site_namespace, system, router, sites, expected="open") == sites
        assert reached(site_namespace, system, {**router, "app.kubernetes.io/component": "worker-build"}, sites) == []


@contextlib.contextmanager
def without_reconciler(platform: Platform) -> Generator[None]:
    reconciler = psutil.Process(platform.pid("reconciler"))
    reconciler.suspend()
    try:
        yield
    finally:
        reconciler.resume()


def test_a_missing_image_is_the_platforms_failure(
    platform: Platform,
    site_namespace: SitesNamespace,
    database: Database,
    module_object_store_settings: ObjectStoreSettings,
    tmp_path: Path,
) -> None:
    store = S3ArtifactStore(module_object_store_settings)
    artifact = stored_artifact(store, f"depl_{secrets.token_hex(13)}", {"index.html": b"one"})
    settings = SitePodSettings(
        namespace=site_namespace.name, image="127.0.0.1:1/cloudify:1", api_url="http://127.0.0.1:1"
    )
    objects = SiteObjects(site_namespace.cluster)
    pods = SitePods(
        objects, SitePodRepository(database), ArtifactReader(store, tmp_path), settings, secret_key=b"k" * 32
    )
    said: list[str] = []
    spec = SitePodSpec(artifact, "proj_tests", 1)
    # Of a deployment that the platform's reconciler doesn't know.
    with without_reconciler(platform):
        try:
            with pytest.raises(PlatformError, match="image"):
                pods.stand_up(spec, say=said.append, is_stopped=lambda: False)
        finally:
            objects.remove(spec.name)
    assert "The platform's image for the site's pods can't be used" in said[-1]


def test_pods_of_another_image_are_replaced_while_the_site_is_served(
    platform: Platform, site_namespace: SitesNamespace, make_site: Callable[..., Site], tmp_path: Path
) -> None:
    site = make_site("pods-renewed")
    deployment = site.deploy("one")
    [former] = site_namespace.pods(deployment)
    with contextlib.ExitStack() as stack:
        # It would set the former image again.
        stack.enter_context(without_reconciler(platform))
        database = stack.enter_context(platform.database())
        upkeep = upkeep_of_another_version(platform, site_namespace, database, tmp_path)

        def is_renewed() -> bool:
            upkeep.run()
            answer = platform.get_site(site.name)
            assert (answer.status_code, answer.text) == (200, "one")
            return former["metadata"]["uid"] not in {pod["metadata"]["uid"] for pod in site_namespace.pods(deployment)}

        wait_for(is_renewed, what="the pods are replaced", every=1.0)
    assert site.text() == "one"


def upkeep_of_another_version(
    platform: Platform, site_namespace: SitesNamespace, database: Database, folder: Path
) -> SitePodUpkeep:
    """Its image is the same one by another name."""
    image = f"docker.io/library/{site_namespace.image}"
    settings = load_settings(platform.child_settings() | {"CLOUDIFY_SITES_IMAGE": image})
    objects, repository = SiteObjects(site_namespace.cluster), SitePodRepository(database)
    artifacts = ArtifactReader(S3ArtifactStore(settings.object_store), folder / "cache", may_repair=False)
    pods = SitePods(objects, repository, artifacts, settings.site_pods, secret_key=settings.secrets.secret_key)
    return SitePodUpkeep(
        objects,
        pods,
        repository,
        settings.site_pods,
        database=database,
        route_log=RouteLog(database),
        bell=RouteBell(platform.redis),
    )
