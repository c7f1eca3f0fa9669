"""A release's life as its worker writes it: production's pointer and the release in one transaction.

Steps wait out a database that is away for up to a minute; the queue's retries cover what is longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from shared.db.database import Connection, Database
from shared.releases.repository import ReleaseKind, ReleaseRepository, ReleaseRow, ReleaseStatus
from shared.releases.site_repository import SiteRepository
from workers.pipeline.steps import recordable, wait_out_outage

T = TypeVar("T")


class ReleaseLifecycleService:
    def __init__(self, *, database: Database, releases: ReleaseRepository, sites: SiteRepository) -> None:
        self._database = database
        self._releases = releases
        self._sites = sites

    def release(self, release: ReleaseRow, *, activate: Callable[[], None]) -> bool:
        """Moves production's pointer to the release's deployment; False when a newer release is live."""

        def step(connection: Connection) -> bool:
            project = self._releases.lock_project(connection, release.project_id)
            is_deleting = project is None or project.deleting_at is not None
            if is_deleting or not self._sites.is_kept(connection, release.deployment_id):
                self._releases.close(
                    connection, release.id, ReleaseStatus.FAILED, "The deployment was deleted meanwhile."
                )
                return False
            moved = self._releases.move_pointer(
                connection,
                release.project_id,
                release.deployment_id,
                release.release_sequence,
                is_pinned=release.kind == ReleaseKind.ROLLBACK,
            )
            if moved:
                activate()
            self._releases.close(connection, release.id, ReleaseStatus.DONE if moved else ReleaseStatus.SUPERSEDED)
            return moved

        return self._run(step)

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
