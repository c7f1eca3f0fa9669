"""Database access to the deployments whose pods should stand."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import LiteralString

import msgspec

from shared.db.database import Connection, Database
from shared.routing.changes import SiteArtifact

# Of an owner that is stuck with the lock.
_LOCK_MILLISECONDS = "120000"

# Whose files may be fetched by its own pods: not one that was deleted, withdrawn, or came to nothing.
_FETCHABLE: LiteralString = """
d.settings ->> 'runtime' = 'pods' AND d.manifest_digest IS NOT NULL
AND d.deleting_at IS NULL AND p.deleting_at IS NULL
AND d.status IN ('deploying', 'ready') AND d.site_state NOT IN ('removing', 'removed')
"""

# What is served, what is being deployed or released, and the last `former` that production served. Whatever has just
# been replaced stays for a moment, for routers that don't know yet.
_STANDING: LiteralString = f"""
WITH former AS (
  SELECT a.deployment_id, row_number() OVER (PARTITION BY d.project_id ORDER BY a.left_at DESC) AS place
  FROM route_artifacts a JOIN deployments d ON d.id = a.deployment_id
  WHERE a.left_at IS NOT NULL AND a.pods_address IS NOT NULL AND NOT d.is_preview
    AND NOT EXISTS (SELECT 1 FROM routes r WHERE r.deployment_id = d.id)
)
SELECT d.id AS deployment_id, d.tenant_id, d.project_id, d.manifest_digest, d.is_preview,
       COALESCE((d.settings ->> 'replicas')::int, 1) AS replicas,
       (SELECT a.pods_address FROM route_artifacts a WHERE a.deployment_id = d.id) AS pods_address,
       ARRAY(SELECT r.host FROM routes r WHERE r.deployment_id = d.id) AS hosts
FROM deployments d JOIN projects p ON p.id = d.project_id
WHERE {_FETCHABLE} AND (
  d.status = 'deploying' OR d.is_active OR (d.is_preview AND d.site_state = 'published')
  OR EXISTS (SELECT 1 FROM routes r WHERE r.deployment_id = d.id)
  OR EXISTS (SELECT 1 FROM releases r WHERE r.deployment_id = d.id AND r.status = 'pending')
  OR EXISTS (SELECT 1 FROM former f WHERE f.deployment_id = d.id AND f.place <= %(former)s)
  OR EXISTS (SELECT 1 FROM route_artifacts a WHERE a.deployment_id = d.id AND a.left_at > now() - interval '1 minute')
)
"""  # noqa: S608 - constants only


class StandingSite(msgspec.Struct, frozen=True):
    """A deployment whose pods should stand. `hosts`: where it is served; `pods_address`: where routers look for it."""

    deployment_id: str
    tenant_id: str
    project_id: str
    manifest_digest: str
    is_preview: bool
    replicas: int
    pods_address: str | None
    hosts: list[str]

    def artifact(self, pods_address: str | None = None) -> SiteArtifact:
        return SiteArtifact(
            self.deployment_id, self.tenant_id, self.manifest_digest, self.is_preview, pods_address=pods_address
        )


class SitePodRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def locked(self, deployment_id: str) -> Generator[Connection]:
        """Nobody else makes or removes the deployment's objects during the block."""
        with self._database.transaction() as connection:
            connection.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %(limit)s, true)",
                {"limit": _LOCK_MILLISECONDS},
            )
            connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%(name)s, 0))", {"name": f"site pods {deployment_id}"}
            )
            yield connection

    def standing(self, *, former: int) -> list[StandingSite]:
        """`former`: how many former production deployments of a project keep their pods."""
        return self._database.fetch_all(StandingSite, _STANDING, {"former": former})

    def find_standing(self, connection: Connection, deployment_id: str, *, former: int) -> StandingSite | None:
        """None if the deployment's pods should not stand."""
        query: LiteralString = _STANDING + "AND d.id = %(id)s"
        return connection.fetch_one(StandingSite, query, {"former": former, "id": deployment_id})

    def find_fetchable(self, deployment_id: str) -> SiteArtifact | None:
        """The artifact that the deployment's pods may fetch; None if they may not, or no longer."""
        query: LiteralString = (
            "SELECT d.id AS deployment_id, d.tenant_id, d.manifest_digest, d.is_preview "  # noqa: S608 - constants only
            f"FROM deployments d JOIN projects p ON p.id = d.project_id WHERE {_FETCHABLE} AND d.id = %(id)s"
        )
        return self._database.fetch_one(SiteArtifact, query, {"id": deployment_id})
