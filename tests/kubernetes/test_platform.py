"""The chart on a real cluster: a platform is installed, used, changed while it works, and removed."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

import helm_python
import pytest

from tests.support.docker_engine import SECONDS
from tests.support.installed_platform import Installation, Surroundings
from tests.support.running_platform import DOWNLOAD_TIMEOUT_SECONDS, wait_for
from tests.support.sites import BUILD, node_site, sleep_js

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(SECONDS)]

# Name → fixture, and what only a real build puts into a page, or into the file that the first group of a pattern names.
GENERATORS = {
    "plain": ("static", "/about.html", r"<h1>About</h1>"),
    "vite": ("sample", r'src="([^"]+\.js)"', r"branch:[`'\"]main[`'\"],commit:[`'\"][0-9a-f]{7}"),
    "eleventy": ("eleventy", "/", r">Built by Eleventy v3"),
    "mkdocs": ("mkdocs", "/", r"MkDocs version"),
}
QUEUED = 40
_names = itertools.count(1)


@pytest.fixture(scope="module")
def installed(cluster_surroundings: Surroundings) -> Iterator[Installation]:
    """A platform with its owner, as its operator makes both."""
    installation = Installation(cluster_surroundings)
    with contextlib.closing(installation):
        installation.make_namespace()
        installation.install()
        installation.make_owner()
        yield installation


@pytest.fixture(scope="module")
def generated(installed: Installation) -> dict[str, str]:
    """Name → deployment of each generator's site. They are built side by side."""
    projects = {name: installed.create_project(name, fixture) for name, (fixture, *_) in GENERATORS.items()}
    return {name: installed.create_deployment(project) for name, project in projects.items()}


@pytest.fixture
def new_name() -> str:
    return f"site-{next(_names)}"


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_s_site_is_served(installed: Installation, generated: dict[str, str], name: str) -> None:
    _, path, expected = GENERATORS[name]
    deployment = installed.finish(generated[name])
    assert deployment["status"] == "ready", (deployment["error"], installed.log_text(generated[name]))
    if not path.startswith("/"):
        asset = re.search(path, installed.get_site(name).text)
        assert asset, installed.get_site(name).text
        path = urljoin("/", asset[1])
    page = installed.get_site(name, path)
    assert page.status_code == 200
    assert re.search(expected, page.text), page.text[:3000]


def test_a_log_is_live(installed: Installation, new_name: str) -> None:
    project = installed.create_project(new_name, node_site("live", before=sleep_js(20)), **BUILD)
    deployment = installed.create_deployment(project)
    status_at_the_line, lines, ends = "", list[str](), list[str]()
    for kind, content in installed.follow(deployment):
        if kind == "log":
            lines += [line["text"] for line in content["lines"]]
            if "sleeping" in lines and not status_at_the_line:
                status_at_the_line = installed.deployment(deployment)["status"]
        elif kind == "end":
            ends.append(content["status"])
    # The command was still asleep when its line arrived.
    assert status_at_the_line == "building"
    assert ends == ["ready"]
    assert [line for line in lines if line in ("sleeping", "built live")] == ["sleeping", "built live"]


def test_a_rollback_brings_the_former_site_back(installed: Installation, new_name: str) -> None:
    project = installed.create_project(new_name, node_site("version one"), **BUILD)
    first = installed.create_deployment(project)
    assert installed.finish(first)["status"] == "ready"
    installed.commit(new_name, node_site("version two"))
    assert installed.finish(installed.create_deployment(project))["status"] == "ready"
    assert "version two" in installed.get_site(new_name).text
    installed.call("POST", f"/api/deployments/{first}/rollback")
    wait_for(lambda: "version one" in installed.get_site(new_name).text, what="the first version is served")


