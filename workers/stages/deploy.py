"""deploy: makes the artifact servable and verifies that, unseen by any host; the end of the job sets the route."""

from __future__ import annotations

import msgspec

from shared.deployments.state import SiteRuntime
from shared.errors import Cancelled
from shared.routing.changes import SiteArtifact
from shared.tracing import span
from workers.artifacts.reader import ArtifactMissing, ArtifactReader
from workers.pipeline.stage import StageContext, StageFunction, StageParts, StageResult
from workers.pipeline.table import UPLOAD, ArtifactOutput
from workers.publishers.base import Publisher
from workers.site_pods.manifests import SitePodSpec
from workers.site_pods.site_pods import SitePods
from workers.snapshots.input_missing import InputMissing


def build(parts: StageParts) -> DeployStage:
    return DeployStage(parts.publisher, parts.artifacts, parts.site_pods())


class DeployStage(StageFunction):
    def __init__(self, publisher: Publisher, artifacts: ArtifactReader, site_pods: SitePods | None) -> None:
        self._publisher = publisher
        self._artifacts = artifacts
        self._site_pods = site_pods

    def run(self, context: StageContext) -> StageResult[ArtifactOutput]:
        deployment = context.deployment
        digest = context.inputs[UPLOAD].manifest
        artifact = SiteArtifact(deployment.id, deployment.tenant_id, digest, deployment.is_preview)
        context.log.system("Publishing the site.")
        try:
            artifact = self._stand_up(context, artifact)
            with span("release prepare"):
                self._publisher.prepare(deployment.host, artifact, is_stopped=context.cancelled.is_set)
        except ArtifactMissing as error:
            # A manifest that exists is complete, the upload relies on that; this one isn't any more.
            self._artifacts.discard_damaged(deployment.tenant_id, digest)
            raise InputMissing(digest, str(error)) from error
        if context.cancelled.is_set():
            raise Cancelled
        return StageResult(ArtifactOutput(manifest=digest), facts={"manifest_digest": digest})

    def _stand_up(self, context: StageContext, artifact: SiteArtifact) -> SiteArtifact:
        """The artifact with the address of the site's pods, if it has pods of its own."""
        deployment = context.deployment
        if deployment.runtime is not SiteRuntime.PODS:
            return artifact
        if self._site_pods is None:
            context.log.system("The platform has no cluster for sites any more; the routers serve the files.")
            return artifact
        spec = SitePodSpec(artifact, deployment.project_id, deployment.replicas)
        with span("release pods"):
            address = self._site_pods.stand_up(spec, say=context.log.system, is_stopped=context.cancelled.is_set)
        context.log.system("The site's pods are ready.")
        return msgspec.structs.replace(artifact, pods_address=address)
