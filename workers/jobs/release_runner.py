"""Rollback and promotion: a pointer swap. No rebuild, no copying, no slot of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Never

import structlog

from schemas.messages import Job
from shared import metrics
from shared.deployments.state import DeploymentStatus
from shared.errors import FailureCode
from shared.queue.base import Lease
from shared.releases.repository import ReleaseRepository, ReleaseRow, ReleaseStatus
from shared.releases.site_repository import SiteRepository
from workers.artifacts.reader import ArtifactReader
from workers.jobs.settle import outcome_of, settle
from workers.pipeline.outcome import Failed, Outcome, Over, Retry, Succeeded
from workers.pipeline.release_lifecycle import ReleaseLifecycleService
from workers.publishers.base import Publisher
from workers.stages.deploy import publish_artifact

_log = structlog.get_logger(__name__)


class ReleaseRunner:
    def __init__(
        self,
        *,
        releases: ReleaseRepository,
        sites: SiteRepository,
        lifecycle: ReleaseLifecycleService,
        publisher: Publisher,
        artifacts: ArtifactReader,
    ) -> None:
        self._releases = releases
        self._sites = sites
        self._lifecycle = lifecycle
        self._publisher = publisher
        self._artifacts = artifacts

    def run(self, lease: Lease) -> None:
        """Never raises: the lease's outcome says what becomes of the job."""
        run = _ReleaseRun(str(lease.job.payload["release_id"]), self._lifecycle)
        settle(lease, run, outcome_of(lambda: self._release(run.release_id)))

    def _release(self, release_id: str) -> Outcome[bool]:
        """The result says whether production serves the deployment now."""
        release = self._releases.find(release_id)
        if release is None or release.status != ReleaseStatus.PENDING:
            return Over()
        if release.deployment_status != DeploymentStatus.READY or release.manifest_digest is None:
            return Failed(FailureCode.PLATFORM_ERROR, "The deployment is not ready.")
        self._ensure_published(release, release.manifest_digest)
        moved = self._lifecycle.release(
            release, activate=lambda: _ignore(self._publisher.activate(release.host, release.deployment_id))
        )
        if not moved:
            self._remove_orphan(release)
        _log.info("release.done" if moved else "release.superseded", release_id=release_id)
        return Succeeded(moved)

    def _ensure_published(self, release: ReleaseRow, digest: str) -> None:
        """The files of recent deployments stay published, so that this costs nothing but on a new router."""
        if not self._publisher.is_published(release.deployment_id):
            publish_artifact(
                self._publisher,
                self._artifacts,
                tenant_id=release.tenant_id,
                deployment_id=release.deployment_id,
                digest=digest,
                is_preview=False,
            )

    def _remove_orphan(self, release: ReleaseRow) -> None:
        """The removal may have come before these files, which this attempt or a former one has published; nothing would
        come back for them."""
        deployment_id = release.deployment_id
        if self._sites.is_removed(deployment_id) and self._publisher.current(release.host) != deployment_id:
            self._publisher.remove_deployment(deployment_id)


class _ReleaseRun:
    """The subject that the outcome of a release is settled for."""

    def __init__(self, release_id: str, lifecycle: ReleaseLifecycleService) -> None:
        self.release_id = release_id
        self._lifecycle = lifecycle

    def announce(self, outcome: Outcome[bool]) -> None:
        """A release has no log."""

    def give_up(self, retry: Retry) -> Outcome[Never]:
        return Failed(FailureCode.PLATFORM_ERROR, retry.message, is_given_up=True)

    def record(self, outcome: Outcome[bool]) -> Sequence[Job]:
        """The release itself is recorded together with production's pointer, before its outcome is known."""
        if isinstance(outcome, Failed):
            self._lifecycle.fail(self.release_id, outcome.message)
        return []

    def count(self, outcome: Outcome[bool]) -> None:
        name = outcome.name
        if isinstance(outcome, Succeeded):
            name = "done" if outcome.result else "superseded"
        metrics.count_release("any", name)


def _ignore(_former: str | None) -> None:
    """What the host label pointed at before is of no interest here."""