def test_a_site_with_pods_of_its_own_is_served_rolled_back_and_removed(installed: Installation, new_name: str) -> None:
    project = installed.create_project(new_name, {"index.html": "<h1>one</h1>"}, runtime="pods")
    first = installed.finish(installed.create_deployment(project))
    assert first["status"] == "ready", (first["error"], installed.log_text(first["id"]))
    assert installed.get_site(new_name).text == "<h1>one</h1>"
    assert [is_ready(pod) for pod in installed.site_pods()] == [True]
    installed.commit(new_name, {"index.html": "<h1>two</h1>"})
    assert installed.finish(installed.create_deployment(project))["status"] == "ready"
    assert installed.get_site(new_name).text == "<h1>two</h1>"
    installed.call("POST", f"/api/deployments/{first['id']}/rollback")
    wait_for(lambda: installed.get_site(new_name).text == "<h1>one</h1>", what="the first version is served")
    installed.call("DELETE", f"/api/projects/{project}")
    wait_for(lambda: installed.site_pods() == [], what="no pod of a site is left")
    assert installed.get_site(new_name).status_code == 404


def test_an_install_survives_the_restart_of_the_egress_gateway(
    installed: Installation, cluster_surroundings: Surroundings, new_name: str
) -> None:
    gate = cluster_surroundings.gate
    gate.clear()
    # The gate is asked through the gateway, too: an old run must be admitted by a new gateway before npm begins.
    script = f"set -e\necho waiting\nuntil curl -fsS {cluster_surroundings.git_gate}; do sleep 1; done\nnpm ci\n"
    project = installed.create_project(new_name, "eleventy", installCommand="sh install.sh")
    installed.commit(new_name, {"install.sh": script})
    deployment = installed.create_deployment(project)
    installed.wait_for_line(deployment, "waiting")
    former = {pod["metadata"]["name"] for pod in installed.pods("egress")}
    for name in former:
        installed.delete_pod(name, grace_seconds=0)
    wait_for(
        lambda: {pod["metadata"]["name"] for pod in installed.pods("egress") if is_ready(pod)} - former,
        what="there is a new gateway",
    )
    gate.set()
    found = installed.finish(deployment)
    assert found["status"] == "ready", (found["error"], installed.log_text(deployment))


def test_builds_survive_an_upgrade_and_its_rollback(installed: Installation, new_name: str) -> None:
    project = installed.create_project(new_name, node_site("kept", before=sleep_js(90)), **BUILD)
    revision, kept = revision_of(installed), deployed_revision_of(installed)
    workers = {pod["metadata"]["uid"] for pod in installed.pods("worker-build")}
    in_flight = installed.create_deployment(project)
    installed.wait_for_line(in_flight, "sleeping")
    queued = [installed.create_deployment(project, clean=True) for _ in range(3)]
    with second_upgrade_refused(installed):
        installed.upgrade({"settings": {"CLOUDIFY_LOG_LEVEL": "debug"}})
    assert revision_of(installed) == revision + 1
    assert not workers & {pod["metadata"]["uid"] for pod in installed.pods("worker-build") if is_ready(pod)}
    assert installed.finish(in_flight)["status"] == "ready"
    log = installed.log_text(in_flight).splitlines()
    # It was neither begun again nor shown twice.
    assert [line for line in log if line in ("sleeping", "built kept")] == ["sleeping", "built kept"]
    installed.config.rollback(installed.release, version=kept, wait="watcher", timeout=600)
    assert [installed.finish(each)["status"] for each in queued] == ["ready"] * 3
    assert "kept" in installed.get_site(new_name).text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workers": {"pools": {"build": {"drainSeconds": 5}}}}, "drainSeconds is 5"),
        ({"worker": {}}, "worker"),
        # Only the API server finds it.
        ({"pods": {"labels": {"team": "not a label!"}}}, "not a label!"),
    ],
)
def test_a_bad_value_is_refused_and_changes_nothing(
    installed: Installation, change: dict[str, object], words: str
) -> None:
    before = pods_of_the_platform(installed)
    with pytest.raises(helm_python.HelmError, match=re.escape(words)):
        installed.upgrade(change, waits=False)
    assert pods_of_the_platform(installed) == before
    assert installed.call("GET", "/api/auth/me")["email"] == "owner@example.com"


