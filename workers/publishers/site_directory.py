"""Publishes by directory: files are placed once per deployment, and a host label is a symlink that rename(2) replaces.

    sites/.deployments/<deployment>/files/…     the site, hard links into the blob cache, dated by their content
    sites/.deployments/<deployment>/meta/…      deployment.txt (the id), preview (present on previews)
    sites/<label>/current -> ../.deployments/<deployment>

A static Caddy configuration serves `sites/<first label of the host name>/current/files`; nothing is ever reloaded.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import tenacity

from schemas.artifacts import Manifest
from shared.db.database import Database
from shared.errors import PlatformError
from shared.settings import Settings
from workers.filesystem.trees import remove_tree
from workers.publishers.base import BlobReader, Publisher

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DEPLOYMENT = re.compile(r"[a-z]+_[0-9a-z]+")
_PARTIAL = ".partial"
_SWEPT_AFTER_SECONDS = 3600.0
_VERIFY_PATH = "/.well-known/cloudify/deployment"


def open_publisher(settings: Settings, _database: Database) -> Publisher:
    """See PublisherBackend."""
    return SiteDirectoryPublisher(
        settings.directories.sites, router_url=settings.sites.router_url, domain=settings.sites.domain
    )


class SiteDirectoryPublisher:
    """Implements Publisher. `router_url`: where the site router answers. `domain` completes a label to a host name."""

    def __init__(self, sites_directory: Path, *, router_url: str, domain: str, verify_seconds: float = 15) -> None:
        self._sites = sites_directory
        self._router_url = router_url
        self._domain = domain
        self._verify_seconds = verify_seconds

    def publish(self, deployment_id: str, manifest: Manifest, blobs: BlobReader, *, is_preview: bool) -> None:
        target = self._deployment_directory(deployment_id)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        building = target.with_name(f"{deployment_id}.{uuid.uuid4().hex}{_PARTIAL}")
        try:
            self._fill(building, deployment_id, manifest, blobs.local_files(), is_preview=is_preview)
            building.rename(target)
        except OSError:
            remove_tree(building)
            # Another worker may have been first, with the same content.
            if not target.exists():
                raise

    def _fill(
        self,
        building: Path,
        deployment_id: str,
        manifest: Manifest,
        blobs: Mapping[str, Path],
        *,
        is_preview: bool,
    ) -> None:
        files = building / "files"
        files.mkdir(parents=True)
        for name, file in manifest.files.items():
            destination = files / name
            destination.parent.mkdir(parents=True, exist_ok=True)
            _place(blobs[file.digest], destination)
            _date(destination, file.digest)
        meta = building / "meta"
        meta.mkdir()
        (meta / "deployment.txt").write_text(deployment_id)
        if is_preview:
            (meta / "preview").touch()

    def activate(self, label: str, deployment_id: str) -> str | None:
        if not self._deployment_directory(deployment_id).is_dir():
            raise PlatformError(f"The files of {deployment_id} are not published here.")
        directory = self._label_directory(label)
        directory.mkdir(parents=True, exist_ok=True)
        former = self.current(label)
        fresh = directory / f".current-{uuid.uuid4().hex}"
        fresh.symlink_to(Path("..") / ".deployments" / deployment_id)
        fresh.replace(directory / "current")
        return former

    def current(self, label: str) -> str | None:
        try:
            return (self._label_directory(label) / "current").readlink().name
        except FileNotFoundError:
            return None

    def verify(self, label: str, deployment_id: str) -> None:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PlatformError),
            wait=tenacity.wait_exponential(multiplier=0.05, max=1),
            stop=tenacity.stop_after_delay(self._verify_seconds),
            reraise=True,
        )
        retrying(self._fetch, label, deployment_id)

    def deactivate(self, label: str) -> None:
        remove_tree(self._label_directory(label))

    def remove_deployment(self, deployment_id: str) -> None:
        remove_tree(self._deployment_directory(deployment_id))

    def sweep(self, is_removed: Callable[[str], bool]) -> None:
        """See Publisher.sweep. Nothing else would delete these files."""
        horizon = time.time() - _SWEPT_AFTER_SECONDS
        directory, served = self._sites / ".deployments", set(self.sites().values())
        for published in list(directory.iterdir()) if directory.is_dir() else ():
            if published.name.endswith(_PARTIAL):
                is_left = published.lstat().st_mtime < horizon
            else:
                is_left = published.name not in served and is_removed(published.name)
            if is_left:
                remove_tree(published)

    def is_published(self, deployment_id: str) -> bool:
        return self._deployment_directory(deployment_id).is_dir()

    def sites(self) -> dict[str, str]:
        """Host label → deployment, of all sites that answer."""
        if not self._sites.is_dir():
            return {}
        labels = [entry.name for entry in self._sites.iterdir() if _LABEL.fullmatch(entry.name)]
        return {label: current for label in labels if (current := self.current(label)) is not None}

    def _fetch(self, label: str, deployment_id: str) -> None:
        # Loaded by the pools that publish, not by all that build a publisher.
        import httpx

        # The router is addressed directly, not through a proxy of the environment or the public name.
        try:
            # Reading the certificates takes longer than the rest of the stage, and mostly none are needed.
            is_encrypted = self._router_url.startswith("https:")
            with httpx.Client(trust_env=False, timeout=5, verify=is_encrypted) as client:
                response = client.get(self._router_url + _VERIFY_PATH, headers={"Host": f"{label}.{self._domain}"})
        except httpx.HTTPError as error:
            raise PlatformError(f"The site router doesn't answer: {error}.") from error
        if response.status_code != 200 or response.text.strip() != deployment_id:
            raise PlatformError(f"The site router answers {response.status_code} for {label}, not this deployment.")

    def _label_directory(self, label: str) -> Path:
        if not _LABEL.fullmatch(label):
            raise ValueError(f"{label!r} is not a host label")
        return self._sites / label

    def _deployment_directory(self, deployment_id: str) -> Path:
        if not _DEPLOYMENT.fullmatch(deployment_id):
            raise ValueError(f"{deployment_id!r} is not a deployment's id")
        return self._sites / ".deployments" / deployment_id


def _date(file: Path, digest: str) -> None:
    """Gives the file a time that is made from its content's digest: the router's ETag is made of time and size, so it
    then names the content, on every machine and in every release. All links of a blob get the same time."""
    seconds = 1_000_000_000 + int(digest[:7], 16)
    nanoseconds = int(digest[7:15], 16) % 1_000_000_000
    moment = seconds * 1_000_000_000 + nanoseconds
    os.utime(file, ns=(moment, moment))


def _place(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination)
    except OSError:
        # Another filesystem, or the link limit of this one.
        shutil.copyfile(source, destination)
