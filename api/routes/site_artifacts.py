"""The internal endpoint from which the pods of a site fetch it (shared/releases/artifact_access.py). It takes their own
token alone, so it is no part of the API's description."""

from __future__ import annotations

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from api.connections import PublicRequest
from api.responses import success
from api.services import Services
from schemas.artifacts import ArtifactLinks
from schemas.envelope import Success

_SCHEME = "Bearer "


class SiteArtifactController(Controller):
    path = "/site-artifacts"
    include_in_schema = False

    @get("/{deployment_id:str}/{after:int}", opt={"public": True, "threads": "logs"}, sync_to_thread=True)
    def get_links(
        self,
        request: PublicRequest,
        deployment_id: FromPath[str],
        after: FromPath[int],
        services: NamedDependency[Services],
    ) -> Success[ArtifactLinks]:
        """Links to the manifest and to a page of the blobs, from the number `after` on."""
        token = request.headers.get("Authorization", "").removeprefix(_SCHEME)
        return success(services.artifact_access.links(deployment_id, token, after=max(after, 0)))
