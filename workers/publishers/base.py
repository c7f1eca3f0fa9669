"""The seam between a release and whatever serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from schemas.artifacts import Manifest


class Publisher(Protocol):
    """Every method is idempotent and may be repeated after a crash at any point of an earlier call."""

    def publish(self, deployment_id: str, manifest: Manifest, blob_path: dict[str, Path], *, is_preview: bool) -> None:
        """Makes the deployment's files servable, unseen by any host yet. `blob_path`: digest → local file."""
        ...

    def activate(self, host: str, deployment_id: str) -> str | None:
        """Points the host at the deployment, atomically; returns the deployment it pointed at before."""
        ...

    def current(self, host: str) -> str | None:
        """The deployment that the host points at."""
        ...

    def verify(self, host: str, deployment_id: str) -> None:
        """Fetches the site through the router; raises PlatformError unless it serves this deployment."""
        ...

    def remove_host(self, host: str) -> None:
        """The host answers 404 from now on."""
        ...

    def remove_deployment(self, deployment_id: str) -> None:
        """Deletes the deployment's files. The caller has removed every host that pointed at it."""
        ...

    def is_published(self, deployment_id: str) -> bool: ...

    def hosts(self) -> dict[str, str]:
        """Host → deployment, of every host that answers."""
        ...
