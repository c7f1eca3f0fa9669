"""A publisher for tests without routers: routes change in the database, and nobody follows."""

from __future__ import annotations

from collections.abc import Callable

from shared.db.database import Connection, Database
from shared.routing.changes import RouteChange, SiteArtifact
from shared.routing.log import RouteLog


class RoutesWithoutRouters:
    """Implements Publisher. `confirmed` are the numbers that it was asked to confirm."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._log = RouteLog(database)
        self.confirmed: list[int] = []

    def prepare(self, host: str, artifact: SiteArtifact, *, is_stopped: Callable[[], bool]) -> None:
        with self._database.transaction() as connection:
            self._log.prepare(connection, host, artifact, fetcher=None)

    def change_routes(self, connection: Connection, *changes: RouteChange) -> int:
        return self._log.append(connection, *changes)

    def confirm(self, number: int) -> None:
        self.confirmed.append(number)

    def routes(self) -> dict[str, str]:
        return self._log.snapshot().routes

    def artifacts(self) -> set[str]:
        return set(self._log.snapshot().artifacts)
