"""The queue and the processes, for administrators of the platform."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from api.responses import success
from api.services import Services
from schemas.administration import DeadJobResource, JobPlace, ProcessResource, QueueResource
from schemas.envelope import Success
from shared.accounts.permissions import Permission
from shared.errors import ErrorCode

_QUEUE = (ErrorCode.QUEUE_UNAVAILABLE,)
_READ = {"permission": Permission.ADMIN_READ, "resource": "platform", "errors": (*_QUEUE, ErrorCode.NOT_FOUND)}
_PROCESSES = {"permission": Permission.ADMIN_READ, "resource": "platform", "errors": _QUEUE}
_PAUSE = {"permission": Permission.ADMIN_WRITE, "resource": "platform", "errors": (*_QUEUE, ErrorCode.NOT_FOUND)}
_DROP = {
    "permission": Permission.ADMIN_WRITE,
    "resource": "platform",
    "errors": (*_QUEUE, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT),
}
_RETRY = {**_DROP, "errors": (*_QUEUE, ErrorCode.NOT_FOUND, ErrorCode.CONFLICT, ErrorCode.ALREADY_FINISHED)}

Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="The most to return")]


class AdministrationController(Controller):
    path = "/admin"
    tags = ["Administration"]  # noqa: RUF012 - Litestar reads it as it is

    @get("/queues", opt=_READ, sync_to_thread=True)
    def list_queues(self, services: NamedDependency[Services]) -> Success[list[QueueResource]]:
        """Every pool: its depth, the age of its oldest job, its running and dead jobs, its workers."""
        return success(services.queue_administration.queues())

    @get("/workers", opt=_PROCESSES, sync_to_thread=True)
    def list_workers(self, services: NamedDependency[Services]) -> Success[list[ProcessResource]]:
        """Every process of the platform: workers, API, reconcilers and site routers."""
        return success(services.process_administration.processes())

    @post("/queues/{pool:str}/pause", status_code=200, opt=_PAUSE, sync_to_thread=True)
    def pause(self, pool: FromPath[str], services: NamedDependency[Services]) -> Success[QueueResource]:
        """Pauses the pool. Running jobs are not interrupted."""
        return success(services.queue_administration.pause(pool))

    @post("/queues/{pool:str}/resume", status_code=200, opt=_PAUSE, sync_to_thread=True)
    def resume(self, pool: FromPath[str], services: NamedDependency[Services]) -> Success[QueueResource]:
        """Resumes the pool."""
        return success(services.queue_administration.resume(pool))

    @get("/jobs", opt=_READ, sync_to_thread=True)
    def list_dead_jobs(
        self, services: NamedDependency[Services], pool: FromQuery[str | None] = None, limit: Limit = 100
    ) -> Success[list[DeadJobResource]]:
        """The dead letters, newest first."""
        return success(services.queue_administration.dead_jobs(pool=pool, limit=limit))

    @post("/jobs/{job_id:str}/retry", status_code=200, opt=_RETRY, sync_to_thread=True)
    def retry(self, job_id: FromPath[str], services: NamedDependency[Services]) -> Success[JobPlace]:
        """Puts a dead letter back into the queue. Refused if its deployment has ended."""
        return success(services.queue_administration.retry(job_id))

    @post("/jobs/{job_id:str}/drop", status_code=200, opt=_DROP, sync_to_thread=True)
    def drop(self, job_id: FromPath[str], services: NamedDependency[Services]) -> Success[JobPlace]:
        """Deletes a dead letter."""
        return success(services.queue_administration.drop(job_id))
