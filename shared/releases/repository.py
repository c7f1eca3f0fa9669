"""What production serves: the active deployment of a project, and the requests to change it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared.db.database import Connection, Database, Row

_NEXT_SEQUENCE = """
UPDATE projects SET release_sequence = release_sequence + 1
WHERE id = %(project_id)s AND tenant_id = %(tenant_id)s AND deleting_at IS NULL
RETURNING *
"""

_INSERT = """
INSERT INTO releases (id, tenant_id, project_id, deployment_id, kind, release_sequence, requested_by)
VALUES (%(id)s, %(tenant_id)s, %(project_id)s, %(deployment_id)s, %(kind)s, %(release_sequence)s, %(requested_by)s)
"""

_SELECT = """
SELECT r.*, d.host, d.manifest_digest, d.status AS deployment_status, p.slug AS project_slug, t.plan AS tenant_plan
FROM releases r JOIN deployments d ON d.id = r.deployment_id JOIN projects p ON p.id = r.project_id
JOIN tenants t ON t.id = r.tenant_id
"""

_MOVE_POINTER = """
UPDATE projects SET active_release_sequence = %(release_sequence)s, is_pinned = %(is_pinned)s
WHERE id = %(project_id)s AND active_release_sequence < %(release_sequence)s
"""

_IS_SERVED = "(d.is_active OR (d.is_preview AND d.site_state = 'published'))"

_SERVED = f"""
SELECT CASE WHEN d.is_preview THEN d.host ELSE p.slug END AS host, d.id AS deployment_id, d.project_id, d.tenant_id,
       d.manifest_digest, d.is_preview
FROM deployments d JOIN projects p ON p.id = d.project_id WHERE p.deleting_at IS NULL AND {_IS_SERVED}
"""  # noqa: S608 - constants only

_LOCK_SERVED = f"SELECT d.id FROM deployments d WHERE d.id = %(id)s AND {_IS_SERVED} FOR NO KEY UPDATE"  # noqa: S608 - constants only


class ReleaseRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def next_sequence(self, connection: Connection, tenant_id: str, project_id: str) -> Row | None:
        """Takes the project's next release sequence and returns the project; None when there is no such project."""
        return connection.execute(_NEXT_SEQUENCE, {"project_id": project_id, "tenant_id": tenant_id}).fetchone()

    def insert(self, connection: Connection, values: dict[str, Any]) -> None:
        connection.execute(_INSERT, values)

    def find(self, release_id: str) -> Row | None:
        return self._database.fetch_one(_SELECT + "WHERE r.id = %(id)s", {"id": release_id})

    def pending(self) -> list[Row]:
        return self._database.fetch_all(_SELECT + "WHERE r.status = 'pending' ORDER BY r.created_at, r.id")

    def lock_project(self, connection: Connection, project_id: str) -> Row | None:
        return connection.execute(
            "SELECT * FROM projects WHERE id = %(id)s FOR NO KEY UPDATE", {"id": project_id}
        ).fetchone()

    def move_pointer(
        self, connection: Connection, project_id: str, deployment_id: str, release_sequence: int, *, is_pinned: bool
    ) -> bool:
        """Makes the ready deployment the active one unless a newer release is active; False then."""
        parameters = {
            "project_id": project_id,
            "deployment_id": deployment_id,
            "release_sequence": release_sequence,
            "is_pinned": is_pinned,
        }
        if connection.execute(_MOVE_POINTER, parameters).rowcount != 1:
            return False
        connection.execute(
            "UPDATE deployments SET is_active = false WHERE project_id = %(project_id)s AND is_active", parameters
        )
        connection.execute("UPDATE deployments SET is_active = true WHERE id = %(deployment_id)s", parameters)
        return True

    def close(self, connection: Connection, release_id: str, status: str, error_message: str | None = None) -> None:
        connection.execute(
            "UPDATE releases SET status = %(status)s, error_message = %(message)s, finished_at = now() "
            "WHERE id = %(id)s AND status = 'pending'",
            {"id": release_id, "status": status, "message": error_message},
        )

    def active_sites(self) -> list[Row]:
        """Every host that must answer and the deployment it must serve: `host`, `deployment_id`, `project_id`."""
        return self._database.fetch_all(_SERVED)

    def while_active(self, project_id: str, deployment_id: str, act: Callable[[], object]) -> bool:
        """Calls `act` if the deployment is still what its host serves, with no release or removal in between."""
        with self._database.transaction() as connection:
            project = self.lock_project(connection, project_id)
            if project is None or project["deleting_at"] is not None:
                return False
            # A statement of its own, as it must see what was committed while the project's lock was waited for. It
            # locks the row too: previews expire and deployments are deleted without the project's lock.
            served = connection.execute(_LOCK_SERVED, {"id": deployment_id}).fetchone()
            if served is None:
                return False
            act()
            return True
