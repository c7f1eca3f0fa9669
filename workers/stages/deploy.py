"""deploy: publish the artifact under a host label of its own, see that it is served, then point the site at it."""

from __future__ import annotations

from shared.errors import Cancelled
from workers.artifacts.reader import ArtifactBlobs, ArtifactMissing, ArtifactReader
from workers.pipeline.stage import StageContext, StageFunction, StageParts, StageResult
from workers.pipeline.table import UPLOAD, ArtifactOutput
from workers.publishers.base import Publisher
from workers.snapshots.input_missing import InputMissing


def verification_label(deployment_id: str) -> str:
    """A host label that only ever serves this one deployment: where it is looked at before anyone else can see it."""
    return deployment_id.replace("_", "-")


def publish_artifact(
    publisher: Publisher,
    artifacts: ArtifactReader,
    *,
    tenant_id: str,
    deployment_id: str,
    digest: str,
    is_preview: bool,
) -> None:
    """Makes the files servable and verifies them through the router. Idempotent."""
    if not publisher.is_published(deployment_id):
        manifest = artifacts.manifest(tenant_id, digest)
        publisher.publish(deployment_id, manifest, ArtifactBlobs(artifacts, tenant_id, manifest), is_preview=is_preview)
    label = verification_label(deployment_id)
    publisher.activate(label, deployment_id)
    try:
        publisher.verify(label, deployment_id)
    finally:
        publisher.deactivate(label)


def build(parts: StageParts) -> DeployStage:
    return DeployStage(parts.publisher, parts.artifacts)


class DeployStage(StageFunction):
    """Publishes the artifact and verifies it through the router; who ends the job points the site at it."""

    def __init__(self, publisher: Publisher, artifacts: ArtifactReader) -> None:
        self._publisher = publisher
        self._artifacts = artifacts

    def run(self, context: StageContext) -> StageResult[ArtifactOutput]:
        deployment = context.deployment
        digest = context.inputs[UPLOAD].manifest
        context.log.system("Publishing the site.")
        try:
            publish_artifact(
                self._publisher,
                self._artifacts,
                tenant_id=deployment.tenant_id,
                deployment_id=deployment.id,
                digest=digest,
                is_preview=deployment.is_preview,
            )
        except ArtifactMissing as error:
            # A manifest that exists is complete, the upload relies on that; this one isn't any more.
            self._artifacts.discard_manifest(deployment.tenant_id, digest)
            raise InputMissing(digest, str(error)) from error
        if context.cancelled.is_set():
            raise Cancelled
        return StageResult(ArtifactOutput(manifest=digest), facts={"manifest_digest": digest})
