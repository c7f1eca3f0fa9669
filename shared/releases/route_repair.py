"""Makes the routes what the deployments and projects say. A crash between the two leaves them apart, as does a worker
of an earlier version."""

from __future__ import annotations

from typing import LiteralString

import msgspec

from shared.db.database import Connection, Database
from shared.routing.changes import SiteArtifact, activation, discard, removal
from shared.routing.log import RouteLog

# The sites that should be served, by host.
SERVED: LiteralString = """
SELECT CASE WHEN d.is_preview THEN d.host ELSE p.slug END AS host, d.id AS deployment_id, d.tenant_id,
       d.manifest_digest, d.is_preview
FROM deployments d JOIN projects p ON p.id = d.project_id
WHERE p.deleting_at IS NULL AND d.deleting_at IS NULL AND d.manifest_digest IS NOT NULL
  AND (d.is_active OR (d.is_preview AND d.site_state = 'published'))
"""

_WRONG: LiteralString = f"""
WITH served AS ({SERVED})
SELECT COALESCE(served.host, routes.host) AS host, served.deployment_id, served.tenant_id, served.manifest_digest,
       served.is_preview,
       (SELECT a.pods_address FROM route_artifacts a WHERE a.deployment_id = served.deployment_id) AS pods_address
FROM served FULL JOIN routes ON routes.host = served.host
WHERE routes.deployment_id IS DISTINCT FROM served.deployment_id
LIMIT 1000
"""  # noqa: S608 - constants only

# Files of a deployment that will never be served again. One that is being published has them before its state says so.
_LEFT: LiteralString = """
SELECT a.deployment_id FROM route_artifacts a
LEFT JOIN deployments d ON d.id = a.deployment_id
WHERE (d.id IS NULL OR d.deleting_at IS NOT NULL OR d.site_state IN ('removing', 'removed')
       OR d.status IN ('failed', 'cancelled'))
  AND NOT EXISTS (SELECT 1 FROM routes r WHERE r.deployment_id = a.deployment_id)
LIMIT 1000
"""


class _WrongRoute(msgspec.Struct, frozen=True):
    """A host whose route isn't right. Without a deployment, it should have none."""

    host: str
    deployment_id: str | None
    tenant_id: str | None
    manifest_digest: str | None
    is_preview: bool | None
    pods_address: str | None


class RepairedRoute(msgspec.Struct, frozen=True):
    """`deployment_id` is None for a host that no longer has a site."""

    host: str
    deployment_id: str | None


class RouteRepair:
    def __init__(self, database: Database, log: RouteLog) -> None:
        self._database = database
        self._log = log

    def repair(self) -> list[RepairedRoute]:
        """Appends what is missing to the log of route changes. Returns the routes that were wrong."""
        with self._database.transaction() as connection:
            if not self._find(connection) and not connection.exists(_LEFT):
                return []
        with self._database.transaction() as connection:
            # Who changes what is served appends to the log afterwards, in the same transaction. With the log locked,
            # such a change is either visible already or corrects this one.
            self._log.lock(connection)
            wrong = self._find(connection)
            for route in wrong:
                self._correct(connection, route)
            left = connection.fetch_values(str, _LEFT)
            if left:
                self._log.append(connection, *map(discard, left))
        return [RepairedRoute(route.host, route.deployment_id) for route in wrong]

    @staticmethod
    def _find(connection: Connection) -> list[_WrongRoute]:
        return connection.fetch_all(_WrongRoute, _WRONG)

    def _correct(self, connection: Connection, route: _WrongRoute) -> None:
        if route.deployment_id is None or route.tenant_id is None or route.manifest_digest is None:
            self._log.append(connection, removal(route.host))
            return
        artifact = SiteArtifact(
            route.deployment_id,
            route.tenant_id,
            route.manifest_digest,
            is_preview=bool(route.is_preview),
            # Routers serve the files until the pods are known again.
            pods_address=route.pods_address,
        )
        self._log.prepare(connection, route.host, artifact, fetcher=None)
        self._log.append(connection, activation(route.host, route.deployment_id))