def test_no_build_is_lost_while_its_pool_is_scaled(installed: Installation, new_name: str) -> None:
    script = "mkdir dist\ndate > dist/index.html\n"
    project = installed.create_project(
        new_name, {"build.sh": script}, buildCommand="sh build.sh", outputDirectory="dist"
    )
    ids = [installed.create_deployment(project, clean=True) for _ in range(QUEUED)]

    def ended() -> int:
        return sum(installed.deployment(each)["status"] in ("ready", "failed", "cancelled") for each in ids)

    wait_for(lambda: ended() >= 1, seconds=DOWNLOAD_TIMEOUT_SECONDS, what="the first has ended", every=1)
    installed.scale("worker-build", 4)
    wait_for(lambda: len([pod for pod in installed.pods("worker-build") if is_ready(pod)]) == 4, what="there are four")
    at_four = ended()
    wait_for(lambda: ended() >= min(at_four + 8, QUEUED), seconds=DOWNLOAD_TIMEOUT_SECONDS, what="four work", every=1)
    installed.scale("worker-build", 1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(installed.finish, ids))
    assert [each["status"] for each in found] == ["ready"] * QUEUED
    # The workers that were told to end have ended what they had begun; only pods of others may have come first.
    assert [each for each in installed.interruptions(new_name) if "higher priority" not in each] == []
    wait_for(lambda: len(installed.pods("worker-build")) == 1, what="one is left")
    assert installed.build_pods() == [] or wait_for(lambda: not installed.build_pods(), what="no pod is left")


def test_an_uninstall_leaves_nothing_but_the_keys(cluster_surroundings: Surroundings) -> None:
    """With the longest names, and with a build that runs."""
    installation = Installation(cluster_surroundings, release="r" * 53, namespace=f"{'n' * 54}-{secrets.token_hex(4)}")
    # Workers that are told to end wait for their stages.
    seconds = 60
    drained = {name: {"drainSeconds": seconds} for name in ("clone", "install", "build", "upload", "deploy")}
    with contextlib.closing(installation):
        installation.make_namespace()
        installation.install({"limits": {"stageTimeoutSeconds": seconds}, "workers": {"pools": drained}})
        installation.make_owner()
        project = installation.create_project("asleep", node_site("never", before=sleep_js(3600)), **BUILD)
        installation.wait_for_line(installation.create_deployment(project), "sleeping")
        keys = f"{installation.namespace}: secrets/{installation.name('keys')}"
        assert keys in installation.left()
        installation.uninstall()
        wait_for(lambda: installation.left() == [keys], seconds=600, what=f"only {keys} is left", every=1)


def is_ready(pod: dict[str, object]) -> bool:
    status: dict[str, list[dict[str, str]]] = pod["status"]  # type: ignore[assignment]
    conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
    is_ending = "deletionTimestamp" in pod["metadata"]  # type: ignore[operator]
    return conditions.get("Ready") == "True" and not is_ending


def revision_of(installed: Installation) -> int:
    return int(installed.config.get_metadata(installed.release)["revision"])


def deployed_revision_of(installed: Installation) -> int:
    """An upgrade that was refused may have a later one."""
    history = installed.config.history(installed.release)
    return max(int(each["revision"]) for each in history if each["status"] == "deployed")


def pods_of_the_platform(installed: Installation) -> set[str]:
    """Those that stay: earlier upgrades may have some that are about to end."""
    components = ("api", "router", "reconciler", "egress", "worker-build", "worker-clone")
    pods = [pod for component in components for pod in installed.pods(component)]
    return {pod["metadata"]["uid"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}


@contextlib.contextmanager
def second_upgrade_refused(installed: Installation) -> Generator[None]:
    """Tries another upgrade while the block's own is under way."""
    refused: list[str] = []
    revision = revision_of(installed)

    def try_another() -> None:
        wait_for(lambda: revision_of(installed) > revision, what="the upgrade has begun", every=0.2)
        # As another operator: with a connection of its own.
        other = Installation(installed.around, installed.release, installed.namespace)
        try:
            other.upgrade({"settings": {"CLOUDIFY_LOG_LEVEL": "warning"}}, waits=False)
        except helm_python.HelmError as error:
            refused.append(str(error))
        finally:
            other.disconnect()

    thread = threading.Thread(target=try_another)
    thread.start()
    yield
    thread.join()
    assert "another operation" in "".join(refused)
