"""Frameworks that find what a former build kept write what the new commit says, and nothing of the old one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.repositories import commit, git, make_repository
from tests.support.running_platform import Platform, wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("CLOUDIFY_E2E_FULL", "") != "1", reason="part of `make e2e-full`"),
]
TIMEOUT_SECONDS = 800.0
NEXT_PAGE = "export default function Page() { return <h1>{`%s`}</h1>; }"


def page_files(fixture: str, name: str, text: str) -> Mapping[str, str]:
    return {
        "next": {f"app/{name}/page.jsx": NEXT_PAGE % text},
        "docusaurus": {f"docs/{name}.mdx": f"---\nslug: /{name}\n---\n# {text}\n"},
    }[fixture]


@pytest.mark.parametrize("fixture", ["next", "docusaurus"])
def test_a_next_commit_is_what_is_served(platform: Platform, repositories: Path, fixture: str) -> None:
    directory = repositories / fixture
    url = make_repository(directory, fixture)
    commit(directory, {**page_files(fixture, "changes", "Before"), **page_files(fixture, "goes", "Old")})
    name, slash = f"kept-{fixture}", "" if fixture == "next" else "/"
    project = platform.create_project(name, url)["id"]
    deploy(platform, project)
    assert "Before" in platform.get_site(name, f"/changes{slash}").text
    assert "Old" in platform.get_site(name, f"/goes{slash}").text

    [gone] = page_files(fixture, "goes", "")
    git(directory, "rm", "--quiet", gone)
    commit(directory, {**page_files(fixture, "changes", "After"), **page_files(fixture, "comes", "New")})
    log = deploy(platform, project)
    assert "Cached build files used" in log
    changed = platform.get_site(name, f"/changes{slash}").text
    assert "After" in changed
    assert "Before" not in changed
    assert "New" in platform.get_site(name, f"/comes{slash}").text
    assert platform.get_site(name, f"/goes{slash}").status_code == 404


def deploy(platform: Platform, project: str) -> str:
    """The log; returns when what the build kept is stored."""
    deployment = platform.finish(platform.create_deployment(project)["id"], seconds=TIMEOUT_SECONDS)
    log = platform.log_text(deployment["id"])
    assert deployment["status"] == "ready", (deployment["error"], log)
    with platform.database() as database:
        query = "SELECT 1 FROM snapshots WHERE kind = 'build files' AND scope = %(scope)s"
        wait_for(lambda: database.exists(query, {"scope": f"{project}/production"}), seconds=60, what="the kept files")
    return log
