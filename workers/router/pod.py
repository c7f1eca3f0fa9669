"""What runs in the pods of a site that has its own. Both containers have the image of the platform.

`python -m workers.router.pod fetch REQUEST DIRECTORY`  the init container: brings the site's files, as a router does
`python -m workers.router.pod serve DEPLOYMENT DIRECTORY`  becomes the web server, with the rules of the routers

The files are verified by their digests, whatever the links lead to. What `fetch` can't do ends as a line of its log and
an exit code; the kubelet starts it again, which continues with what is there.
"""

from __future__ import annotations

import os
import ssl
import sys
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from schemas.artifacts import ArtifactLinks
from shared.errors import PlatformError
from shared.stack.caddy import arguments
from shared.stack.server import program
from shared.storage.base import ObjectNotFound
from workers.artifacts.reader import ArtifactMissing, ArtifactReader
from workers.router.site_directory import SiteDirectory
from workers.site_pods.pod_request import ARTIFACT_MISSING, NOT_ALLOWED, PORT, PodRequest

T = TypeVar("T")

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 1.0
_CHUNK = 1 << 20


class NotAllowed(PlatformError):
    """The platform doesn't know the token, or no longer."""


class LinkedStore:
    """The part of an ArtifactStore that reads, by links of the platform's artifact endpoint. Safe from any thread."""

    def __init__(self, request: PodRequest, client: httpx.Client, *, patience_seconds: float) -> None:
        self._request = request
        self._client = client
        self._patience_seconds = patience_seconds
        self._links: dict[str, str] = {}

    def load_links(self) -> None:
        """Asks the endpoint for all links. Raises NotAllowed, PlatformError."""
        after: int | None = 0
        while after is not None:
            page = self._patiently(partial(self._page, after))
            self._links |= {f"blobs/{digest}": link for digest, link in page.blobs.items()}
            self._links["manifests"] = page.manifest
            after = page.next

    def get_bytes(self, key: str) -> bytes:
        """Raises ObjectNotFound, PlatformError."""
        return self._patiently(lambda: self._opened(self._link(key), lambda response: response.read()))

    def get_file(self, key: str, path: Path) -> None:
        """Raises ObjectNotFound, PlatformError."""

        def write(response: httpx.Response) -> None:
            with path.open("wb") as file:
                for chunk in response.iter_bytes(_CHUNK):
                    file.write(chunk)

        self._patiently(lambda: self._opened(self._link(key), write))

    def delete(self, key: str) -> None:
        raise AssertionError(f"nobody here may delete {key}")

    def _link(self, key: str) -> str:
        """Keys are `manifests/<tenant>/<digest>.json` and `blobs/<tenant>/<digest>`; there is one manifest."""
        kind, _, name = key.split("/")
        link = self._links.get(kind if kind == "manifests" else f"{kind}/{name}")
        if link is None:
            raise ObjectNotFound(key)
        return link

    def _page(self, after: int) -> ArtifactLinks:
        url = f"{self._request.api_url}/api/site-artifacts/{self._request.artifact.deployment_id}/{after}"
        headers = {"Authorization": f"Bearer {self._request.token}"}
        response = self._client.get(url, headers=headers)
        if response.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise NotAllowed("The platform no longer gives out the files of this deployment.")
        response.raise_for_status()
        return msgspec.json.decode(response.content, type=_Answer).data

    def _opened(self, link: str, read: Callable[[httpx.Response], T]) -> T:
        with self._client.stream("GET", link) as response:
            if response.status_code == HTTPStatus.NOT_FOUND:
                raise ObjectNotFound(link)
            response.raise_for_status()
            return read(response)

    def _patiently(self, call: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._patience_seconds
        while True:
            try:
                return call()
            except httpx.HTTPStatusError as error:
                # Without the link, which is a credential for an hour.
                problem = f"{error.request.url.host} answers {error.response.status_code}"
                if error.response.status_code in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN):
                    # A link that has expired: the next start asks for another one.
                    raise PlatformError(f"The object store refuses a link: {problem}.") from error
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__} {error}"
            if time.monotonic() > deadline:
                raise PlatformError(f"The site can't be fetched: {problem}.")
            time.sleep(_PAUSE_SECONDS)


class _Answer(msgspec.Struct):
    data: ArtifactLinks


def fetch(request: PodRequest, directory: Path, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
    """Places and verifies the files below `directory`. May be repeated. Raises ArtifactMissing, PlatformError."""
    context = ssl.create_default_context()
    if request.certificates:
        context.load_verify_locations(cadata=request.certificates)
    with httpx.Client(verify=context, trust_env=False, timeout=_TIMEOUT) as client:
        store = LinkedStore(request, client, patience_seconds=patience_seconds)
        store.load_links()
        # Links of the same filesystem, so that the files take their room once.
        reader = ArtifactReader(store, directory / "cache", may_repair=False)
        artifact = request.artifact
        manifest = reader.manifest(artifact.tenant_id, artifact.manifest_digest)
        blobs = reader.blobs(artifact.tenant_id, manifest)
        sites = SiteDirectory(directory / "sites")
        sites.sweep()
        sites.place(artifact.deployment_id, manifest, blobs, is_preview=artifact.is_preview)


def serve(deployment_id: str, directory: Path, *, host: str = "0.0.0.0", port: int = PORT) -> None:
    """Becomes the web server."""
    environment = {
        **os.environ,
        "CADDY_PORT": str(port),
        "CADDY_BIND": host,
        "CADDY_DEPLOYMENT": deployment_id,
        # Relative to the working directory, as in a router.
        "CADDY_SITE": f".deployments/{deployment_id}",
        "XDG_DATA_HOME": "/tmp/caddy",  # noqa: S108 - the container's own
        "XDG_CONFIG_HOME": "/tmp/caddy",  # noqa: S108 - as above
        "GOMEMLIMIT": "64MiB",
        "GOGC": "50",
    }
    os.chdir(directory / "sites")
    caddy = program("caddy")
    os.execve(caddy, [str(caddy), *map(str, arguments("pod.caddy"))], environment)  # noqa: S606 - replaces this process


def main() -> int:
    try:
        match sys.argv[1:]:
            case ["fetch", request, directory]:
                fetch(msgspec.json.decode(Path(request).read_bytes(), type=PodRequest), Path(directory))
            case ["serve", deployment_id, directory]:
                serve(deployment_id, Path(directory))
            case _:
                return _end(__doc__ or "", 2)
    except NotAllowed as error:
        return _end(str(error), NOT_ALLOWED)
    except ArtifactMissing as error:
        return _end(str(error), ARTIFACT_MISSING)
    except (PlatformError, OSError) as error:
        return _end(str(error), 1)
    return 0


def _end(text: str, code: int) -> int:
    print(text, file=sys.stderr)  # noqa: T201 - the log of the container
    return code


if __name__ == "__main__":
    raise SystemExit(main())
