"""Brings deployments to this router: their files from the object store to the site directory, each one once a time.

Tenants choose the sizes of their sites. So nobody's fetches take more than a part of the threads, and the least
recently used sites leave the disk when the bound is reached; they come back at their next request.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from typing import Any

import structlog

from shared.background import BackgroundThread
from shared.routing.changes import SiteArtifact
from shared.tracing import current_traceparent, span
from workers.artifacts.reader import ArtifactReader
from workers.router.metrics import count_eviction, observe_fetch, show_sites
from workers.router.probe import SiteProbe
from workers.router.site_directory import SiteDirectory

_THREADS = 8
_THREADS_OF_A_TENANT = 3
# A deployment whose fetch has failed isn't tried again sooner, however often it is asked for.
_PAUSE_SECONDS = 2.0
# A site that was asked for or placed so recently stays, whatever the bound says.
_MINIMUM_AGE_SECONDS = 120.0

_log: Any = structlog.get_logger(__name__)


class SiteFetcher:
    """Safe from any thread."""

    def __init__(
        self,
        artifacts: ArtifactReader,
        directory: SiteDirectory,
        probe: SiteProbe,
        *,
        maximum_bytes: int,
    ) -> None:
        self._artifacts = artifacts
        self._directory = directory
        self._probe = probe
        self._maximum_bytes = maximum_bytes
        self._condition = threading.Condition()
        # With the place in a trace at which the fetch was first asked for.
        self._waiting: deque[tuple[SiteArtifact, str | None]] = deque()
        self._futures: dict[str, Future[None]] = {}
        self._running: Counter[str] = Counter()
        self._failed: dict[str, tuple[float, Future[None]]] = {}
        self._used: dict[str, float] = {}
        self._evicting = threading.Lock()
        self._sizes = {
            deployment: directory.size(deployment)
            for deployment in directory.deployments()
            if directory.has_files(deployment)
        }
        self._threads = [BackgroundThread(f"site-fetcher-{number}", self._run) for number in range(_THREADS)]
        self._is_stopping = False

    def start(self) -> None:
        self._show_sites()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads after the fetches that are running, or leaves them after a second."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.stop(1.0 / _THREADS)

    def fetch(self, artifact: SiteArtifact, *, is_forced: bool = True) -> Future[None]:
        """Places and verifies the deployment's files. Returns the running fetch of the deployment if there is one.

        Unless `is_forced`, also one that has just failed. The future raises ArtifactMissing, PlatformError or OSError.
        """
        with self._condition:
            failed_at, failed = self._failed.get(artifact.deployment_id, (0.0, None))
            if failed is not None and not is_forced and time.monotonic() - failed_at < _PAUSE_SECONDS:
                return failed
            future = self._futures.get(artifact.deployment_id)
            if future is None:
                future = self._futures[artifact.deployment_id] = Future()
                self._waiting.append((artifact, current_traceparent()))
                self._condition.notify()
            return future

    def is_fetching(self, deployment_id: str) -> bool:
        with self._condition:
            return deployment_id in self._futures

    def _run(self, _stopping: threading.Event) -> None:
        while (waiting := self._next()) is not None:
            artifact, traceparent = waiting
            started = time.monotonic()
            is_here = self._directory.has(artifact.deployment_id)
            attributes = {"cloudify.deployment_id": artifact.deployment_id, "cloudify.is_present": is_here}
            try:
                # A visitor's request is no part of a trace.
                with span("router fetch", attributes, parent=traceparent, is_exported=traceparent is not None):
                    self._bring(artifact)
            except Exception as error:  # noqa: BLE001 - those who wait for this deployment handle it
                observe_fetch("failed", time.monotonic() - started)
                future = self._end(artifact, has_failed=True)
                future.set_exception(error)
            else:
                observe_fetch("present" if is_here else "placed", time.monotonic() - started)
                self._end(artifact, has_failed=False).set_result(None)

    def _next(self) -> tuple[SiteArtifact, str | None] | None:
        """The oldest fetch whose tenant doesn't use its part of the threads already; None to end the thread."""
        with self._condition:
            while not self._is_stopping:
                for waiting in self._waiting:
                    tenant_id = waiting[0].tenant_id
                    if self._running[tenant_id] < _THREADS_OF_A_TENANT:
                        self._waiting.remove(waiting)
                        self._running[tenant_id] += 1
                        return waiting
                self._condition.wait()
            return None

    def _end(self, artifact: SiteArtifact, *, has_failed: bool) -> Future[None]:
        with self._condition:
            future = self._futures.pop(artifact.deployment_id)
            now = time.monotonic()
            self._failed = {id_: failed for id_, failed in self._failed.items() if now - failed[0] < _PAUSE_SECONDS}
            if has_failed:
                self._failed[artifact.deployment_id] = (now, future)
            self._running[artifact.tenant_id] -= 1
            if not self._running[artifact.tenant_id]:
                del self._running[artifact.tenant_id]
            self._condition.notify_all()
            return future

    def _bring(self, artifact: SiteArtifact) -> None:
        deployment_id = artifact.deployment_id
        if artifact.pods_address is not None:
            self.place_address(deployment_id, artifact.pods_address)
        elif not self._directory.has_files(deployment_id):
            started = time.monotonic()
            manifest = self._artifacts.manifest(artifact.tenant_id, artifact.manifest_digest)
            blobs = self._artifacts.blobs(artifact.tenant_id, manifest)
            self._directory.place(deployment_id, manifest, blobs, is_preview=artifact.is_preview)
            _log.info("router.site_placed", deployment_id=deployment_id, seconds=round(time.monotonic() - started, 3))
            with self._evicting:
                self._sizes[deployment_id] = self._directory.size(deployment_id)
                self._evict()
                self._show_sites()
        if artifact.pods_address is None:
            self._directory.forget_address(deployment_id)
        with self._directory.trial(deployment_id) as host:
            self._probe.verify(host, deployment_id)

    def place_address(self, deployment_id: str, address: str) -> None:
        """The pods at this address serve the deployment, and no files of it are here. Raises OSError."""
        with self._evicting:
            self._directory.place_address(deployment_id, address)
            if self._sizes.pop(deployment_id, None) is not None:
                self._show_sites()

    def delete(self, deployment_id: str) -> None:
        """Deletes a deployment that was discarded. Raises OSError."""
        with self._evicting:
            self._directory.delete(deployment_id)
            self._sizes.pop(deployment_id, None)
            self._used.pop(deployment_id, None)
            self._show_sites()

    @property
    def sites(self) -> int:
        """The number of deployments on this disk."""
        return len(self._sizes)

    def _show_sites(self) -> None:
        show_sites(len(self._sizes), sum(self._sizes.values()))

    def _evict(self) -> None:
        """Deletes the least recently used deployments until the bound holds."""
        total = sum(self._sizes.values())
        if total <= self._maximum_bytes:
            return
        self._used = used = self._last_uses()
        horizon = time.time() - _MINIMUM_AGE_SECONDS
        for deployment in sorted(used, key=used.__getitem__):
            if total <= self._maximum_bytes or used[deployment] > horizon:
                break
            self._directory.delete(deployment)
            freed = self._sizes.pop(deployment)
            total -= freed
            count_eviction()
            _log.info("router.site_evicted", deployment_id=deployment, bytes=freed)

    def _last_uses(self) -> dict[str, float]:
        """When each deployment on this disk was last asked for or placed, as Unix time."""
        uses = {
            deployment: max(self._directory.placed_at(deployment), self._used.get(deployment, 0.0))
            for deployment in self._sizes
        }
        for deployment, used_at in self._directory.take_last_uses().items():
            if deployment in uses:
                uses[deployment] = max(uses[deployment], used_at)
        return uses
