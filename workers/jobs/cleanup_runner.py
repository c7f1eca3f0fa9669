"""Removal of sites: previews whose time is over, deleted deployments, all of a deleted project."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Never

import structlog

from schemas.messages import Job
from shared.db.database import Database
from shared.deployments.service import DeploymentService
from shared.deployments.state import FINISHED, SiteState
from shared.errors import Conflict, NotFound
from shared.identifiers import PROJECT, is_identifier
from shared.logs.archive.store import LogArchiveRemover
from shared.queue.base import Lease
from shared.releases.site_repository import SiteRepository
from shared.routing.changes import RouteChange, discard, removal
from workers.jobs.settle import outcome_of, settle
from workers.pipeline.outcome import HandedBack, Outcome, Retry, Succeeded
from workers.publishers.base import Publisher

_log = structlog.get_logger(__name__)

_WAIT_SECONDS = 2.0


class CleanupRunner:
    def __init__(
        self,
        *,
        database: Database,
        sites: SiteRepository,
        deployments: DeploymentService,
        publisher: Publisher,
        log_archives: LogArchiveRemover,
    ) -> None:
        self._database = database
        self._sites = sites
        self._deployments = deployments
        self._publisher = publisher
        self._log_archives = log_archives

    def run(self, lease: Lease) -> Outcome[None]:
        """Never raises: the lease's outcome says what becomes of the job."""
        return settle(lease, _Removal(), outcome_of(lambda: self._remove(lease)))

    def _remove(self, lease: Lease) -> Outcome[None]:
        subject_id = str(lease.job.payload["subject_id"])
        if is_identifier(subject_id, PROJECT):
            is_over = self._remove_project(subject_id)
        else:
            is_over = self._remove_site(subject_id, lease.job.tenant_id)
        return Succeeded() if is_over else HandedBack(_WAIT_SECONDS)

    def _remove_site(self, deployment_id: str, tenant_id: str) -> bool:
        row = self._sites.find(deployment_id)
        if row is None:
            # The row is gone, and with it whatever else would lead to a log that was uploaded at that moment.
            self._log_archives.remove(tenant_id, deployment_id)
            return True
        if row.site_state != SiteState.REMOVING or row.is_active:
            return True
        hosts = [removal(row.host)] if row.is_preview else []
        self._change_routes(*hosts, discard(deployment_id))
        if row.deleting_at is not None:
            # Before the row, without which nobody would come back for it; an expired preview keeps its log.
            self._log_archives.remove(row.tenant_id, deployment_id)
        self._sites.close(deployment_id)
        _log.info("cleanup.site_removed", deployment_id=deployment_id)
        return True

    def _remove_project(self, project_id: str) -> bool:
        """False while a deployment of it still runs: it is cancelled first, and nothing is removed under it."""
        project = self._sites.find_deleting_project(project_id)
        if project is None:
            return True
        rows = self._sites.of_project(project_id)
        live = [row for row in rows if row.status not in FINISHED]
        for row in live:
            # It may end, or be removed, between the two: the next look finds out.
            with contextlib.suppress(Conflict, NotFound):
                self._deployments.cancel(row.tenant_id, row.id)
        if live:
            return False
        hosts = [removal(project.slug), *(removal(row.host) for row in rows if row.is_preview)]
        self._change_routes(*hosts, *(discard(row.id) for row in rows))
        for row in rows:
            self._log_archives.remove(row.tenant_id, row.id)
        self._sites.delete_project(project_id)
        _log.info("cleanup.project_removed", project_id=project_id)
        return True

    def _change_routes(self, *changes: RouteChange) -> None:
        """Returns when the routers have followed."""
        with self._database.transaction() as connection:
            number = self._publisher.change_routes(connection, *changes)
        self._publisher.confirm(number)


class _Removal:
    """The subject that the outcome of a removal is settled for. The removal records itself, step by step."""

    def announce(self, outcome: Outcome[None]) -> None:
        """A removal has no log."""

    def give_up(self, retry: Retry) -> Outcome[Never]:
        """Nothing is given up: the job becomes a dead letter, and the reconciler tries again."""
        return retry

    def record(self, outcome: Outcome[None]) -> Sequence[Job]:
        return []

    def count(self, outcome: Outcome[None]) -> None:
        """A removal has no metrics but those of every job."""
