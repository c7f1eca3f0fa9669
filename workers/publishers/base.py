"""The seam between a release and the servers of its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from schemas.artifacts import Manifest


class BlobReader(Protocol):
    """The content of one artifact's files. Nothing is fetched before it is asked for."""

    def local_files(self) -> Mapping[str, Path]:
        """Digest → a file of this machine, of every file of the manifest and every variant.

        Link or copy the files soon: they stay for an hour at least. Raises PlatformError.
        """
        ...


class Publisher(Protocol):
    """Every method is idempotent and may be repeated after a crash at any point of an earlier call."""

    def publish(self, deployment_id: str, manifest: Manifest, blobs: BlobReader, *, is_preview: bool) -> None:
        """Makes the deployment's files servable, under no host label yet. Pulls the content that it needs
        from `blobs`. Raises PlatformError, also if a part of the artifact is lost.
        """
        ...

    def activate(self, label: str, deployment_id: str) -> str | None:
        """Points the host label at the deployment, atomically; returns the deployment it pointed at before.

        Raises PlatformError for a deployment that is not published.
        """
        ...

    def current(self, label: str) -> str | None:
        """The deployment that the host label points at."""
        ...

    def verify(self, label: str, deployment_id: str) -> None:
        """Fetches the site through the router; raises PlatformError unless it serves this deployment."""
        ...

    def deactivate(self, label: str) -> None:
        """The host label answers 404 from now on."""
        ...

    def remove_deployment(self, deployment_id: str) -> None:
        """Deletes the deployment's files. The caller has deactivated every host label that pointed at it."""
        ...

    def is_published(self, deployment_id: str) -> bool: ...

    def sites(self) -> dict[str, str]:
        """Host label → deployment, of every site that answers."""
        ...

    def sweep(self, is_removed: Callable[[str], bool]) -> None:
        """Deletes the remains of workers that died while publishing: incomplete files, and files of deployments that
        were removed meanwhile (`is_removed`, given a deployment) and that no host label points at. Called every hour.
        """
        ...
