"""The files of a site router: a deployment's are placed once, and a host is a symlink that rename(2) replaces.

    sites/.deployments/<deployment>/files/…     the site, hard links into the blob cache, dated by their content
    sites/.deployments/<deployment>/meta/…      deployment.txt (the id), preview (present on previews), bytes (the
                                                size), application or pages (as the manifest says, if it does)
    sites/.pods/<deployment>                    host and port of the pods that serve it instead, without any files here
    sites/<host>/current -> ../.deployments/<deployment>

A static Caddy configuration serves `sites/<first label of the host>/current/files`; nothing is ever reloaded. A link
that leads nowhere is a route whose files aren't here yet, or whose deployment has pods of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from schemas.artifacts import Manifest
from workers.filesystem.trees import remove_tree

_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DEPLOYMENT = re.compile(r"[a-z]+_[0-9a-z]+")
_ADDRESS = re.compile(r"[0-9a-f.:\[\]]{3,45}:[0-9]{1,5}")
_PARTIAL = ".partial"
_TRASH = ".trash"
# Of nobody's project: its random part is the length of a digest.
_TRIAL = re.compile(r"trial-[0-9a-f]{32}")


class SiteDirectory:
    """Of one router process. Safe from any thread, and after a crash at any point of an earlier call."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._deployments = root / ".deployments"
        self._pods = root / ".pods"
        self._deployments.mkdir(parents=True, exist_ok=True)
        self._pods.mkdir(exist_ok=True)

    # Deployments

    def place(self, deployment_id: str, manifest: Manifest, blobs: Mapping[str, Path], *, is_preview: bool) -> None:
        """Places the files of the manifest. `blobs`: digest → file, which is linked or copied. Raises OSError."""
        target = self._deployment(deployment_id)
        if target.exists():
            return
        building = target.with_name(f"{deployment_id}.{uuid.uuid4().hex}{_PARTIAL}")
        try:
            _fill(building, deployment_id, manifest, blobs, is_preview=is_preview)
            building.rename(target)
        except OSError:
            remove_tree(building)
            # Another thread may have been first, with the same content.
            if not target.exists():
                raise

    def place_address(self, deployment_id: str, address: str) -> None:
        """The pods at this address (IP:port) serve the deployment, and no files of it are here. Raises OSError."""
        if not _ADDRESS.fullmatch(address):
            raise ValueError(f"{address!r} is not an address of pods")
        target = self._address(deployment_id)
        if self.address(deployment_id) != address:
            fresh = target.with_name(f"{deployment_id}.{uuid.uuid4().hex}{_PARTIAL}")
            fresh.write_text(address)
            fresh.replace(target)
        self._discard_files(deployment_id)

    def forget_address(self, deployment_id: str) -> None:
        """Files serve the deployment from now on."""
        self._address(deployment_id).unlink(missing_ok=True)

    def address(self, deployment_id: str) -> str | None:
        """The address of the deployment's pods; None if it has none, as far as this router knows."""
        try:
            return self._address(deployment_id).read_text()
        except FileNotFoundError:
            return None

    def has(self, deployment_id: str) -> bool:
        """Whether it is known here what serves the deployment: files, or pods."""
        return self._deployment(deployment_id).is_dir() or self._address(deployment_id).is_file()

    def has_files(self, deployment_id: str) -> bool:
        return self._deployment(deployment_id).is_dir()

    def size(self, deployment_id: str) -> int:
        """The bytes of the deployment's files; 0 if it isn't here or was placed by an earlier version."""
        try:
            return int((self._deployment(deployment_id) / "meta" / "bytes").read_text())
        except (OSError, ValueError):
            return 0

    def placed_at(self, deployment_id: str) -> float:
        """Unix time; 0 if it isn't here."""
        try:
            return self._deployment(deployment_id).lstat().st_mtime
        except FileNotFoundError:
            return 0.0

    def delete(self, deployment_id: str) -> None:
        """Deletes the deployment's files. They disappear at once, so no request sees a part of them."""
        self.forget_address(deployment_id)
        self._discard_files(deployment_id)

    def _discard_files(self, deployment_id: str) -> None:
        trash = self._deployments / f"{uuid.uuid4().hex}{_TRASH}"
        with contextlib.suppress(FileNotFoundError):
            self._deployment(deployment_id).rename(trash)
            remove_tree(trash)

    def deployments(self) -> list[str]:
        """Every deployment whose files are here, or the address of its pods."""
        names = {entry.name for folder in (self._deployments, self._pods) for entry in folder.iterdir()}
        return [name for name in names if _DEPLOYMENT.fullmatch(name)]

    def sweep(self) -> None:
        """Deletes what a former process left half-done. Call it before anything is placed."""
        for entry in (*self._deployments.iterdir(), *self._pods.iterdir()):
            if entry.name.endswith((_PARTIAL, _TRASH)):
                remove_tree(entry)
        for entry in self._root.iterdir():
            if _TRIAL.fullmatch(entry.name):
                remove_tree(entry)

    # Routes

    def route(self, host: str, deployment_id: str) -> str | None:
        """Points the host at the deployment, atomically. Returns the deployment that it pointed at before."""
        target = Path("..") / ".deployments" / self._deployment(deployment_id).name
        directory = self._host(host)
        former = self.current(host)
        if former == deployment_id:
            return former
        directory.mkdir(parents=True, exist_ok=True)
        fresh = directory / f".current-{uuid.uuid4().hex}"
        fresh.symlink_to(target)
        fresh.replace(directory / "current")
        return former

    def unroute(self, host: str) -> None:
        """The host answers 404 from now on."""
        remove_tree(self._host(host))

    def current(self, host: str) -> str | None:
        """The deployment that the host points at."""
        try:
            return (self._host(host) / "current").readlink().name
        except FileNotFoundError:
            return None

    def routes(self) -> dict[str, str]:
        """Host → deployment, of every host that has a route."""
        names = [entry.name for entry in self._root.iterdir()]
        labels = [name for name in names if _HOST.fullmatch(name) and not _TRIAL.fullmatch(name)]
        return {label: current for label in labels if (current := self.current(label)) is not None}

    def take_last_uses(self) -> dict[str, float]:
        """Deployment → when one of its hosts was last asked for since the previous call, as Unix time.

        It has no deployment that wasn't asked for. The kernel dates a link when it is followed or read, if its date is
        older than its last change; so the date is set back. A filesystem that keeps no such dates tells of no use.
        """
        uses: dict[str, float] = {}
        for entry in self._root.iterdir():
            link = entry / "current"
            with contextlib.suppress(OSError):
                status = link.lstat()
                # Reading the link is no use of the site, so the date is set back only now.
                deployment_id = link.readlink().name
                os.utime(link, (0, status.st_mtime), follow_symlinks=False)
                if status.st_atime > 0:
                    uses[deployment_id] = max(uses.get(deployment_id, 0.0), status.st_atime)
        return uses

    @contextmanager
    def trial(self, deployment_id: str) -> Generator[str]:
        """A host that serves the deployment during the block, for a look at it before anybody else can see it."""
        host = f"trial-{uuid.uuid4().hex}"
        self.route(host, deployment_id)
        try:
            yield host
        finally:
            self.unroute(host)

    def _host(self, host: str) -> Path:
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is not a host label")
        return self._root / host

    def _deployment(self, deployment_id: str) -> Path:
        return self._deployments / _checked(deployment_id)

    def _address(self, deployment_id: str) -> Path:
        return self._pods / _checked(deployment_id)


def _checked(deployment_id: str) -> str:
    if not _DEPLOYMENT.fullmatch(deployment_id):
        raise ValueError(f"{deployment_id!r} is not a deployment's id")
    return deployment_id


def _fill(
    building: Path, deployment_id: str, manifest: Manifest, blobs: Mapping[str, Path], *, is_preview: bool
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
    (meta / "bytes").write_text(str(sum(file.size for file in manifest.files.values())))
    if is_preview:
        (meta / "preview").touch()
    if manifest.serving is not None:
        (meta / ("application" if manifest.serving.is_application else "pages")).touch()
    now = time.time()
    os.utime(building, (now, now))


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
