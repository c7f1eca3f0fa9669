"""Deployments that are asked for on the condition that there is something new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.repositories import commit, git, make_repository
from tests.support.running_platform import Platform
from tests.support.sites import BUILD, node_site

pytestmark = pytest.mark.e2e


def deploy(platform: Platform, project: dict[str, Any], **body: Any) -> dict[str, Any]:
    return platform.finish(platform.create_deployment(project["id"], **{"ifChanged": True, **body})["id"])


def member(name: str, **dependencies: str) -> str:
    return json.dumps({"name": name, "version": "1.0.0", "private": True, "dependencies": dependencies})


def test_a_member_of_a_monorepo_is_built_only_for_what_it_uses(platform: Platform, repositories: Path):
    app = {f"apps/web/{name}": content for name, content in node_site("one").items() if name != "package.json"}
    directory = repositories / "monorepo"
    url = make_repository(
        directory,
        {
            **app,
            "package.json": json.dumps({"name": "root", "private": True, "workspaces": ["apps/*", "packages/*"]}),
            "apps/web/package.json": member("web", ui="1.0.0"),
            "apps/admin/package.json": member("admin"),
            "packages/ui/package.json": member("ui"),
            "packages/ui/index.js": "module.exports = 1;",
        },
    )
    project = platform.create_project("web", url, rootDirectory="apps/web", installCommand="true", **BUILD)
    first = deploy(platform, project)
    assert first["status"] == "ready", (first["error"], platform.log_text(first["id"]))

    same = deploy(platform, project)
    assert (same["status"], same["ignored"]) == ("cancelled", f"Commit {first['commitSha'][:12]} is deployed already.")
    assert [run["stage"] for run in same["stages"]] == ["clone"]
    assert "is ignored" in platform.log_text(same["id"])

    commit(directory, {"apps/admin/other.js": "1", "README.md": "Other"})
    elsewhere = deploy(platform, project)
    assert elsewhere["status"] == "cancelled"
    assert elsewhere["ignored"].startswith("Nothing has changed in apps/web, packages/ui")
    # A request without a condition gets a build, and so does a change of a file that the project uses.
    assert deploy(platform, project, ifChanged=False)["status"] == "ready"
    commit(directory, {"packages/ui/index.js": "module.exports = 2;"})
    assert deploy(platform, project)["status"] == "ready"

    commit(directory, {"apps/web/extra.txt": "new"}, "Say less [skip ci]")
    skipped = deploy(platform, project)
    assert (skipped["status"], "says [skip ci]" in skipped["ignored"]) == ("cancelled", True)
    assert platform.call("GET", f"/api/projects/{project['id']}")["activeDeploymentId"] != skipped["id"]

    # A variable is as good a reason as a commit.
    git(directory, "commit", "--quiet", "--allow-empty", "--no-gpg-sign", "-m", "Nothing")
    assert deploy(platform, project)["status"] == "ready"
    git(directory, "commit", "--quiet", "--allow-empty", "--no-gpg-sign", "-m", "Nothing again")
    assert deploy(platform, project)["status"] == "cancelled"
    platform.call("PUT", f"/api/projects/{project['id']}/env/NAME", {"value": "x"}, status=(200, 201, 204))
    assert deploy(platform, project)["status"] == "ready"

    # The former commit is gone from the repository: it can't be compared, so it is built.
    git(directory, "checkout", "--quiet", "--orphan", "new")
    git(directory, "commit", "--quiet", "--no-gpg-sign", "-m", "Begin again")
    git(directory, "branch", "--quiet", "-D", "main")
    git(directory, "branch", "--quiet", "-m", "new", "main")
    git(directory, "reflog", "expire", "--expire=now", "--all")
    git(directory, "gc", "--quiet", "--prune=now")
    assert deploy(platform, project)["status"] == "ready"
