"""Projects that name no branch, and what their deployments store of the repository's default branch."""

from __future__ import annotations

from typing import Any

import pytest

from shared.db.paging import PageRequest
from shared.deployments.branch_repository import BranchRepository
from tests.support.deployment_world import create, run_to_end, settings, world

pytestmark = pytest.mark.integration
__all__ = ["settings", "world"]


def follow(world: Any) -> None:
    sql = "UPDATE projects SET follows_default_branch = true, default_branch = NULL, repository_branch = 'main'"
    with world.database.transaction() as connection:
        connection.execute(sql)


def value(world: Any, query: Any) -> Any:
    return world.database.fetch_value(str, query)


def read(world: Any, deployment_id: str) -> Any:
    return world.service.get(world.tenant_id, deployment_id)


def test_projects_from_before_keep_their_branch(world: Any) -> None:
    deployment = read(world, create(world))
    assert deployment.branch == "main"
    BranchRepository(world.database).record_default(deployment.id, "trunk", fence=1)
    assert read(world, deployment.id).branch == "main"
    assert value(world, "SELECT default_branch FROM projects") == "trunk"


def test_a_deployment_stores_the_branch_that_the_clone_found(world: Any) -> None:
    follow(world)
    branches = BranchRepository(world.database)
    first, named = create(world), create(world, branch="topic")
    assert (read(world, first).branch, read(world, named).branch) == (None, "topic")
    branches.record_default(first, "trunk", fence=1)
    assert read(world, first).branch == "trunk"
    # Once found, it stays, also when the clone is repeated; so does one that was named.
    branches.record_default(first, "other", fence=1)
    branches.record_default(named, "other", fence=1)
    assert (read(world, first).branch, read(world, named).branch) == ("trunk", "topic")
    assert value(world, "SELECT default_branch FROM projects") == "other"
    # The next one may be of another branch again, and nobody sees the old one for it.
    second = create(world)
    assert read(world, second).branch is None
    listed = world.service.list([world.tenant_id], page=PageRequest(), branch="other").items
    assert listed == []


def test_a_worker_that_lost_the_deployment_stores_nothing(world: Any) -> None:
    follow(world)
    deployment = create(world)
    assert run_to_end(world, deployment, fence=10)
    BranchRepository(world.database).record_default(deployment, "trunk", fence=9)
    assert read(world, deployment).branch is None
    assert value(world, "SELECT default_branch FROM projects") is None


def test_the_default_branch_of_another_repository_is_not_the_projects(world: Any) -> None:
    follow(world)
    deployment = create(world)
    with world.database.transaction() as connection:
        connection.execute("UPDATE projects SET repository_url = 'https://git.example.org/other.git'")
    BranchRepository(world.database).record_default(deployment, "trunk", fence=1)
    assert read(world, deployment).branch == "trunk"
    assert value(world, "SELECT default_branch FROM projects") is None


def test_a_process_of_the_version_before_may_name_a_branch(world: Any) -> None:
    follow(world)
    with world.database.transaction() as connection:
        connection.execute("UPDATE projects SET repository_branch = 'release'")
    assert read(world, create(world)).branch == "release"


def test_redeploying_before_and_after_the_branch_is_known(world: Any) -> None:
    follow(world)
    first = create(world)
    again = world.service.redeploy(world.tenant_id, first, created_by=None)
    assert again.branch is None
    BranchRepository(world.database).record_default(first, "trunk", fence=1)
    assert world.service.redeploy(world.tenant_id, first, created_by=None).branch == "trunk"


def test_host_names_of_previews(world: Any) -> None:
    follow(world)
    first = create(world, is_preview=True)
    BranchRepository(world.database).record_default(first, "trunk", fence=1)
    create(world, is_preview=True)
    hosts = world.database.fetch_values(str, "SELECT host FROM deployments ORDER BY created_at, id")
    assert [host.rpartition("-")[0] for host in hosts] == ["demo-default", "demo-trunk"]


def test_a_preview_whose_branch_is_not_known_replaces_none(world: Any) -> None:
    follow(world)
    branches = BranchRepository(world.database)
    first = create(world, is_preview=True, commit_sha="a" * 40)
    branches.record_default(first, "trunk", fence=1)
    run_to_end(world, first)
    second = create(world, is_preview=True, commit_sha="b" * 40, if_changed=True)
    assert world.former_deployments.find(second) is None
    branches.record_default(second, "trunk", fence=1)
    assert world.former_deployments.find(second).is_otherwise_changed is False
    # One in between that may turn out to be of the same branch.
    create(world, is_preview=True)
    third = create(world, is_preview=True, branch="trunk", if_changed=True)
    assert world.former_deployments.find(third).is_otherwise_changed is True
