"""The platform's processes, wherever they run: those that register in the queue, and the site routers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

from schemas.administration import ProcessResource
from shared.clock import Clock
from shared.queue.records import WorkerRecord
from shared.routing.routers import RouterRepository, RouterRow

ROUTER = "router"


class RegisteredProcesses(Protocol):
    """The part of shared.queue.job_queue that this service uses. Every call may raise QueueUnavailable."""

    def workers(self) -> list[WorkerRecord]: ...

    def other_processes(self) -> list[WorkerRecord]: ...


class ProcessAdministrationService:
    def __init__(self, *, queue: RegisteredProcesses, routers: RouterRepository, clock: Clock) -> None:
        self._queue = queue
        self._routers = routers
        self._clock = clock

    def processes(self) -> list[ProcessResource]:
        """All of them, by pool or role, then host. A router that is silent is listed for a day."""
        now = self._clock.now()
        records = [*self._queue.workers(), *self._queue.other_processes()]
        found = [*map(_of_record, records), *(_of_router(row, now) for row in self._routers.all())]
        return sorted(found, key=lambda process: (process.pool, process.host, process.id))


def _of_record(record: WorkerRecord) -> ProcessResource:
    return ProcessResource(
        id=record.worker,
        pool=record.pool,
        host=record.host,
        version=record.version,
        state=record.state.value,
        reason=record.reason or None,
        threads=record.threads,
        busy_threads=record.busy,
        seen_at=datetime.fromtimestamp(record.seen_at, UTC),
    )


def _of_router(row: RouterRow, now: datetime) -> ProcessResource:
    state = "silent" if not row.is_live else "running" if row.problem is None else "not ready"
    return ProcessResource(
        id=row.id,
        pool=ROUTER,
        host=row.machine,
        version=row.version,
        state=state,
        reason=row.problem,
        threads=0,
        busy_threads=0,
        seen_at=now - timedelta(seconds=row.silent_seconds),
    )
