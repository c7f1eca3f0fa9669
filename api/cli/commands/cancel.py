from __future__ import annotations

import click

from api.cli.invocation import Invocation, api_command
from api.cli.references import get_deployment


@click.command()
@click.argument("deployment", required=False)
@api_command
def cancel(invocation: Invocation, deployment: str | None) -> None:
    """Cancel a deployment that isn't finished.

    DEPLOYMENT is an id, or a project's slug for its latest one; without it, the linked project's latest.
    """
    resource = invocation.client.cancel(get_deployment(invocation, deployment).id)
    if invocation.as_json:
        invocation.output.result(resource)
    elif resource.status == "cancelled":
        invocation.output.success(f"{resource.id} is cancelled.")
    else:
        invocation.output.success(f"{resource.id} is being cancelled; `cloudify inspect {resource.id}` shows when.")
