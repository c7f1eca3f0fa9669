"""Fetches the files of sites that were served here, and whose present deployment isn't here.

Usually a deployment is here before it is activated. It isn't if the router was away then, or couldn't fetch it. As long
as another router has all of its sites, visitors are better off there.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from shared.background import PeriodicTask
from shared.errors import Unavailable
from shared.routing.changes import SiteArtifact
from workers.artifacts.reader import ArtifactMissing
from workers.router.fetcher import SiteFetcher
from workers.router.peers import Peers
from workers.router.site_directory import SiteDirectory

_INTERVAL_SECONDS = 0.2
# Asked at a time.
_ASKED_PEERS = 3

_log: Any = structlog.get_logger(__name__)


class CatchUp:
    """From `start` to `stop`; safe from any thread. `find_artifact` is the agent's."""

    def __init__(
        self,
        directory: SiteDirectory,
        fetcher: SiteFetcher,
        peers: Peers,
        find_artifact: Callable[[str], SiteArtifact | None],
    ) -> None:
        self._directory = directory
        self._fetcher = fetcher
        self._peers = peers
        self._find_artifact = find_artifact
        self._hosts: set[str] = set()
        self._has_substitute = True
        # Asked first, or the answer would depend on who is asked.
        self._substitute: str | None = None
        self._lock = threading.Lock()
        self._task = PeriodicTask("router-catch-up", self._step, _INTERVAL_SECONDS)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        self._task.stop(1.0)

    @property
    def is_done(self) -> bool:
        """Whether the router has the files of every site that was served here."""
        return not self._hosts

    @property
    def is_better_elsewhere(self) -> bool:
        """Whether the router lacks files, and another one doesn't; until the others are asked, they don't."""
        return bool(self._hosts) and self._has_substitute

    def need(self, host: str) -> None:
        """The host was served here until it was pointed at a deployment whose files aren't here."""
        with self._lock:
            if not self._hosts:
                self._has_substitute = True
            if host not in self._hosts:
                _log.warning("router.files_missing", host=host)
            self._hosts.add(host)
        self._task.wake()

    def _step(self) -> None:
        for host in list(self._hosts):
            if not self._is_waiting(host):
                with self._lock:
                    # It may have been pointed elsewhere meanwhile.
                    if not self._is_waiting(host):
                        self._hosts.discard(host)
        if self._hosts:
            self._look_for_substitute()

    def _is_waiting(self, host: str) -> bool:
        """Whether the host's files are being fetched, or will be."""
        deployment_id = self._directory.current(host)
        if deployment_id is None or self._directory.has(deployment_id):
            return False
        try:
            artifact = self._find_artifact(host)
        except Unavailable:
            return True
        if artifact is None:
            return False
        fetch = self._fetcher.fetch(artifact, is_forced=False)
        # What the object store has lost is nowhere else either.
        return not (fetch.done() and isinstance(fetch.exception(), ArtifactMissing))

    def _look_for_substitute(self) -> None:
        others = [url for url in self._peers.urls if url != self._substitute]
        urls = random.sample(others, min(_ASKED_PEERS, len(others)))
        if self._substitute is not None:
            urls.insert(0, self._substitute)
        with ThreadPoolExecutor(len(urls) or 1, thread_name_prefix="router-catch-up") as pool:
            complete = [url for url, state in zip(urls, pool.map(self._peers.ask, urls), strict=True)
                        if state is not None and state.is_complete]  # fmt: skip
        self._substitute = complete[0] if complete else None
        self._has_substitute = bool(complete)
