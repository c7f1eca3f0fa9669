"""Publishes through the fleet of site routers, which follow one ordered log of route changes (shared/routing)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import structlog

from shared.db.database import Connection, Database
from shared.errors import Cancelled, PlatformError
from shared.queue.connection import connect_redis
from shared.routing.bell import RouteBell
from shared.routing.changes import RouteChange, SiteArtifact
from shared.routing.log import RouteLog
from shared.routing.routers import LIVE_SECONDS, PreparationOutcome, PreparationRow, RouterRepository, RouterRow
from shared.settings import Settings
from workers.artifacts.reader import ArtifactMissing
from workers.publishers.base import Publisher

_log = structlog.get_logger(__name__)

_FIRST_POLL_SECONDS = 0.004
_LAST_POLL_SECONDS = 0.2
_POLL_FACTOR = 1.4
# How often a preparation is repeated because the router that was to fetch it has died.
_PREPARATIONS = 3
# Of a preparation that a router is still busy with. It is as long as the largest site takes on a slow network.
_PREPARE_SECONDS = 600.0
# Routers that are being replaced take some seconds to come back.
_NO_ROUTER_SECONDS = 15.0


def open_publisher(settings: Settings, database: Database) -> Publisher:
    """See PublisherBackend."""
    redis = connect_redis(settings.queue.redis_url, timeout_seconds=0.5, connect_timeout_seconds=0.5)
    return RouterFleetPublisher(RouteLog(database), RouterRepository(database), RouteBell(redis), database)


class RouterFleetPublisher:
    """Implements Publisher. Safe from any thread."""

    def __init__(self, log: RouteLog, routers: RouterRepository, bell: RouteBell, database: Database) -> None:
        self._routes = log
        self._routers = routers
        self._bell = bell
        self._database = database

    def prepare(self, host: str, artifact: SiteArtifact, *, is_stopped: Callable[[], bool]) -> None:
        for _ in range(_PREPARATIONS):
            fetcher = self._choose_fetcher(is_stopped)
            with self._database.transaction() as connection:
                number = self._routes.prepare(connection, host, artifact, fetcher=fetcher.id)
            self._bell.ring()
            if self._wait_until_prepared(artifact.deployment_id, number, is_stopped):
                return
        raise PlatformError("The site routers that were to fetch the files have ended; see `cloudify workers`.")

    def change_routes(self, connection: Connection, *changes: RouteChange) -> int:
        return self._routes.append(connection, *changes)

    def confirm(self, number: int) -> None:
        self._bell.ring()
        # Numbers of another epoch, from before a restore, say nothing.
        epoch = self._routes.position().epoch
        deadline = time.monotonic() + LIVE_SECONDS + 1
        pause = _FIRST_POLL_SECONDS
        while True:
            rows = [row for row in self._routers.all() if row.is_live]
            late = [row for row in rows if row.epoch != epoch or row.applied_number < number]
            if rows and not late:
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(pause)
            pause = min(pause * _POLL_FACTOR, _LAST_POLL_SECONDS)
        if len(late) == len(rows):
            raise PlatformError(f"No site router has applied route change {number}: {_described(rows)}")
        _log.warning("publisher.routers_late", number=number, routers=[row.id for row in late])

    def _choose_fetcher(self, is_stopped: Callable[[], bool]) -> RouterRow:
        deadline = time.monotonic() + _NO_ROUTER_SECONDS
        while True:
            rows = self._routers.all()
            live = [row for row in rows if row.is_live]
            if live:
                # One that has a problem of its own only if there is no other.
                return random.choice([row for row in live if row.problem is None] or live)  # noqa: S311 - spreads load
            if is_stopped():
                raise Cancelled
            if time.monotonic() >= deadline:
                raise PlatformError(f"There is no live site router: {_described(rows)}")
            time.sleep(_LAST_POLL_SECONDS)

    def _wait_until_prepared(self, deployment_id: str, number: int, is_stopped: Callable[[], bool]) -> bool:
        """False if the routers that would serve the files have died: prepare again with another one.

        Raises as `prepare`.
        """
        deadline = time.monotonic() + _PREPARE_SECONDS
        pause = _FIRST_POLL_SECONDS
        while True:
            done = {row.router_id: row for row in self._routers.preparations(deployment_id, number)}
            # A router that has started since from a snapshot doesn't carry out the preparation.
            waited_for = [
                row
                for row in self._routers.all()
                if row.is_live and row.id not in done and row.snapshot_number < number
            ]
            if not waited_for or time.monotonic() >= deadline:
                break
            if is_stopped():
                raise Cancelled
            time.sleep(pause)
            pause = min(pause * _POLL_FACTOR, _LAST_POLL_SECONDS)
        return _is_servable(list(done.values()))


def _is_servable(rows: list[PreparationRow]) -> bool:
    """Whether a router serves the files; False if none has tried. Raises ArtifactMissing, PlatformError."""
    outcomes = {row.outcome for row in rows}
    messages = sorted({row.message for row in rows if row.message})
    if PreparationOutcome.ARTIFACT_MISSING in outcomes:
        raise ArtifactMissing(" ".join(messages))
    if PreparationOutcome.READY in outcomes:
        # A router that failed for a reason of its own, such as a full disk, fetches the files at the first request.
        return True
    if PreparationOutcome.FAILED in outcomes:
        raise PlatformError(f"No site router could fetch the files: {' '.join(messages)}")
    return False


def _described(rows: list[RouterRow]) -> str:
    if not rows:
        return "none has reported yet; start one with `cloudify router`."
    lines = [
        f"{row.id} reported {row.silent_seconds:.0f} s ago{f' ({row.problem})' if row.problem else ''}" for row in rows
    ]
    return "; ".join(lines) + "."
