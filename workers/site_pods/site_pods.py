"""Sites with pods of their own (`runtime: pods`): one Deployment and one Service for each Cloudify deployment.

Traffic goes from the visitor through a router to the deployment's Service, and the route log alone switches it
(`activate host → deployment`). A second truth, such as a Service whose selector moves to the newer pods, would leave
the routers' kept connections with the former ones, and a rollback could serve old bytes for minutes. With a Service for
each deployment the connections are, too. So what the contract calls a rollback by selector is a rollback by route: to
a deployment whose pods still stand it is as fast as for files.

Pods that don't answer are 503 with `Retry-After`. Routers could serve the same files instead, but the project has asked
for resources of its own, and dead pods that nobody notices would use everybody's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from shared.errors import Cancelled, FailureCode, PlatformError, StageFailure
from shared.releases.artifact_access import artifact_token
from shared.releases.site_pod_repository import SitePodRepository
from shared.settings import SitePodSettings
from shared.text.wording import counted
from workers.artifacts.reader import ArtifactMissing, ArtifactReader
from workers.executors.kubernetes.cluster import ClusterAway
from workers.site_pods.manifests import (
    SitePodSpec,
    budget_of,
    deployment_of,
    image_and_secret_of,
    secret_name_of,
    secret_of,
    service_of,
)
from workers.site_pods.objects import SiteObjects, address_of
from workers.site_pods.pod_request import PodRequest
from workers.site_pods.readiness import Trouble, TroubleKind, find_trouble, is_ready, waiting_of

_log: Any = structlog.get_logger(__name__)

_POLL_SECONDS = 0.5
# Until pods are ready, without any trouble that has a shorter time of its own.
_READY_SECONDS = 600.0
# A registry that doesn't answer for a moment, or a Secret that isn't there yet, is no trouble.
_PATIENCE_SECONDS = {
    TroubleKind.ARTIFACT_MISSING: 0.0,
    TroubleKind.CRASHING: 0.0,
    TroubleKind.IMAGE: 20.0,
    TroubleKind.BROKEN: 20.0,
    TroubleKind.REFUSED: 20.0,
    TroubleKind.UNSCHEDULABLE: 300.0,
}


class SitePods:
    """Safe from any thread."""

    def __init__(
        self,
        objects: SiteObjects,
        repository: SitePodRepository,
        artifacts: ArtifactReader,
        settings: SitePodSettings,
        *,
        secret_key: bytes,
        certificates: str = "",
    ) -> None:
        """`certificates`: PEM, of the object store's authority if the image doesn't know it."""
        self._objects = objects
        self._repository = repository
        self._artifacts = artifacts
        self._settings = settings
        self._secret_key = secret_key
        self._certificates = certificates

    def stand_up(self, spec: SitePodSpec, *, say: Callable[[str], None], is_stopped: Callable[[], bool]) -> str:
        """Returns the address of the deployment's pods when all are ready. Adopts what another worker has begun.

        `say`: a line of the deployment's log. What is made stays when this fails: the upkeep removes it, unless another
        worker continues. Raises StageFailure if the quota has no room for long, ArtifactMissing, PlatformError, and
        Cancelled when `is_stopped`.
        """
        address = self.ensure(spec)
        say(f"Starting {counted(spec.replicas, 'pod')} for the site.")
        started = time.monotonic()
        told: set[TroubleKind] = set()
        since: dict[TroubleKind, float] = {}
        while True:
            if is_stopped():
                raise Cancelled
            now = time.monotonic()
            try:
                deployment = self._objects.find("deployments", spec.name)
                if deployment is None:
                    address = self.ensure(spec)
                    continue
                if is_ready(deployment):
                    return address
                trouble = find_trouble(deployment, self._objects.pods(spec.name))
            except ClusterAway as error:
                _log.warning("site_pods.cluster_away", name=spec.name, error=str(error))
                trouble = None
            else:
                since = {} if trouble is None else {trouble.kind: since.get(trouble.kind, now)}
            if trouble is not None:
                if trouble.kind not in told:
                    told.add(trouble.kind)
                    _tell(trouble, say)
                self._check(trouble, spec, now - since[trouble.kind])
            if now - started > _READY_SECONDS:
                waiting = waiting_of(self._objects.pods(spec.name))
                raise PlatformError(f"The pods {spec.name} are not ready after {_READY_SECONDS:.0f} s ({waiting}).")
            time.sleep(_POLL_SECONDS)

    def ensure(self, spec: SitePodSpec) -> str:
        """Makes what is missing of the deployment's objects. Returns the address of its Service."""
        with self._repository.locked(spec.artifact.deployment_id):
            deployment = self._objects.find("deployments", spec.name)
            if deployment is None:
                deployment = self.manifest(spec)
                self._objects.create("deployments", deployment)
            request = self.request(spec)
            # One that has the Secret of an earlier request waits for its renewal.
            if image_and_secret_of(deployment)[1] == secret_name_of(spec, request):
                self._objects.create("secrets", secret_of(spec, request))
            self._objects.create("services", service_of(spec))
            budget = budget_of(spec)
            if budget is not None:
                self._objects.create("poddisruptionbudgets", budget)
            service = self._objects.find("services", spec.name)
        if service is None:
            raise PlatformError(f"The Service {spec.name} was deleted as soon as it was made.")
        return address_of(service)

    def manifest(self, spec: SitePodSpec) -> dict[str, Any]:
        """The Deployment of the present version and settings. Raises ArtifactMissing, PlatformError."""
        artifact = spec.artifact
        files = self._artifacts.manifest(artifact.tenant_id, artifact.manifest_digest).files
        # The same content at two paths takes its room once.
        sizes = {file.digest: file.size for file in files.values()}
        return deployment_of(
            spec,
            self._settings.image,
            self.request(spec),
            bytes_of_files=sum(sizes.values()),
            files=len(files),
            pull_secrets=self._settings.pull_secrets,
        )

    def renew(self, spec: SitePodSpec, deployment: Mapping[str, Any]) -> None:
        """Replaces pods that have another image or Secret than the present ones, one after the other."""
        with self._repository.locked(spec.artifact.deployment_id):
            self._objects.create("secrets", secret_of(spec, self.request(spec)))
            self._objects.replace_template(spec.name, self.manifest(spec)["spec"]["template"])
            former = image_and_secret_of(deployment)[1]
            if former != secret_name_of(spec, self.request(spec)):
                self._objects.delete("secrets", former)

    def is_present(self, spec: SitePodSpec, deployment: Mapping[str, Any]) -> bool:
        """Whether the pods have the present image and Secret."""
        return image_and_secret_of(deployment) == (self._settings.image, secret_name_of(spec, self.request(spec)))

    def close(self) -> None:
        self._objects.close()

    def request(self, spec: SitePodSpec) -> PodRequest:
        return PodRequest(
            artifact=msgspec.structs.replace(spec.artifact, pods_address=None),
            api_url=self._settings.api_url,
            token=artifact_token(self._secret_key, spec.artifact),
            certificates=self._certificates,
        )

    def _check(self, trouble: Trouble, spec: SitePodSpec, seconds: float) -> None:
        """Raises what becomes of a trouble that has lasted for so long."""
        if trouble.kind is TroubleKind.QUOTA:
            if seconds >= self._settings.quota_wait_seconds:
                raise StageFailure(
                    FailureCode.SITE_QUOTA_EXCEEDED,
                    f"The cluster's quota of sites has no room for {counted(spec.replicas, 'pod')} of this site"
                    f" ({trouble.text}). Ask for fewer replicas, use the runtime `files`, or have your operator raise"
                    " the quota.",
                )
            return
        if seconds < _PATIENCE_SECONDS[trouble.kind]:
            return
        if trouble.kind is TroubleKind.ARTIFACT_MISSING:
            raise ArtifactMissing(trouble.text)
        raise PlatformError(f"The pods {spec.name} can't start ({trouble.kind.value}): {trouble.text}")


def _tell(trouble: Trouble, say: Callable[[str], None]) -> None:
    match trouble.kind:
        case TroubleKind.QUOTA:
            say(f"Waiting for room in the cluster's quota of sites: {trouble.text}")
        case TroubleKind.UNSCHEDULABLE:
            say(f"Waiting for a machine with room for the site's pods: {trouble.text}")
        case TroubleKind.IMAGE:
            say("The platform's image for the site's pods can't be used; its operator has to look after that.")
        case TroubleKind.REFUSED | TroubleKind.BROKEN | TroubleKind.CRASHING:
            say("The cluster can't start the site's pods; the platform's operator has to look after that.")
        case TroubleKind.ARTIFACT_MISSING:
            pass
