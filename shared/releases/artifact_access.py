"""What the pods of a site may fetch: the one artifact of their deployment, for as long as the deployment is kept.

Pods start again at any time, so their token doesn't expire. It names a deployment and a manifest, and is worth nothing
once the deployment is deleted, withdrawn or has another artifact. The links that it is changed into live for an hour.
"""

from __future__ import annotations

import hmac

import msgspec

from schemas.artifacts import ArtifactLinks, Manifest
from shared.errors import NotFound
from shared.releases.site_pod_repository import SitePodRepository
from shared.routing.changes import SiteArtifact
from shared.storage.base import ArtifactStore, ObjectNotFound
from shared.storage.keys import blob_key, manifest_key

LINK_SECONDS = 3600
_PAGE = 500


def artifact_token(secret_key: bytes, artifact: SiteArtifact) -> str:
    """The token of the pods of this deployment with this manifest."""
    subject = f"site artifact\x00{artifact.deployment_id}\x00{artifact.manifest_digest}"
    return hmac.digest(secret_key, subject.encode(), "sha256").hex()


class ArtifactAccessService:
    def __init__(self, *, sites: SitePodRepository, store: ArtifactStore, secret_key: bytes) -> None:
        self._sites = sites
        self._store = store
        self._secret_key = secret_key

    def links(self, deployment_id: str, token: str, *, after: int) -> ArtifactLinks:
        """Links to the manifest and to a page of its files, from the number `after` on.

        Raises NotFound for an unknown deployment and a wrong token alike, Unavailable without the object store.
        """
        artifact = self._sites.find_fetchable(deployment_id)
        if artifact is None or not hmac.compare_digest(
            artifact_token(self._secret_key, artifact).encode(), token.encode()
        ):
            raise NotFound("There is no such artifact.")
        tenant_id, manifest_digest = artifact.tenant_id, artifact.manifest_digest
        digests = self._digests(tenant_id, manifest_digest)
        page = digests[after : after + _PAGE]
        following = after + _PAGE
        return ArtifactLinks(
            manifest=self._store.link(manifest_key(tenant_id, manifest_digest), LINK_SECONDS),
            blobs={digest: self._store.link(blob_key(tenant_id, digest), LINK_SECONDS) for digest in page},
            next=following if following < len(digests) else None,
        )

    def _digests(self, tenant_id: str, manifest_digest: str) -> list[str]:
        """Of all files, in an order that doesn't change."""
        try:
            manifest = msgspec.json.decode(
                self._store.get_bytes(manifest_key(tenant_id, manifest_digest)), type=Manifest
            )
        except (ObjectNotFound, msgspec.MsgspecError) as error:
            raise NotFound("The artifact is no longer in the object store.") from error
        files = manifest.files.values()
        return sorted({digest for file in files for digest in (file.digest, *file.variants.values())})
