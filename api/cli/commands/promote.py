from __future__ import annotations

import click

from api.cli.invocation import Invocation, api_command
from api.cli.references import get_deployment
from api.cli.releases import wait_until_active


@click.command()
@click.argument("deployment", required=False)
@click.option("--no-wait", is_flag=True, help="Don't wait until production serves it.")
@api_command
def promote(invocation: Invocation, deployment: str | None, no_wait: bool) -> None:
    """Make production serve a deployment that is ready, and end the pin of a rollback.

    DEPLOYMENT is an id, or a project's slug for its latest one; without it, the linked project's latest.
    """
    client = invocation.client
    target = get_deployment(invocation, deployment).id
    resource = client.promote(target)
    if not no_wait:
        resource = wait_until_active(client, target)
    if invocation.as_json:
        invocation.output.result(resource)
        return
    invocation.output.success(f"{target} is on its way to production." if no_wait else f"Production serves {target}.")
    if resource.url is not None:
        invocation.output.text(resource.url)
