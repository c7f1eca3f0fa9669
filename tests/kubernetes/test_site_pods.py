"""Sites with pods of their own, in a real cluster: releases, isolation, quota, and what is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.settings import ObjectStoreSettings
from tests.support.docker_engine import SECONDS
from tests.support.repositories import commit, make_repository
from tests.support.running_platform import Platform, wait_for
from tests.support.sites_namespace import SitesNamespace, platform_with_pods

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
    settings = {"LEASE_SECONDS": "8", "RECONCILE_SECONDS": "1", "SITES_QUOTA_WAIT_SECONDS": "5"}
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
def make_site(platform: Platform, tmp_path: Path) -> Callable[..., Site]:
    def make(name: str, **settings: Any) -> Site:
        return Site(platform, tmp_path, name, **settings)

    return make


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
    assert len(site_namespace.objects()["poddisruptionbudgets"]) == 1

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
    wait_for(lambda: not any(site_namespace.objects().values()), what="nothing of it is left")
