"""Fetches the files of sites that were served here, and whose present deployment isn't here.

Usually a deployment is here before it is activated. It isn't if the router was away then, or couldn't fetch it. As long
as another router has all of its sites, visitors are better off there.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from shared.background import PeriodicTask
from shared.errors import Unavailable
from shared.routing.changes import SiteArtifact
from workers.artifacts.reader import ArtifactMissing
from workers.router.fetcher import SiteFetcher
from workers.router.kept_files import read_kept, write_kept
from workers.router.peers import Peers
from workers.router.site_directory import SiteDirectory

_INTERVAL_SECONDS = 0.2
# Asked at a time.
_ASKED_PEERS = 3
# A busy router that doesn't answer may still be better, for so long.
_SILENT_SECONDS = 1.5

_log: Any = structlog.get_logger(__name__)


class CatchUp:
    """From `start` to `stop`; safe from any thread.

    `file` keeps the sites between processes. `find_artifact` (deployment → artifact, None if it was discarded) raises
    Unavailable.
    """

    def __init__(
        self,
        directory: SiteDirectory,
        fetcher: SiteFetcher,
        peers: Peers,
        find_artifact: Callable[[str], SiteArtifact | None],
        file: Path,
    ) -> None:
        self._directory = directory
        self._fetcher = fetcher
        self._peers = peers
        self._find_artifact = find_artifact
        self._file = file
        # Host → the deployment whose files it needs.
        self._needed: dict[str, str] = read_kept(file, dict[str, str]) or {}
        self._has_substitute = True
        # Asked first, or the answer would depend on who is asked.
        self._substitute: str | None = None
        self._substitute_at = time.monotonic()
        self._lock = threading.Lock()
        self._task = PeriodicTask("router-catch-up", self._step, _INTERVAL_SECONDS)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        self._task.stop(1.0)

    @property
    def is_done(self) -> bool:
        """Whether the router has the files of every site that was served here."""
        return not self._needed

    @property
    def is_better_elsewhere(self) -> bool:
        """Whether the router lacks files, and another one doesn't; until the others are asked, they don't."""
        return bool(self._needed) and self._has_substitute

    def needs(self, host: str) -> bool:
        return host in self._needed

    def need(self, host: str, deployment_id: str) -> None:
        """The host is served here, and will be pointed at a deployment whose files aren't here."""
        with self._lock:
            if not self._needed:
                self._has_substitute, self._substitute_at = True, time.monotonic()
            _log.warning("router.files_missing", host=host, deployment_id=deployment_id)
            self._keep({**self._needed, host: deployment_id})
        self._task.wake()

    def settle(self, host: str, deployment_id: str | None = None) -> None:
        """The host needs nothing, unless it has come to need another deployment than this one."""
        with self._lock:
            needed = self._needed.get(host)
            if needed is not None and deployment_id in (None, needed):
                self._keep({name: id_ for name, id_ in self._needed.items() if name != host})

    def _keep(self, needed: dict[str, str]) -> None:
        self._needed = needed
        write_kept(self._file, needed)

    def _step(self) -> None:
        for host, deployment_id in self._needed.items():
            if not self._is_waiting(deployment_id):
                self.settle(host, deployment_id)
        if self._needed:
            self._look_for_substitute()

    def _is_waiting(self, deployment_id: str) -> bool:
        """Whether the files are being fetched, or will be."""
        if self._directory.has(deployment_id):
            return False
        try:
            artifact = self._find_artifact(deployment_id)
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
            states = list(pool.map(self._peers.ask, urls))
        complete = [url for url, state in zip(urls, states, strict=True) if state is not None and state.is_complete]
        now = time.monotonic()
        if complete:
            self._substitute, self._substitute_at = complete[0], now
            self._has_substitute = True
        elif None not in states or now - self._substitute_at > _SILENT_SECONDS:
            self._substitute = None
            self._has_substitute = False
