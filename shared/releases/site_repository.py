"""Database access to published sites and to their removal: expired previews, deleted deployments and projects."""

from __future__ import annotations

from datetime import datetime
from typing import LiteralString

import msgspec

from shared.db.database import Connection, Database
from shared.db.rows import columns_of
from shared.deployments.state import DeploymentStatus, SiteState
from shared.plans import Plan


class SiteRow(msgspec.Struct, frozen=True):
    """The site of a deployment; `id` is the deployment's."""

    id: str
    tenant_id: str
    tenant_plan: Plan
    project_id: str
    status: DeploymentStatus
    host: str
    site_state: SiteState
    is_active: bool
    is_preview: bool
    deleting_at: datetime | None


class DeletingProject(msgspec.Struct, frozen=True):
    """A project whose deletion was requested."""

    id: str
    tenant_id: str
    tenant_plan: Plan
    slug: str


class _KeptSite(msgspec.Struct, frozen=True):
    site_state: SiteState
    deleting_at: datetime | None


_SELECT: LiteralString = f"""
SELECT {columns_of(SiteRow, "d", tenant_plan="t.plan")}
FROM deployments d JOIN tenants t ON t.id = d.tenant_id
"""  # noqa: S608 - constants only

_SELECT_DELETING: LiteralString = f"""
SELECT {columns_of(DeletingProject, "p", tenant_plan="t.plan")}
FROM projects p JOIN tenants t ON t.id = p.tenant_id WHERE p.deleting_at IS NOT NULL
"""  # noqa: S608 - constants only

_GONE = (SiteState.REMOVING, SiteState.REMOVED)


class SiteRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, deployment_id: str) -> SiteRow | None:
        return self._database.fetch_one(SiteRow, _SELECT + "WHERE d.id = %(id)s", {"id": deployment_id})

    def find_deleting_project(self, project_id: str) -> DeletingProject | None:
        return self._database.fetch_one(DeletingProject, _SELECT_DELETING + "AND p.id = %(id)s", {"id": project_id})

    def of_project(self, project_id: str) -> list[SiteRow]:
        return self._database.fetch_all(SiteRow, _SELECT + "WHERE d.project_id = %(id)s", {"id": project_id})

    def set_published(self, connection: Connection, deployment_id: str, fence: int) -> None:
        connection.execute(
            "UPDATE deployments SET site_state = 'published' WHERE id = %(id)s AND fence <= %(fence)s",
            {"id": deployment_id, "fence": fence},
        )

    def is_kept(self, connection: Connection, deployment_id: str) -> bool:
        """Locks the row. Whether the deployment's site may be served: it is not removed or being removed."""
        row = connection.fetch_one(
            _KeptSite,
            "SELECT site_state, deleting_at FROM deployments WHERE id = %(id)s FOR NO KEY UPDATE",
            {"id": deployment_id},
        )
        return row is not None and row.deleting_at is None and row.site_state not in _GONE

    def is_removed(self, deployment_id: str) -> bool:
        """Whether the deployment's site, or its project, is removed or being removed."""
        return not self._database.exists(
            "SELECT 1 FROM deployments d JOIN projects p ON p.id = d.project_id WHERE d.id = %(id)s "
            "AND d.site_state NOT IN ('removing', 'removed') AND d.deleting_at IS NULL AND p.deleting_at IS NULL",
            {"id": deployment_id},
        )

    def expire_previews(self) -> int:
        """Marks expired previews for removal and returns their number."""
        with self._database.transaction() as connection:
            return connection.execute(
                "UPDATE deployments SET site_state = 'removing' "
                "WHERE is_preview AND site_state = 'published' AND preview_expires_at < now()"
            ).rowcount

    def removing(self) -> list[SiteRow]:
        return self._database.fetch_all(SiteRow, _SELECT + "WHERE d.site_state = 'removing' ORDER BY d.created_at")

    def deleting_projects(self) -> list[DeletingProject]:
        return self._database.fetch_all(DeletingProject, _SELECT_DELETING + "ORDER BY p.deleting_at")

    def close(self, deployment_id: str) -> None:
        """Records the removal. Deletes the row of a deleted deployment; an expired preview's row stays as history."""
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM deployments WHERE id = %(id)s AND deleting_at IS NOT NULL", {"id": deployment_id}
            )
            connection.execute(
                "UPDATE deployments SET site_state = 'removed' WHERE id = %(id)s AND site_state = 'removing'",
                {"id": deployment_id},
            )

    def delete_project(self, project_id: str) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM projects WHERE id = %(id)s AND deleting_at IS NOT NULL", {"id": project_id})
