"""The router's internal listener: readiness, its position for other routers, and fetches at a site's first request.

GET /live       200 while the process runs
GET /ready      200 if sites may be asked for here, otherwise 503 with the reason
GET /position   {"epoch", "number", "isComplete"}: the last route change that is applied here, and whether this router
                has the files of all its sites
GET /blobs/<tenant>/<digest>  a file of a site, or a manifest, for other routers
GET /api/metrics/prometheus  the metrics of this process
GET /fetch      from the web server, with the visitor's X-Forwarded-Host: 200 when the site's files are here, 404 for
                a host without a site, 503 with Retry-After if they can't be fetched now. Of a site with pods of its
                own: 200 with X-Cloudify-Pods (their IP:port) and X-Cloudify-Deployment
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import TimeoutError as FetchTimeout
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO, ClassVar
from urllib.parse import urlsplit

import msgspec
import structlog

from shared.errors import PlatformError, Unavailable
from shared.hosts import Hosts
from shared.metrics_listener import METRICS_PATH, own_metrics
from shared.routing.changes import SiteArtifact
from workers.artifacts.reader import ArtifactReader
from workers.router.agent import RouterAgent
from workers.router.fetcher import SiteFetcher
from workers.router.peers import BLOBS_PATH, POSITION_PATH

# Visitors who wait for a fetch at the same time; others are asked to come again.
_WAITING_VISITORS = 64
_VISITOR_SECONDS = 20.0
_RETRY_AFTER_SECONDS = 5

_log: Any = structlog.get_logger(__name__)


class Answer(msgspec.Struct, frozen=True):
    status: HTTPStatus
    body: bytes
    headers: Mapping[str, str] = {}


class _Refusal(Exception):
    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class RouterListener:
    """`domain`: sites are at `<label>.<domain>`."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        agent: RouterAgent,
        fetcher: SiteFetcher,
        artifacts: ArtifactReader,
        domain: str,
        names: Iterable[str] = (),
    ) -> None:
        """`names`: host names that the listener answers to, besides addresses and localhost."""
        self._hosts = Hosts(names)
        self._agent = agent
        self._fetcher = fetcher
        self._artifacts = artifacts
        self._suffix = f".{domain}"
        self._waiting = threading.BoundedSemaphore(_WAITING_VISITORS)
        self._server = _server(host, port, self)

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, name="router-listener", daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, host: str, forwarded_host: str) -> Answer:
        """The answer to a request."""
        if not self._hosts.admits(host):
            return Answer(HTTPStatus.MISDIRECTED_REQUEST, b"This listener answers to addresses and to its own names.\n")
        try:
            match urlsplit(path).path:
                case "/live":
                    return Answer(HTTPStatus.OK, b"live\n")
                case "/ready":
                    self._check_ready()
                    return Answer(HTTPStatus.OK, b"ready\n")
                case path if path == POSITION_PATH:
                    return Answer(HTTPStatus.OK, msgspec.json.encode(self._agent.peer_state))
                case path if path == METRICS_PATH:
                    return Answer(HTTPStatus.OK, own_metrics())
                case "/fetch":
                    return Answer(HTTPStatus.OK, b"", self._fetch(forwarded_host))
                case _:
                    return Answer(HTTPStatus.NOT_FOUND, b"There is nothing here.\n")
        except _Refusal as refusal:
            return Answer(refusal.status, f"{refusal.text}\n".encode())

    def open_blob(self, path: str, host: str) -> BinaryIO | None:
        """The content for a request of another router; None if it isn't here."""
        tenant_id, _, digest = path.removeprefix(BLOBS_PATH).partition("/")
        try:
            file = self._artifacts.find(tenant_id, digest) if self._hosts.admits(host) else None
            return None if file is None else file.open("rb")
        except (ValueError, OSError):
            return None

    def _check_ready(self) -> None:
        problem = self._agent.problem
        if problem is not None:
            raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, problem)

    def _fetch(self, forwarded_host: str) -> dict[str, str]:
        """Returns when the site can be served: the headers that name its pods, none if its files are here."""
        name = forwarded_host.lower().rsplit(":", 1)[0].removesuffix(".")
        label = name.removesuffix(self._suffix)
        if pods := self._pods_of(label):
            return pods
        artifact = self._artifact_of(label)
        if not self._waiting.acquire(blocking=False):
            raise _busy()
        deadline = time.monotonic() + _VISITOR_SECONDS
        try:
            self._fetcher.fetch(artifact, is_forced=False).result(_VISITOR_SECONDS)
            # Another deployment may have been activated meanwhile, whose files aren't here either.
            while self._agent.current(label) != artifact.deployment_id:
                artifact = self._artifact_of(label)
                self._fetcher.fetch(artifact, is_forced=False).result(max(0.0, deadline - time.monotonic()))
        except FetchTimeout as error:
            # The fetch continues.
            raise _busy() from error
        except (PlatformError, Unavailable, OSError) as error:
            _log.warning("router.fetch_failed", deployment_id=artifact.deployment_id, error=str(error))
            raise _busy() from error
        finally:
            self._waiting.release()
        return self._pods_of(label)

    def _pods_of(self, label: str) -> dict[str, str]:
        deployment_id = self._agent.current(label)
        address = None if deployment_id is None else self._agent.pods_address(deployment_id)
        if deployment_id is None or address is None:
            return {}
        return {"X-Cloudify-Pods": address, "X-Cloudify-Deployment": deployment_id}

    def _artifact_of(self, label: str) -> SiteArtifact:
        try:
            artifact = self._agent.find_artifact(label)
        except Unavailable as error:
            raise _busy() from error
        if artifact is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "There is no site here.")
        return artifact


def _busy() -> _Refusal:
    return _Refusal(
        HTTPStatus.SERVICE_UNAVAILABLE, "The site can't be fetched at the moment; try again in a few seconds."
    )


def _server(host: str, port: int, listener: RouterListener) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An invalid request gets a status line, too.
        default_request_version = "HTTP/1.1"
        server_version = "cloudify"
        sys_version = ""
        # A client that sends nothing must not keep its thread.
        timeout: ClassVar[float | None] = 30.0

        def do_GET(self) -> None:
            if self.path.startswith(BLOBS_PATH):
                file = listener.open_blob(self.path, self.headers.get("Host", ""))
                if file is not None:
                    with file:
                        self._send_file(file)
                    return
            answer = listener.answer(self.path, self.headers.get("Host", ""), self.headers.get("X-Forwarded-Host", ""))
            self.send_response(answer.status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Cache-Control", "no-store")
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                self.send_header("Retry-After", str(_RETRY_AFTER_SECONDS))
            self.end_headers()
            self.wfile.write(answer.body)

        def _send_file(self, file: BinaryIO) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            shutil.copyfileobj(file, self.wfile)

        def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
            """Whatever is no request of ours."""
            self.close_connection = True
            self.send_response_only(HTTPStatus.BAD_REQUEST)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Probes are not logged."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    return Server((host, port), Handler)
