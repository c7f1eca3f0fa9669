"""Rollback and promotion: a pointer swap. No rebuild, no copying, no slot of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Never

import msgspec
import structlog

from schemas.messages import Job
from shared import metrics
from shared.deployments.state import DeploymentStatus, SiteRuntime
from shared.errors import FailureCode, StageFailure
from shared.queue.base import Lease
from shared.releases.repository import ReleaseRepository, ReleaseRow, ReleaseStatus
from shared.routing.changes import SiteArtifact
from shared.tracing import span
from workers.jobs.settle import outcome_of, settle
from workers.pipeline.outcome import Failed, Outcome, Over, Retry, Succeeded
from workers.pipeline.release_lifecycle import ReleaseLifecycleService
from workers.publishers.base import Publisher
from workers.site_pods.manifests import SitePodSpec
from workers.site_pods.site_pods import SitePods

_log = structlog.get_logger(__name__)


class ReleaseRunner:
    def __init__(
        self,
        *,
        releases: ReleaseRepository,
        lifecycle: ReleaseLifecycleService,
        publisher: Publisher,
        site_pods: SitePods | None = None,
    ) -> None:
        self._releases = releases
        self._lifecycle = lifecycle
        self._publisher = publisher
        self._site_pods = site_pods

    def run(self, lease: Lease) -> Outcome[bool]:
        """Never raises: the lease's outcome says what becomes of the job."""
        run = _ReleaseRun(str(lease.job.payload["release_id"]), self._lifecycle)
        return settle(lease, run, outcome_of(lambda: self._release(run.release_id, lease)))

    def _release(self, release_id: str, lease: Lease) -> Outcome[bool]:
        """The result says whether production serves the deployment now."""
        release = self._releases.find(release_id)
        if release is None or release.status != ReleaseStatus.PENDING:
            return Over()
        if release.deployment_status != DeploymentStatus.READY or release.manifest_digest is None:
            return Failed(FailureCode.PLATFORM_ERROR, "The deployment is not ready.")
        artifact = SiteArtifact(release.deployment_id, release.tenant_id, release.manifest_digest, is_preview=False)
        try:
            artifact = self._stand_up(release, artifact, lease)
        except StageFailure as failure:
            return Failed(failure.code, failure.message)
        with span("release prepare"):
            self._publisher.prepare(release.host, artifact, is_stopped=lease.lost.is_set)
        with span("release activate"):
            number = self._lifecycle.move(release, change_routes=self._publisher.change_routes)
        if number is not None:
            with span("release confirm"):
                self._publisher.confirm(number)
            self._lifecycle.close(release_id)
        _log.info("release.superseded" if number is None else "release.done", release_id=release_id)
        return Succeeded(number is not None)

    def _stand_up(self, release: ReleaseRow, artifact: SiteArtifact, lease: Lease) -> SiteArtifact:
        """The artifact with the address of its pods, which are started again if they no longer stand."""
        settings = release.settings
        if settings.runtime is not SiteRuntime.PODS or self._site_pods is None:
            return artifact
        spec = SitePodSpec(artifact, release.project_id, settings.replicas)
        with span("release pods"):
            address = self._site_pods.stand_up(
                spec,
                say=lambda line: _log.info("release.pods", release_id=release.id, line=line),
                is_stopped=lease.lost.is_set,
            )
        return msgspec.structs.replace(artifact, pods_address=address)


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
