from __future__ import annotations

import click

from api.cli.invocation import Invocation, api_command
from api.cli.references import get_project
from api.cli.releases import wait_until_active
from api.client.errors import ClientError, ExitCode
from api.client.http import ApiClient
from schemas.projects import ProjectResource


@click.command()
@click.argument("project", required=False)
@click.option("--to", "deployment", metavar="DEPLOYMENT", help="The deployment; default: the one before the active.")
@click.option("--no-wait", is_flag=True, help="Don't wait until production serves it.")
@api_command
def rollback(invocation: Invocation, project: str | None, deployment: str | None, no_wait: bool) -> None:
    """Make production serve an earlier deployment again, without building.

    PROJECT is an id, a slug or a name; without it, the linked project. New deployments are still built, but
    production stays where it is until `cloudify promote`.
    """
    client = invocation.client
    target = deployment or _previous(client, get_project(invocation, project))
    resource = client.rollback(target)
    if not no_wait:
        resource = wait_until_active(client, target)
    if invocation.as_json:
        invocation.output.result(resource)
        return
    invocation.output.success(
        f"{target} is on its way to production." if no_wait else f"Production serves {target} again."
    )
    if resource.url is not None:
        invocation.output.text(resource.url)


def _previous(client: ApiClient, project: ProjectResource) -> str:
    """The ready production deployment that was made before the active one."""
    has_passed_active = False
    for candidate in client.deployments(project_id=project.id, statuses=("ready",), is_preview=False):
        if has_passed_active:
            return candidate.id
        has_passed_active = candidate.is_active
    raise ClientError(
        f"{project.slug} has no ready deployment from before the one in production.",
        f"`cloudify ls {project.slug}` lists its deployments; name one with --to.",
        exit_code=ExitCode.NOT_FOUND,
    )
