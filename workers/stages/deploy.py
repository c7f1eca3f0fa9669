"""deploy: makes the artifact servable and verifies that, unseen by any host; the end of the job sets the route."""

from __future__ import annotations

from shared.errors import Cancelled
from shared.routing.changes import SiteArtifact
from shared.tracing import span
from workers.artifacts.reader import ArtifactMissing, ArtifactReader
from workers.pipeline.stage import StageContext, StageFunction, StageParts, StageResult
from workers.pipeline.table import UPLOAD, ArtifactOutput
from workers.publishers.base import Publisher
from workers.snapshots.input_missing import InputMissing


def build(parts: StageParts) -> DeployStage:
    return DeployStage(parts.publisher, parts.artifacts)


class DeployStage(StageFunction):
    def __init__(self, publisher: Publisher, artifacts: ArtifactReader) -> None:
        self._publisher = publisher
        self._artifacts = artifacts

    def run(self, context: StageContext) -> StageResult[ArtifactOutput]:
        deployment = context.deployment
        digest = context.inputs[UPLOAD].manifest
        artifact = SiteArtifact(deployment.id, deployment.tenant_id, digest, deployment.is_preview)
        context.log.system("Publishing the site.")
        try:
            with span("release prepare"):
                self._publisher.prepare(deployment.host, artifact, is_stopped=context.cancelled.is_set)
        except ArtifactMissing as error:
            # A manifest that exists is complete, the upload relies on that; this one isn't any more.
            self._artifacts.discard_damaged(deployment.tenant_id, digest)
            raise InputMissing(digest, str(error)) from error
        if context.cancelled.is_set():
            raise Cancelled
        return StageResult(ArtifactOutput(manifest=digest), facts={"manifest_digest": digest})
