"""Sites that are to be removed: expired previews, deleted deployments, projects that are being deleted."""

from __future__ import annotations

from shared.db.database import Connection, Database, Row

_SELECT = """
SELECT d.*, p.slug AS project_slug, t.plan AS tenant_plan
FROM deployments d JOIN projects p ON p.id = d.project_id JOIN tenants t ON t.id = d.tenant_id
"""


class SiteRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, deployment_id: str) -> Row | None:
        return self._database.fetch_dict(_SELECT + "WHERE d.id = %(id)s", {"id": deployment_id})

    def find_deleting_project(self, project_id: str) -> Row | None:
        return self._database.fetch_dict(
            "SELECT * FROM projects WHERE id = %(id)s AND deleting_at IS NOT NULL", {"id": project_id}
        )

    def of_project(self, project_id: str) -> list[Row]:
        return self._database.fetch_dicts(_SELECT + "WHERE d.project_id = %(id)s", {"id": project_id})

    def set_published(self, connection: Connection, deployment_id: str, fence: int) -> None:
        connection.execute(
            "UPDATE deployments SET site_state = 'published' WHERE id = %(id)s AND fence <= %(fence)s",
            {"id": deployment_id, "fence": fence},
        )

    def is_kept(self, connection: Connection, deployment_id: str) -> bool:
        """Whether the deployment's site may be served: it neither is being removed nor was. Locks its row."""
        row = connection.execute(
            "SELECT site_state, deleting_at FROM deployments WHERE id = %(id)s FOR NO KEY UPDATE", {"id": deployment_id}
        ).fetchone()
        return row is not None and row["deleting_at"] is None and row["site_state"] not in ("removing", "removed")

    def is_removed(self, deployment_id: str) -> bool:
        """Whether the deployment's site was removed or is being removed, alone or with its project."""
        row = self._database.fetch_dict(
            "SELECT 1 FROM deployments d JOIN projects p ON p.id = d.project_id WHERE d.id = %(id)s "
            "AND d.site_state NOT IN ('removing', 'removed') AND d.deleting_at IS NULL AND p.deleting_at IS NULL",
            {"id": deployment_id},
        )
        return row is None

    def set_removing(self, connection: Connection, deployment_id: str, *, is_deleting: bool) -> None:
        connection.execute(
            "UPDATE deployments SET site_state = 'removing', "
            "deleting_at = CASE WHEN %(is_deleting)s THEN now() ELSE deleting_at END WHERE id = %(id)s",
            {"id": deployment_id, "is_deleting": is_deleting},
        )

    def expire_previews(self) -> int:
        """Marks the previews whose time is over; returns how many."""
        with self._database.transaction() as connection:
            return connection.execute(
                "UPDATE deployments SET site_state = 'removing' "
                "WHERE is_preview AND site_state = 'published' AND preview_expires_at < now()"
            ).rowcount

    def removing(self) -> list[Row]:
        return self._database.fetch_dicts(_SELECT + "WHERE d.site_state = 'removing' ORDER BY d.created_at")

    def deleting_projects(self) -> list[Row]:
        return self._database.fetch_dicts(
            "SELECT p.*, t.plan AS tenant_plan FROM projects p JOIN tenants t ON t.id = p.tenant_id "
            "WHERE p.deleting_at IS NOT NULL ORDER BY p.deleting_at"
        )

    def close(self, deployment_id: str) -> None:
        """The site is gone: the row too if it was deleted, else it stays as history."""
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
