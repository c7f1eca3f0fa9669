"""Sites with pods of their own, in a cluster."""

from __future__ import annotations

from collections.abc import Iterator

from shared.settings.declaration import part, setting
from shared.settings.kinds import IMAGE, NAMES, TEXT, integer, url


@part
class SitePodSettings:
    """Sites with pods of their own (`runtime: pods`), which some clusters offer."""

    namespace: str = setting(
        "SITES_NAMESPACE",
        TEXT,
        "Namespace of sites with pods of their own, of this platform alone. Without it, no project can have them.",
        default="",
    )
    image: str = setting("SITES_IMAGE", IMAGE, "Image of these pods: that of the platform.", default="")
    pull_secrets: tuple[str, ...] = setting(
        "SITES_PULL_SECRETS",
        NAMES,
        "Secrets of the namespace of sites by which its nodes pull the image from a private registry.",
        default=(),
    )
    api_url: str = setting(
        "SITES_API_URL",
        url("http", "https"),
        "Where these pods reach the API to fetch their site. They reach the object store as build pods do"
        " (`CLOUDIFY_S3_LINK_ENDPOINT`).",
        default="",
    )
    maximum_replicas: int = setting(
        "SITES_MAXIMUM_REPLICAS", integer(1, 100), "The most pods that a project may ask for.", default=3
    )
    former_kept: int = setting(
        "SITES_FORMER_KEPT",
        integer(0, 20),
        "Former production deployments of a project whose pods stay for a rollback at once. A rollback to another one"
        " starts its pods first.",
        default=1,
    )
    quota_wait_seconds: int = setting(
        "SITES_QUOTA_WAIT_SECONDS",
        integer(1, 3600),
        "Time that a deployment waits while the namespace's quota has no room for its pods.",
        default=120,
    )

    @property
    def is_offered(self) -> bool:
        """Whether projects can have pods of their own."""
        return bool(self.namespace)

    def problems(self) -> Iterator[str]:
        if self.namespace and not (self.image and self.api_url):
            yield (
                "CLOUDIFY_SITES_NAMESPACE is set, so CLOUDIFY_SITES_IMAGE and CLOUDIFY_SITES_API_URL are needed, too:"
                " the platform's image, and where pods reach the API."
            )
