"""`cloudify queue`: for administrators of the platform."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from api.cli.commands.ls import age
from api.cli.invocation import Invocation, api_command
from schemas.administration import QueueResource


@click.group(invoke_without_command=True)
@api_command
def queue(invocation: Invocation) -> None:
    """Show the queue: pools, depth, oldest age, running, paused, dead. For administrators of the platform."""
    if click.get_current_context().invoked_subcommand is not None:
        return
    queues = invocation.client.queues()
    if invocation.as_json:
        invocation.output.result({"queues": queues})
        return
    headings = ["POOL", "STATE", "DEPTH", "OLDEST", "NO SLOT", "RUNNING", "DELAYED", "DEAD", "WORKERS", "BUSY"]
    invocation.output.table(headings, [_row(item) for item in queues])


@queue.command()
@click.option("--pool", metavar="POOL", help="Only this pool's.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many at most.")
@api_command
def dead(invocation: Invocation, pool: str | None, limit: int) -> None:
    """List the jobs that have used up their attempts, newest first."""
    jobs = invocation.client.dead_jobs(pool=pool, limit=limit)
    if invocation.as_json:
        invocation.output.result({"jobs": jobs})
    elif not jobs:
        invocation.output.note("There are no dead letters.")
    else:
        now = datetime.now(UTC)
        rows = [[job.id, job.pool, str(job.attempts), age(job.died_at, now), job.reason] for job in jobs]
        invocation.output.table(["JOB", "POOL", "ATTEMPTS", "AGE", "REASON"], rows)


@queue.command()
@click.argument("job")
@api_command
def retry(invocation: Invocation, job: str) -> None:
    """Put the dead letter JOB back into line. Refused when its deployment has ended: redeploy that."""
    place = invocation.client.retry_job(job)
    if invocation.as_json:
        invocation.output.result(place)
    else:
        invocation.output.success(f"{place.id} is {place.state}.")


@queue.command()
@click.argument("job")
@api_command
def drop(invocation: Invocation, job: str) -> None:
    """Forget the dead letter JOB."""
    place = invocation.client.drop_job(job)
    if invocation.as_json:
        invocation.output.result(place)
    else:
        invocation.output.success(f"{place.id} is {place.state}.")


@queue.command()
@click.argument("pool")
@api_command
def pause(invocation: Invocation, pool: str) -> None:
    """Pause POOL. Running jobs are not interrupted."""
    _show_state(invocation, invocation.client.pause_pool(pool))


@queue.command()
@click.argument("pool")
@api_command
def resume(invocation: Invocation, pool: str) -> None:
    """Hand out the jobs of POOL again."""
    _show_state(invocation, invocation.client.resume_pool(pool))


def _show_state(invocation: Invocation, item: QueueResource) -> None:
    if invocation.as_json:
        invocation.output.result(item)
        return
    state = "is paused" if item.is_paused else "hands out jobs"
    invocation.output.success(f"{item.pool} {state}; {item.depth} in line, {item.running} running.")


def _row(item: QueueResource) -> list[str]:
    state = "paused" if item.is_paused else "no workers" if not item.workers else "running"
    oldest = f"{item.oldest_age_seconds:.0f}s" if item.depth else "-"
    counts = [item.waiting_for_slot, item.running, item.delayed, item.dead, item.workers]
    busy = f"{item.busy_threads}/{item.threads}"
    return [item.pool, state, str(item.depth), oldest, *map(str, counts), busy]
