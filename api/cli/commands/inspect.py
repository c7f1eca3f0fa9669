from __future__ import annotations

import click

from api.cli.invocation import Invocation, api_command
from api.cli.log_views import describe_stages
from api.cli.references import get_deployment
from schemas.deployments import DeploymentResource


@click.command()
@click.argument("deployment", required=False)
@api_command
def inspect(invocation: Invocation, deployment: str | None) -> None:
    """Show all that is known of a deployment.

    DEPLOYMENT is an id, or a project's slug for its latest one; without it, the linked project's latest.
    """
    resource = get_deployment(invocation, deployment)
    if invocation.as_json:
        invocation.output.result(resource)
        return
    for label, value in _rows(resource):
        invocation.output.text(f"{label.ljust(10)} {value}")


def _rows(resource: DeploymentResource) -> list[tuple[str, str]]:
    rows = [
        ("Deployment", resource.id),
        ("Project", f"{resource.project.name} ({resource.project.slug})"),
        ("Status", resource.status + (" (serves production)" if resource.is_active else "")),
        ("Kind", "preview" if resource.is_preview else "production"),
        ("Branch", resource.branch or "the repository's default branch, not known yet"),
        ("Commit", f"{resource.commit_sha or 'not known yet'} {_first_line(resource.commit_message)}".rstrip()),
        ("URL", resource.url or "-"),
        ("Made", f"{resource.created_at:%Y-%m-%d %H:%M:%S %Z} by {resource.trigger}"),
    ]
    if resource.started_at is not None:
        rows.append(("Started", f"{resource.started_at:%Y-%m-%d %H:%M:%S %Z}"))
    if resource.finished_at is not None:
        rows.append(("Finished", f"{resource.finished_at:%Y-%m-%d %H:%M:%S %Z}"))
    if resource.build_time_seconds is not None:
        rows.append(("Took", f"{resource.build_time_seconds:.1f} s"))
    if resource.stages:
        rows.append(("Stages", ", ".join(describe_stages(resource))))
    if resource.queue is not None:
        rows.append(("Queue", _queue(resource)))
    if resource.error is not None:
        rows.append(("Error", f"{resource.error.code} in {resource.error.stage or '-'}: {resource.error.message}"))
    return rows


def _queue(resource: DeploymentResource) -> str:
    queue = resource.queue
    assert queue is not None
    place = "" if queue.position is None else f"place {queue.position}, "
    holders = f", behind {', '.join(queue.holders)}" if queue.holders else ""
    return f"{place}{queue.reason.replace('_', ' ')}{holders} ({queue.pool}){_start(queue.estimated_start_seconds)}"


def _start(estimate: list[float] | None) -> str:
    """The estimate's lower and upper bound; both may be 0."""
    if not estimate:
        return ""
    low, high = (round(seconds) for seconds in estimate)
    return f", starts in about {high} s" if low == high else f", starts in {low} to {high} s"


def _first_line(message: str | None) -> str:
    lines = (message or "").splitlines()
    return lines[0] if lines else ""
