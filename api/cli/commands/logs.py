from __future__ import annotations

import click

from api.cli.invocation import Invocation, api_command
from api.cli.log_views import EXIT_CODES, JsonView, LogView, PlainView, follow, report_end
from api.cli.references import get_deployment
from api.client.http import ApiClient
from api.client.log_stream import LinesEvent, LogFollower
from schemas.deployments import DeploymentResource


@click.command()
@click.argument("deployment", required=False)
@click.option("-f", "--follow", "is_following", is_flag=True, help="Follow the log until the deployment is finished.")
@click.option("--tail", type=click.IntRange(1, 100_000), metavar="N", help="Begin with the last N lines.")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Begin after this entry.")
@api_command
def logs(invocation: Invocation, deployment: str | None, is_following: bool, tail: int | None, after: int) -> None:
    """Print a deployment's log.

    DEPLOYMENT is an id, or a project's slug for its latest one; without it, the linked project's latest. With -f the
    exit code is the deployment's: 0 ready, 1 failed, 5 cancelled; Ctrl-C stops watching (130), not the deployment.
    """
    resource = get_deployment(invocation, deployment)
    view = JsonView(invocation.output) if invocation.as_json else PlainView(invocation.output, is_result=True)
    if not is_following:
        _print_stored(invocation.client, resource.id, view, tail=tail, after=after)
        invocation.output.end_line()
        return
    _follow(invocation, resource, view, tail=tail, after=after)


def _follow(
    invocation: Invocation, resource: DeploymentResource, view: LogView, *, tail: int | None, after: int
) -> None:
    follower = LogFollower(invocation.client, resource.id, after=after, tail=tail)

    def say_how_to_resume() -> None:
        invocation.output.note(
            f"Stopped watching; the deployment continues. Continue reading with "
            f"`cloudify logs -f {resource.id} --after {follower.last_seq}`, "
            f"stop it with `cloudify cancel {resource.id}`."
        )

    end = follow(follower, view, on_detach=say_how_to_resume)
    invocation.output.end_line()
    if not invocation.as_json:
        finished = invocation.client.deployment(resource.id)
        report_end(invocation.output, finished)
        if end.status == "ready" and end.url:
            invocation.output.note(end.url)
    raise SystemExit(EXIT_CODES.get(end.status, 1))


def _print_stored(client: ApiClient, deployment_id: str, view: LogView, *, tail: int | None, after: int) -> None:
    if tail is None:
        for page in client.log_lines(deployment_id, after=after):
            view.show(LinesEvent(lines=page))
        return
    lines = [line for line in client.last_log_lines(deployment_id, tail) if line.seq > after]
    if lines:
        view.show(LinesEvent(lines=lines))
