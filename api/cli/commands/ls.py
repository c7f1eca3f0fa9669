from __future__ import annotations

from datetime import UTC, datetime

import click

from api.cli.invocation import Invocation, api_command
from api.cli.references import get_project
from schemas.deployments import DeploymentResource
from schemas.projects import ProjectResource


@click.command()
@click.argument("project", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many at most.")
@click.option("--status", "statuses", multiple=True, metavar="STATUS", help="Only deployments in this status.")
@api_command
def ls(invocation: Invocation, project: str | None, limit: int, statuses: tuple[str, ...]) -> None:
    """List projects, or the deployments of PROJECT (id, slug or name), newest first."""
    if project is None and not statuses:
        _list_projects(invocation, limit)
        return
    project_id = None if project is None else get_project(invocation, project).id
    deployments = list(invocation.client.deployments(project_id=project_id, statuses=statuses, limit=limit))
    if invocation.as_json:
        invocation.output.result({"deployments": deployments})
    elif not deployments:
        invocation.output.note("There are no deployments; `cloudify deploy` makes one.")
    else:
        _print_deployments(invocation, deployments)


def _list_projects(invocation: Invocation, limit: int) -> None:
    projects = list(invocation.client.projects(limit=limit))
    if invocation.as_json:
        invocation.output.result({"projects": projects})
        return
    if not projects:
        invocation.output.note("There are no projects; `cloudify deploy` in a git repository makes one.")
        return
    rows = [
        [project.slug, project.name, _branch(project), project.url if project.active_deployment_id else "-"]
        for project in projects
    ]
    invocation.output.table(["PROJECT", "NAME", "BRANCH", "LIVE AT"], rows)


def _branch(project: ProjectResource) -> str:
    return project.repository_branch or f"{project.default_branch or ''} (default)".strip()


def _print_deployments(invocation: Invocation, deployments: list[DeploymentResource]) -> None:
    now = datetime.now(UTC)
    rows = [
        [
            deployment.id,
            deployment.status,
            deployment.project.slug,
            deployment.branch or "-",
            (deployment.commit_sha or "-")[:8],
            age(deployment.created_at, now),
            "production" if deployment.is_active else "preview" if deployment.is_preview else "",
        ]
        for deployment in deployments
    ]
    headings = ["DEPLOYMENT", "STATUS", "PROJECT", "BRANCH", "COMMIT", "AGE", "SERVES"]
    invocation.output.table(headings, rows, status_column=1)


def age(moment: datetime, now: datetime) -> str:
    """In the greatest unit that fits: `42s`, `5m`, `3h`, `12d`."""
    seconds = max(0, int((now - moment).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
