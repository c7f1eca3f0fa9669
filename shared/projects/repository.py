"""Projects as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.db.database import Connection, Database, Row
from shared.db.paging import Page, PageRequest, keyset_clause, page_of

SORTABLE = {"created_at": "p.created_at", "name": "p.name"}

# Columns a client may change; anything else in an update is a mistake of the caller.
CHANGEABLE = frozenset({
    "name", "repository_url", "repository_branch", "root_directory", "framework", "install_command", "build_command",
    "output_directory", "node_version", "is_pinned", "repository_set_by",
})  # fmt: skip

_SELECT = """
SELECT p.*, (SELECT d.id FROM deployments d WHERE d.project_id = p.id AND d.is_active) AS active_deployment_id
FROM projects p
"""

_INSERT = """
INSERT INTO projects (id, tenant_id, name, slug, repository_url, repository_branch, root_directory, framework,
                      install_command, build_command, output_directory, node_version, repository_set_by)
SELECT %(id)s, %(tenant_id)s, %(name)s, %(slug)s, %(repository_url)s, %(repository_branch)s, %(root_directory)s,
       %(framework)s, %(install_command)s, %(build_command)s, %(output_directory)s, %(node_version)s,
       %(repository_set_by)s
WHERE NOT EXISTS (SELECT 1 FROM deployments d WHERE d.host = %(slug)s)
ON CONFLICT (slug) DO NOTHING
RETURNING *, NULL AS active_deployment_id
"""


class ProjectRepository:
    """A project that is being deleted is not found and not listed; it still counts for its slug."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lock_tenant(self, connection: Connection, tenant_id: str) -> str | None:
        """The tenant's plan. Serialises creations of a tenant, so that the plan's bound is exact."""
        row = connection.execute(
            "SELECT plan FROM tenants WHERE id = %(id)s FOR NO KEY UPDATE", {"id": tenant_id}
        ).fetchone()
        return None if row is None else row["plan"]

    def count_of(self, connection: Connection, tenant_id: str) -> int:
        row = connection.execute(
            "SELECT count(*) AS total FROM projects WHERE tenant_id = %(tenant_id)s AND deleting_at IS NULL",
            {"tenant_id": tenant_id},
        ).fetchone()
        return row["total"] if row else 0

    def insert(self, connection: Connection, project: dict[str, Any]) -> Row | None:
        """None when the slug is taken, by a project or as the address of a preview; the transaction goes on."""
        return connection.execute(_INSERT, project).fetchone()

    def find(self, tenant_id: str, project_id: str) -> Row | None:
        return self._database.fetch_one(
            _SELECT + "WHERE p.id = %(id)s AND p.tenant_id = %(tenant_id)s AND p.deleting_at IS NULL",
            {"id": project_id, "tenant_id": tenant_id},
        )

    def find_by_slug(self, tenant_ids: Sequence[str], slug: str) -> Row | None:
        return self._database.fetch_one(
            _SELECT + "WHERE p.slug = %(slug)s AND p.tenant_id = ANY(%(tenant_ids)s) AND p.deleting_at IS NULL",
            {"slug": slug, "tenant_ids": list(tenant_ids)},
        )

    def find_tenant(self, project_id: str) -> str | None:
        row = self._database.fetch_one(
            "SELECT tenant_id FROM projects WHERE id = %(id)s AND deleting_at IS NULL", {"id": project_id}
        )
        return None if row is None else row["tenant_id"]

    def page(self, tenant_ids: Sequence[str], request: PageRequest, *, framework: Sequence[str] = ()) -> Page[Row]:
        where = "p.tenant_id = ANY(%(tenant_ids)s) AND p.deleting_at IS NULL"
        parameters: dict[str, Any] = {"tenant_ids": list(tenant_ids)}
        if framework:
            where += " AND p.framework = ANY(%(framework)s)"
            parameters["framework"] = list(framework)
        keyset, order, keyset_parameters = keyset_clause(request, column=SORTABLE[request.sort], id_column="p.id")
        rows = self._database.fetch_all(f"{_SELECT} WHERE {where} AND {keyset} {order}", parameters | keyset_parameters)
        total = None
        if request.with_total:
            counted = self._database.fetch_one(
                f"SELECT count(*) AS total FROM projects p WHERE {where}",  # noqa: S608 - constants only
                parameters,
            )
            total = counted["total"] if counted else 0
        return page_of(rows, request, total)

    def update(self, connection: Connection, tenant_id: str, project_id: str, changes: dict[str, Any]) -> bool:
        """False when there is no such project."""
        unknown = set(changes) - CHANGEABLE
        if unknown:
            raise ValueError(f"not changeable: {sorted(unknown)}")
        assignments = ", ".join([*(f"{column} = %({column})s" for column in sorted(changes)), "updated_at = now()"])
        query = (
            f"UPDATE projects SET {assignments} "  # noqa: S608 - the columns are checked above
            "WHERE id = %(id)s AND tenant_id = %(tenant_id)s AND deleting_at IS NULL RETURNING id"
        )
        parameters = changes | {"id": project_id, "tenant_id": tenant_id}
        return connection.execute(query.encode(), parameters).fetchone() is not None

    def set_deleting(self, tenant_id: str, project_id: str) -> str | None:
        """The tenant's plan; None when there is no such project, or it is being deleted already."""
        row = self._database.fetch_one(
            "UPDATE projects p SET deleting_at = now(), updated_at = now() FROM tenants t "
            "WHERE p.id = %(id)s AND p.tenant_id = %(tenant_id)s AND t.id = p.tenant_id AND p.deleting_at IS NULL "
            "RETURNING t.plan",
            {"id": project_id, "tenant_id": tenant_id},
        )
        return None if row is None else row["plan"]
