"""`cloudify workers`: for administrators of the platform."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from api.cli.commands.ls import age
from api.cli.invocation import Invocation, api_command
from schemas.administration import ProcessResource


@click.command()
@api_command
def workers(invocation: Invocation) -> None:
    """List the platform's processes: workers, API, reconcilers, site routers. For administrators of the platform."""
    processes = invocation.client.processes()
    if invocation.as_json:
        invocation.output.result({"workers": processes})
        return
    now = datetime.now(UTC)
    headings = ["POOL", "HOST", "STATE", "BUSY", "VERSION", "SEEN", "REASON"]
    invocation.output.table(headings, [_row(process, now) for process in processes])


def _row(process: ProcessResource, now: datetime) -> list[str]:
    busy = f"{process.busy_threads}/{process.threads}" if process.threads else "-"
    seen = age(process.seen_at, now)
    return [process.pool, process.host, process.state, busy, process.version, seen, process.reason or "-"]
