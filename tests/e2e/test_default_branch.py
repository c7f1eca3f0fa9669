"""A project that is known by its repository's address alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.repositories import commit, git, make_repository
from tests.support.running_platform import Platform
from tests.support.sites import BUILD, node_site

pytestmark = pytest.mark.e2e


def test_production_follows_the_default_branch(platform: Platform, repositories: Path):
    directory = repositories / "renamed"
    url = make_repository(directory, node_site("from trunk"), branch="trunk")
    project = platform.create_project("renamed", url, **BUILD)
    assert (project["repositoryBranch"], project["defaultBranch"]) == (None, None)
    first = platform.create_deployment(project["id"])
    assert first["branch"] is None
    first = platform.finish(first["id"])
    assert (first["status"], first["branch"]) == ("ready", "trunk"), platform.log_text(first["id"])
    assert "the repository's default branch is used: trunk." in platform.log_text(first["id"])

    git(directory, "checkout", "--quiet", "-b", "release")
    sha = commit(directory, node_site("from release"))
    second = platform.finish(platform.create_deployment(project["id"])["id"])
    assert (second["branch"], second["commitSha"], second["isActive"]) == ("release", sha, True)
    assert "from release" in platform.get_site("renamed").text
    shown = platform.call("GET", f"/api/projects/{project['id']}")
    assert (shown["repositoryBranch"], shown["defaultBranch"]) == (None, "release")

    same = platform.finish(platform.create_deployment(project["id"], ifChanged=True)["id"])
    assert (same["ignored"], same["branch"]) == (f"Commit {sha[:12]} is deployed already.", "release")
    preview = platform.finish(platform.create_deployment(project["id"], branch="trunk", isPreview=True)["id"])
    assert (preview["status"], preview["branch"]) == ("ready", "trunk")
    assert platform.deploy("renamed-named", url, repositoryBranch="trunk", **BUILD)["branch"] == "trunk"
