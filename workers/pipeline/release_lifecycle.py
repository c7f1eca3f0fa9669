"""A release's life as its worker writes it: production's pointer and route first, the release when routers follow.

Steps wait out a database that is away for up to a minute; the queue's retries cover what is longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from shared.db.database import Connection, Database
from shared.releases.repository import ReleaseKind, ReleaseRepository, ReleaseRow, ReleaseStatus
from shared.releases.site_repository import SiteRepository
from shared.routing.changes import activation
from workers.pipeline.steps import ChangeRoutes, recordable, wait_out_outage

T = TypeVar("T")


class ReleaseLifecycleService:
    def __init__(self, *, database: Database, releases: ReleaseRepository, sites: SiteRepository) -> None:
        self._database = database
        self._releases = releases
        self._sites = sites

    def move(self, release: ReleaseRow, *, change_routes: ChangeRoutes) -> int | None:
        """Moves production's pointer and route to the release's deployment.

        Returns the number of the route change, to be confirmed before `close`; None when a newer release is live, or
        the deployment was deleted, and the release is closed as that. A repeat does no harm.
        """

        def step(connection: Connection) -> int | None:
            project = self._releases.lock_project(connection, release.project_id)
            if (
                project is None
                or project.deleting_at is not None
                or not self._sites.is_kept(connection, release.deployment_id)
            ):
                self._releases.close(
                    connection, release.id, ReleaseStatus.FAILED, "The deployment was deleted meanwhile."
                )
                return None
            is_ours = project.active_release_sequence == release.release_sequence or self._releases.move_pointer(
                connection,
                release.project_id,
                release.deployment_id,
                release.release_sequence,
                is_pinned=release.kind == ReleaseKind.ROLLBACK,
            )
            if not is_ours:
                self._releases.close(connection, release.id, ReleaseStatus.SUPERSEDED)
                return None
            return change_routes(connection, activation(release.host, release.deployment_id))

        return self._run(step)

    def close(self, release_id: str) -> None:
        """The routers have followed."""

        def step(connection: Connection) -> None:
            self._releases.close(connection, release_id, ReleaseStatus.DONE)

        self._run(step)

    def fail(self, release_id: str, message: str) -> None:
        message = recordable(message)

        def step(connection: Connection) -> None:
            self._releases.close(connection, release_id, ReleaseStatus.FAILED, message)

        self._run(step)

    def _run(self, step: Callable[[Connection], T]) -> T:
        def attempt() -> T:
            with self._database.transaction() as connection:
                return step(connection)

        return wait_out_outage(attempt)
