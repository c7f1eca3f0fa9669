from __future__ import annotations

from datetime import datetime

import click
import msgspec

from api.cli.invocation import Invocation, api_command
from api.cli.log_views import describe_interruption
from api.cli.output import Output
from api.client.account_stream import (
    AccountFollower,
    AccountStreamEvent,
    ChangeEvent,
    MissedEvent,
    ReadyEvent,
)
from api.client.errors import ApiError, ClientError, ExitCode
from api.client.event_stream import Interruption
from api.client.http import ApiClient


@click.command()
@click.option("--after", metavar="ID", help="Begin after this event; `id` with --json. Default: with the next change.")
@api_command
def events(invocation: Invocation, after: str | None) -> None:
    """Follow the status of all deployments that you may see, until Ctrl-C.

    One line a change; connections that break are taken up again where they were. Changes are kept for 24 hours.
    """
    follower = AccountFollower(invocation.client, after=after)
    view = (
        JsonChanges(invocation.output) if invocation.as_json else LinesOfChanges(invocation.output, invocation.client)
    )
    try:
        for event in follower.events():
            view.show(event)
    except KeyboardInterrupt:
        continuation = (
            "" if follower.last_id is None else f" Continue with `cloudify events --after {follower.last_id}`."
        )
        invocation.output.note(f"Stopped watching.{continuation}")
        raise SystemExit(ExitCode.DETACHED) from None


class LinesOfChanges:
    """Time, project, deployment, status and what there is to say about it."""

    def __init__(self, output: Output, client: ApiClient) -> None:
        self._output = output
        self._client = client
        self._slugs: dict[str, str] = {}

    def show(self, event: AccountStreamEvent) -> None:
        match event:
            case ReadyEvent():
                self._output.note("Following the status of all deployments; Ctrl-C stops watching.")
            case ChangeEvent():
                self._output.text(self._line(event))
            case MissedEvent():
                self._output.warning(_describe_missed(event))
            case Interruption():
                _warn(self._output, event)

    def _line(self, event: ChangeEvent) -> str:
        moment = datetime.fromtimestamp(event.ts / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        kind = " (preview)" if event.is_preview else ""
        project = f"{self._slug(event.project_id)}{kind}"
        return f"{moment}  {project}  {event.deployment_id}  {_describe_change(event)}"

    def _slug(self, project_id: str) -> str:
        """Asked for once; a project that has been deleted, or can't be asked for now, is shown by its id."""
        if project_id not in self._slugs:
            try:
                self._slugs[project_id] = self._client.project(project_id).slug
            except ApiError:
                self._slugs[project_id] = project_id
            except ClientError:
                return project_id
        return self._slugs[project_id]


class JsonChanges:
    """One JSON object a line: `event` is ready, status or gap, the rest as the API sends it, and the event's `id`."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def show(self, event: AccountStreamEvent) -> None:
        match event:
            case ReadyEvent():
                self._print("ready", event)
            case ChangeEvent():
                self._print("status", event)
            case MissedEvent():
                self._print("gap", event)
            case Interruption():
                _warn(self._output, event)

    def _print(self, kind: str, value: msgspec.Struct) -> None:
        self._output.result({"event": kind, **msgspec.to_builtins(value)})


def _describe_change(event: ChangeEvent) -> str:
    parts = [event.status]
    if event.attempt is not None and event.attempt > 1:
        parts.append(f"(attempt {event.attempt})")
    if event.url is not None:
        parts.append(event.url)
    if event.error is not None:
        where = f" in {event.error.stage}" if event.error.stage else ""
        first_line = event.error.message.partition("\n")[0]
        parts.append(f"{event.error.code}{where}: {first_line}")
    if event.ignored is not None:
        parts.append(f"(nothing to build: {event.ignored})")
    return " ".join(parts)


def _describe_missed(event: MissedEvent) -> str:
    count = event.last - event.first + 1
    return f"{count} earlier changes are no longer kept; `cloudify ls` shows how things are now."


def _warn(output: Output, event: Interruption) -> None:
    if event.is_problem:
        output.warning(describe_interruption(event, "stream"))
