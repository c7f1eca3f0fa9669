"""What the pods of a site are told, and what they answer with."""

from __future__ import annotations

import msgspec

from shared.routing.changes import SiteArtifact

PORT = 8080
# Exit codes of the init container; every other one is a failure that its next start may not meet.
ARTIFACT_MISSING, NOT_ALLOWED = 3, 4


class PodRequest(msgspec.Struct, frozen=True):
    """`token`: good for this artifact alone, for as long as the deployment is kept. `certificates`: PEM, to trust in
    addition to the image's.
    """

    artifact: SiteArtifact
    api_url: str
    token: str
    certificates: str = ""
