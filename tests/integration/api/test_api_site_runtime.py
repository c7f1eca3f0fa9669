"""The runtime of a project's site, and the endpoint from which its pods fetch it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from shared.settings import Settings, SitePodSettings


def errors(response: Any) -> dict[str, str]:
    assert response.status_code == 422, response.text
    return {each["field"]: each["message"] for each in response.json()["error"]["details"]["fields"]}


def test_a_platform_without_a_cluster_offers_files_alone(account: Any) -> None:
    project = account.project()
    assert (project["runtime"], project["replicas"]) == ("files", 1)
    path = f"/api/projects/{project['id']}"
    assert "no cluster for sites" in errors(account.request("PATCH", path, json={"runtime": "pods"}))["runtime"]
    assert "files, pods" in errors(account.request("PATCH", path, json={"runtime": "lambda"}))["runtime"]
    created = account.request("POST", "/api/projects", json={"name": "x", "runtime": "pods", "replicas": 0})
    assert set(errors(created)) == {"runtime", "replicas"}


class TestWithCluster:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        offered = SitePodSettings(namespace="sites", image="cloudify:1", api_url="http://api", maximum_replicas=2)
        return dataclasses.replace(settings, site_pods=offered)

    def test_a_deployment_has_the_runtime_of_its_moment(self, account: Any, platform: Any) -> None:
        project = account.project()
        path = f"/api/projects/{project['id']}"
        for value in (0, 3, True, "2"):
            assert account.request("PATCH", path, json={"replicas": value}).status_code in (400, 422)
        changed = account.request("PATCH", path, json={"runtime": "pods", "replicas": 2}).json()["data"]
        assert (changed["runtime"], changed["replicas"]) == ("pods", 2)
        made = account.request("POST", "/api/deployments", json={"projectId": project["id"]}).json()["data"]
        account.request("PATCH", path, json={"runtime": "files"})
        row = platform.services.deployments.get(account.tenant_id, made["id"])
        assert row.id == made["id"]
        settings = platform.backends.database.fetch_value(
            dict[str, Any], "SELECT settings FROM deployments WHERE id = %(id)s", {"id": made["id"]}
        )
        assert (settings["runtime"], settings["replicas"]) == ("pods", 2)

    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"}])
    def test_the_endpoint_tells_strangers_nothing(self, account: Any, platform: Any, headers: dict[str, str]) -> None:
        project = account.project()
        made = account.request("POST", "/api/deployments", json={"projectId": project["id"]}).json()["data"]
        for deployment_id in (made["id"], "depl_unknown", "x"):
            response = platform.client.get(f"/api/site-artifacts/{deployment_id}/0", headers=headers)
            assert response.status_code == 404
            assert response.json()["error"]["message"] == "There is no such artifact."
        # Not even to the owner.
        assert account.request("GET", f"/api/site-artifacts/{made['id']}/0").status_code == 404
