"""Finds the project or the deployment that the words on a command line mean."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from api.cli.invocation import Invocation
from api.cli.work_tree import WorkTree
from api.client.errors import ApiError, ClientError, ExitCode
from api.client.http import ApiClient
from schemas.deployments import DeploymentResource
from schemas.projects import ProjectResource

_PROJECT_PREFIX = "proj_"
_DEPLOYMENT_PREFIX = "depl_"
_SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def find_project(client: ApiClient, reference: str) -> ProjectResource | None:
    """By id, slug, or name. Raises ClientError when a name means several."""
    if reference.startswith(_PROJECT_PREFIX):
        return _or_none(lambda: client.project(reference))
    if _SLUG.fullmatch(reference):
        project = _or_none(lambda: client.project_by_slug(reference))
        if project is not None:
            return project
    named = [project for project in client.projects() if project.name == reference]
    if len(named) > 1:
        slugs = ", ".join(project.slug for project in named)
        raise ClientError(
            f"{len(named)} projects are called {reference!r}.", f"Use a slug: {slugs}.", exit_code=ExitCode.USAGE
        )
    return named[0] if named else None


def get_project(invocation: Invocation, reference: str | None) -> ProjectResource:
    """Without a reference: the one that the current directory is linked to. Raises ClientError."""
    if reference is None:
        return _linked_project(invocation)
    if not reference.strip():
        raise ClientError("The project's name is empty.", "`cloudify ls` lists them.", exit_code=ExitCode.USAGE)
    project = find_project(invocation.client, reference)
    if project is None:
        raise ClientError(
            f"There is no project {reference!r} here that you may see.",
            "`cloudify ls` lists the projects.",
            exit_code=ExitCode.NOT_FOUND,
        )
    return project


def get_deployment(invocation: Invocation, reference: str | None) -> DeploymentResource:
    """By id; of a project, or without a reference of the linked one, the latest. Raises ClientError."""
    client = invocation.client
    if reference is not None and reference.startswith(_DEPLOYMENT_PREFIX):
        return client.deployment(reference)
    project = get_project(invocation, reference)
    latest = next(client.deployments(project_id=project.id, limit=1), None)
    if latest is None:
        raise ClientError(
            f"The project {project.slug} has no deployments.",
            f"`cloudify deploy --project {project.slug}` makes one.",
            exit_code=ExitCode.NOT_FOUND,
        )
    return latest


def _linked_project(invocation: Invocation) -> ProjectResource:
    tree = WorkTree.find(Path.cwd())
    project_id = None if tree is None else invocation.linked_project(tree)
    if tree is not None and project_id is None and tree.linked_project() is not None:
        raise ClientError(
            f"This directory is linked to a project of another API than {invocation.credentials().api_url}.",
            "Name a project or a deployment (`cloudify ls` lists them), or leave out what names this API.",
            exit_code=ExitCode.USAGE,
        )
    if project_id is None:
        raise ClientError(
            "This directory isn't linked to a project.",
            "Name a project or a deployment (`cloudify ls` lists them), or deploy this directory first.",
            exit_code=ExitCode.USAGE,
        )
    project = _or_none(lambda: invocation.client.project(project_id))
    if project is None:
        raise ClientError(
            "The project that this directory is linked to doesn't exist at this API.",
            "Name a project (`cloudify ls` lists them), or run `cloudify deploy` to make it.",
            exit_code=ExitCode.NOT_FOUND,
        )
    return project


def _or_none(fetch: Callable[[], ProjectResource]) -> ProjectResource | None:
    try:
        return fetch()
    except ApiError as error:
        if error.status == 404:
            return None
        raise
