"""Rollback and promotion: a pointer swap. No rebuild, no copying, no slot of the plan."""

from __future__ import annotations

import structlog

from shared import metrics
from shared.deployments.state import DeploymentStatus
from shared.errors import PlatformError, Unavailable
from shared.queue.base import Lease
from shared.releases.repository import ReleaseRepository, ReleaseRow, ReleaseStatus
from shared.releases.site_repository import SiteRepository
from workers.artifacts.reader import ArtifactReader
from workers.pipeline.deployment_view import retry_delay_seconds
from workers.pipeline.lifecycle import LifecycleService
from workers.publishers.base import Publisher
from workers.stages.deploy import publish_artifact

_log = structlog.get_logger(__name__)


class ReleaseRunner:
    def __init__(
        self,
        *,
        releases: ReleaseRepository,
        sites: SiteRepository,
        lifecycle: LifecycleService,
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
        release_id = str(lease.job.payload["release_id"])
        try:
            outcome = self._run(release_id)
            lease.done()
        except (PlatformError, Unavailable, OSError) as error:
            _log.error("release.platform_error", release_id=release_id, error=str(error), attempt=lease.attempt)
            outcome = "retrying"
            if lease.is_last_attempt:
                self._lifecycle.fail_release(release_id, str(error))
                lease.done()
                outcome = "failed"
            else:
                lease.retry(retry_delay_seconds(lease.attempt))
        metrics.count_release("any", outcome)

    def _run(self, release_id: str) -> str:
        release = self._releases.find(release_id)
        if release is None or release.status != ReleaseStatus.PENDING:
            return "over"
        if release.deployment_status != DeploymentStatus.READY or release.manifest_digest is None:
            self._lifecycle.fail_release(release_id, "The deployment is not ready.")
            return "failed"
        self._ensure_published(release, release.manifest_digest)
        moved = self._lifecycle.release(
            release, activate=lambda: _ignore(self._publisher.activate(release.host, release.deployment_id))
        )
        if not moved:
            self._remove_orphan(release)
        _log.info("release.done" if moved else "release.superseded", release_id=release_id)
        return "done" if moved else "superseded"

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


def _ignore(_former: str | None) -> None:
    """What the host pointed at before is of no interest here."""
