"""Applies the log of route changes to this router's disk, in order, and reports how far it is.

    prepare   fetch the files, in the background, unless nobody has asked this router for the host
    activate  point the host at the deployment, at once; files that aren't here are fetched at the first request
    remove    the host answers 404, at once
    discard   delete the files, in the background

PostgreSQL may be away for as long as it takes: the router serves what it has. It declares itself not ready only if it
learns, from Redis or from another router, that the log has grown meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_all
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from shared.background import PeriodicTask
from shared.errors import PlatformError, Unavailable
from shared.routing.bell import RouteBell
from shared.routing.changes import ChangeKind, NumberedChange, Position, SiteArtifact
from shared.routing.log import RouteLog
from shared.routing.routers import PreparationOutcome, RouterReport, RouterRepository
from shared.tracing import span
from workers.artifacts.reader import ArtifactMissing
from workers.router.catch_up import CatchUp
from workers.router.fetcher import SiteFetcher
from workers.router.kept_files import read_kept, write_kept
from workers.router.metrics import count_change, show_state
from workers.router.peers import Peers, PeerState
from workers.router.position_watch import PositionWatch
from workers.router.probe import SiteProbe
from workers.router.site_directory import SiteDirectory

# Twice as often as routers may differ, for changes whose ring is lost.
_INTERVAL_SECONDS = 0.5
_REPORT_SECONDS = 1.0
_PEERS_EVERY_SECONDS = 5.0
# A router that starts again, and isn't ready yet, waits so long for the files of what has changed.
_BRING_SECONDS = 5.0
_STARTING = "The router is starting."
_INCOMPLETE = "Files of sites that were served here are missing; another router has them."
_BEHIND = "Other routers know of newer releases, which this one hasn't applied yet."

_log: Any = structlog.get_logger(__name__)


class RouterIdentity(msgspec.Struct, frozen=True):
    """`id` stays the same when the process starts again. `url`: where other routers ask for the position."""

    id: str
    machine: str
    version: str
    url: str


class RouterAgent:
    """`start` after the web server answers. Safe from any thread.

    `position_file` keeps the position between processes, for a start while PostgreSQL is away.
    """

    def __init__(
        self,
        *,
        identity: RouterIdentity,
        log: RouteLog,
        routers: RouterRepository,
        bell: RouteBell,
        directory: SiteDirectory,
        fetcher: SiteFetcher,
        probe: SiteProbe,
        peers: Peers,
        position_file: Path,
    ) -> None:
        self._identity = identity
        self._log = log
        self._routers = routers
        self._directory = directory
        self._fetcher = fetcher
        self._probe = probe
        self._position_file = position_file
        self._position = read_kept(position_file, Position)
        self._peers = peers
        self._watch = PositionWatch(bell, peers, lambda: self._position)
        missing_file = position_file.with_name("router-missing.json")
        self._catch_up = CatchUp(directory, fetcher, peers, self._artifact_of, missing_file)
        self._has_snapshot = False
        self._snapshot_number = 0
        self._artifacts: dict[str, SiteArtifact] = {}
        self._peers_at = float("-inf")
        self._reported: tuple[Position | None, str | None] = (None, None)
        self._reported_at = 0.0
        self._problem: str | None = _STARTING
        self._is_offline = False
        self._lock = threading.Lock()
        self._task = PeriodicTask("router", self.step, _INTERVAL_SECONDS)

    def start(self) -> None:
        self._task.start()
        self._watch.start()
        self._catch_up.start()

    def stop(self) -> None:
        """Takes leave, so that no release waits for this router."""
        self._task.stop(5.0)
        self._watch.stop()
        self._catch_up.stop()
        try:
            self._routers.remove(self._identity.id)
        except Unavailable as error:
            _log.warning("router.leave_failed", error=str(error))

    def wake(self) -> None:
        """The log may have grown."""
        self._task.wake()

    @property
    def position(self) -> Position | None:
        """The last change that this router has applied."""
        return self._position

    @property
    def problem(self) -> str | None:
        """Why this router should not be asked for sites; None if it may be."""
        if self._problem is not None:
            return self._problem
        if self._watch.is_behind:
            return _BEHIND
        return _INCOMPLETE if self._catch_up.is_better_elsewhere else None

    @property
    def peer_state(self) -> PeerState | None:
        """What other routers are told; None before anything is applied here."""
        position = self._position
        if position is None:
            return None
        return PeerState(position.epoch, position.number, self.problem is None and self._catch_up.is_done)

    @property
    def is_offline(self) -> bool:
        """Whether PostgreSQL can't be reached."""
        return self._is_offline

    def current(self, host: str) -> str | None:
        """The deployment that the host serves here."""
        try:
            return self._directory.current(host)
        except ValueError:
            return None

    def pods_address(self, deployment_id: str) -> str | None:
        """Where the pods of a deployment are that has its own; None if this router serves, or fetches, its files."""
        return self._directory.address(deployment_id)

    def find_artifact(self, host: str) -> SiteArtifact | None:
        """The artifact that the host serves, for a request whose files aren't here. None if the host has no route.

        Raises Unavailable if only PostgreSQL knows.
        """
        deployment_id = self.current(host)
        return None if deployment_id is None else self._artifact_of(deployment_id)

    def _artifact_of(self, deployment_id: str) -> SiteArtifact | None:
        known = self._artifacts.get(deployment_id)
        return known if known is not None else self._log.find_artifact(deployment_id)

    def step(self) -> None:
        """Applies what is new and reports. Never raises for a database that is away."""
        try:
            self._step()
        finally:
            applied = None if self._position is None else self._position.number
            show_state(is_ready=self.problem is None, is_offline=self._is_offline, applied_number=applied)

    def _step(self) -> None:
        try:
            self._advance()
        except Unavailable:
            if not self._is_offline:
                _log.warning("router.offline")
                self._is_offline = True
            if self._position is not None and self._problem == _STARTING:
                # The disk is as the last process left it.
                self._watch.look(self._position)
                self._set_problem(None)
            return
        except (PlatformError, OSError) as error:
            # The same changes are tried again at the next step.
            self._set_problem(str(error))
        else:
            self._set_problem(None)
        if self._is_offline:
            _log.info("router.online")
            self._is_offline = False
        self._report()

    def _advance(self) -> None:
        while True:
            changes, asked_at = None, time.monotonic()
            if self._position is not None and self._has_snapshot:
                changes = self._log.since(self._position)
            if changes is None:
                self._load_snapshot()
            elif changes:
                self._apply(changes)
            else:
                self._watch.confirm(asked_at)
                return

    def _load_snapshot(self) -> None:
        """Makes the disk what the log says, in both directions."""
        snapshot = self._log.snapshot()
        routes = self._directory.routes()
        for host in routes.keys() - snapshot.routes.keys():
            self._unroute(host)
            _log.info("router.route_removed", host=host)
        wrong = {host: deployment for host, deployment in snapshot.routes.items() if routes.get(host) != deployment}
        routed = set(snapshot.routes.values())
        self._correct_addresses(snapshot.artifacts[id_] for id_ in routed & snapshot.artifacts.keys())
        self._bring(wrong, snapshot.artifacts)
        self._show(wrong, {})
        for deployment in self._directory.deployments():
            if deployment not in snapshot.artifacts:
                self._fetcher.delete(deployment)
        self._artifacts = {id_: artifact for id_, artifact in snapshot.artifacts.items() if id_ in routed}
        self._has_snapshot = True
        self._snapshot_number = snapshot.position.number
        self._reach(snapshot.position)
        _log.info("router.snapshot_loaded", hosts=len(snapshot.routes), changed=len(wrong))

    def _correct_addresses(self, artifacts: Iterable[SiteArtifact]) -> None:
        """Addresses of pods may have changed while their routes haven't."""
        for artifact in artifacts:
            if artifact.pods_address is None:
                self._directory.forget_address(artifact.deployment_id)
            elif artifact.pods_address != self._directory.address(artifact.deployment_id):
                self._fetcher.place_address(artifact.deployment_id, artifact.pods_address)

    def _bring(self, routes: dict[str, str], artifacts: dict[str, SiteArtifact]) -> None:
        """Fetches what will replace files that are here, so that no visitor waits for it; for a few seconds only."""
        fetches = [
            self._fetcher.fetch(artifacts[deployment_id])
            for host, deployment_id in routes.items()
            if deployment_id in artifacts
            and not self._directory.has(deployment_id)
            and (former := self._directory.current(host)) is not None
            and self._directory.has(former)
        ]
        wait_for_all(fetches, _BRING_SECONDS)

    def _apply(self, changes: Sequence[NumberedChange]) -> None:
        """Hosts get what the last change says: repeated from the start after a failure, none goes back meanwhile."""
        assert self._position is not None
        last: dict[str, str | None] = {}
        traces: dict[str, str | None] = {}
        # Hosts may point at these until all changes are applied.
        discarded: set[str] = set()
        for change in changes:
            count_change(change.kind)
            match change.kind, change.host, change.deployment_id:
                case ChangeKind.PREPARE, str(host), str(deployment_id):
                    if deployment_id in discarded:
                        discarded.remove(deployment_id)
                        self._discard(deployment_id)
                    with self._span("prepare", host, deployment_id, change.traceparent):
                        self._prepare(change, host, deployment_id)
                case ChangeKind.ACTIVATE, str(host), str(deployment_id):
                    last[host], traces[host] = deployment_id, change.traceparent
                case ChangeKind.REMOVE, str(host), _:
                    last[host] = None
                case ChangeKind.DISCARD, _, str(deployment_id):
                    discarded.add(deployment_id)
                case _:
                    _log.error("router.change_unknown", number=change.number, kind=change.kind)
        for host, deployment_id in last.items():
            if deployment_id is None:
                self._unroute(host)
        self._show({host: deployment_id for host, deployment_id in last.items() if deployment_id is not None}, traces)
        for deployment_id in discarded:
            self._discard(deployment_id)
        self._reach(Position(self._position.epoch, changes[-1].number))

    def _show(self, routes: dict[str, str], traces: Mapping[str, str | None]) -> None:
        """Points hosts at their deployments and looks, through the web server, at those whose files are here.

        Not at those with pods of their own, which a preparation has looked at: pods that are down are their site's
        trouble, and no router may become unready or wait for them. `traces`: where in its trace the change of a host
        was appended.
        """
        for host, deployment_id in routes.items():
            former = self._directory.current(host)
            if self._directory.has(deployment_id):
                self._catch_up.settle(host)
            elif former not in (None, deployment_id) and (self._catch_up.needs(host) or self._directory.has(former)):
                self._catch_up.need(host, deployment_id)
            with self._span("activate", host, deployment_id, traces.get(host)):
                self._directory.route(host, deployment_id)
            if former is not None and former != deployment_id:
                with self._lock:
                    self._artifacts.pop(former, None)
        for host, deployment_id in routes.items():
            if self._directory.has_files(deployment_id):
                with self._span("verify", host, deployment_id, traces.get(host)):
                    self._probe.verify(host, deployment_id)

    def _span(
        self, step: str, host: str, deployment_id: str, traceparent: str | None
    ) -> AbstractContextManager[object]:
        attributes = {
            "cloudify.router": self._identity.id,
            "cloudify.host": host,
            "cloudify.deployment_id": deployment_id,
        }
        # Of a snapshot, nobody knows who appended what.
        is_exported = traceparent is not None
        return span(f"router {step}", attributes, parent=traceparent, kind="consumer", is_exported=is_exported)

    def _unroute(self, host: str) -> None:
        self._directory.unroute(host)
        self._catch_up.settle(host)

    def _prepare(self, change: NumberedChange, host: str, deployment_id: str) -> None:
        artifact = self._log.find_artifact(deployment_id)
        if artifact is None:
            return  # discarded since
        with self._lock:
            self._artifacts[deployment_id] = artifact
        if artifact.pods_address is not None:
            # Here on every router: a former address of the deployment's pods leads nowhere.
            self._fetcher.place_address(deployment_id, artifact.pods_address)
        served = self._directory.current(host)
        # Or a visitor waits for it at this moment.
        is_asked_for = served is None or self._directory.has(served) or self._fetcher.is_fetching(served)
        if not is_asked_for and change.fetcher != self._identity.id:
            self._routers.record_preparation(self._identity.id, deployment_id, change.number, PreparationOutcome.NOTED)
            return
        future = self._fetcher.fetch(artifact)
        future.add_done_callback(partial(self._record_fetch, deployment_id, change.number))

    def _record_fetch(self, deployment_id: str, number: int, future: Future[None]) -> None:
        """Called on the fetcher's thread."""
        if deployment_id not in self._artifacts and self._is_discarded(deployment_id):
            self._fetcher.delete(deployment_id)
            return
        outcome, message = PreparationOutcome.READY, None
        error = future.exception()
        if isinstance(error, ArtifactMissing):
            outcome, message = PreparationOutcome.ARTIFACT_MISSING, str(error)
        elif error is not None:
            outcome, message = PreparationOutcome.FAILED, str(error)
            _log.warning("router.fetch_failed", deployment_id=deployment_id, error=str(error))
        try:
            self._routers.record_preparation(self._identity.id, deployment_id, number, outcome, message)
        except Unavailable:
            # The worker that waits for it prepares again.
            _log.warning("router.preparation_not_recorded", deployment_id=deployment_id)

    def _is_discarded(self, deployment_id: str) -> bool:
        """Whether a fetch came too late. A snapshot that was loaded meanwhile knows nothing of preparations."""
        try:
            return self._log.find_artifact(deployment_id) is None
        except Unavailable:
            # The next snapshot deletes the files if need be.
            return False

    def _discard(self, deployment_id: str) -> None:
        with self._lock:
            self._artifacts.pop(deployment_id, None)
        self._fetcher.delete(deployment_id)

    def _reach(self, position: Position) -> None:
        self._position = position
        # Redis keeps it for routers that can't reach PostgreSQL.
        self._watch.wake()
        write_kept(self._position_file, position)

    def _report(self) -> None:
        position, problem = self._position, self.problem
        now = time.monotonic()
        if position is None:
            return
        if (position, problem) == self._reported and now - self._reported_at < _REPORT_SECONDS:
            return
        identity = self._identity
        try:
            self._routers.report(
                RouterReport(
                    id=identity.id,
                    machine=identity.machine,
                    version=identity.version,
                    url=identity.url,
                    epoch=position.epoch,
                    applied_number=position.number,
                    snapshot_number=self._snapshot_number,
                    problem=problem,
                    sites=self._fetcher.sites,
                )
            )
            if now - self._peers_at >= _PEERS_EVERY_SECONDS:
                self._peers.know([row.url for row in self._routers.all() if row.id != identity.id])
                self._peers_at = now
        except Unavailable:
            return
        self._reported, self._reported_at = (position, problem), now

    def _set_problem(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            _log.warning("router.not_ready", problem=problem)
        elif problem is None and self._problem is not None:
            _log.info("router.ready")
        self._problem = problem
