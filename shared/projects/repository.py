"""Database access to projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import LiteralString

import msgspec

from shared.db.database import Connection, Database
from shared.db.paging import Page, PageRequest, keyset_clause, page_of
from shared.db.rows import columns_of
from shared.deployments.branch_repository import NAMED_BRANCH
from shared.deployments.state import SiteRuntime
from shared.plans import Plan

SORTABLE: dict[str, LiteralString] = {"created_at": "p.created_at", "name": "p.name"}

# Columns that clients may change; any other column in an update is a bug of the caller.
CHANGEABLE: tuple[LiteralString, ...] = (
    "name", "repository_url", "repository_branch", "root_directory", "framework", "install_command", "build_command",
    "output_directory", "node_version", "build_network", "is_pinned", "repository_set_by", "runtime", "replicas",
    "is_application",
)  # fmt: skip


class ProjectRow(msgspec.Struct, frozen=True):
    """A project; `active_deployment_id` is the deployment that production serves.

    `repository_branch`: the branch that it names, None for the repository's default branch. `default_branch`: the one
    that a clone has seen last.
    """

    id: str
    name: str
    slug: str
    repository_url: str | None
    repository_branch: str | None
    default_branch: str | None
    root_directory: str
    framework: str | None
    install_command: str | None
    build_command: str | None
    output_directory: str | None
    node_version: str | None
    runtime: SiteRuntime
    replicas: int
    build_network: str | None
    is_application: bool | None
    is_pinned: bool
    active_deployment_id: str | None
    created_at: datetime
    updated_at: datetime


class NewProject(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a new project."""

    id: str
    tenant_id: str
    name: str
    slug: str
    repository_url: str | None
    repository_branch: str | None
    root_directory: str
    framework: str | None
    install_command: str | None
    build_command: str | None
    output_directory: str | None
    node_version: str | None
    runtime: SiteRuntime
    replicas: int
    build_network: str | None
    is_application: bool | None
    repository_set_by: str | None


_ACTIVE: LiteralString = "(SELECT d.id FROM deployments d WHERE d.project_id = p.id AND d.is_active)"

_SELECT: LiteralString = f"""
SELECT {columns_of(ProjectRow, "p", active_deployment_id=_ACTIVE, repository_branch=NAMED_BRANCH)}
FROM projects p
"""  # noqa: S608 - constants only

_INSERT: LiteralString = f"""
INSERT INTO projects (id, tenant_id, name, slug, repository_url, repository_branch, follows_default_branch,
                      root_directory, framework, install_command, build_command, output_directory, node_version,
                      runtime, replicas, build_network, is_application, repository_set_by)
SELECT %(id)s, %(tenant_id)s, %(name)s, %(slug)s, %(repository_url)s, COALESCE(%(repository_branch)s::text, 'main'),
       %(repository_branch)s::text IS NULL, %(root_directory)s, %(framework)s, %(install_command)s, %(build_command)s,
       %(output_directory)s, %(node_version)s, %(runtime)s, %(replicas)s,
       %(build_network)s::build_network, %(is_application)s, %(repository_set_by)s
WHERE NOT EXISTS (SELECT 1 FROM deployments d WHERE d.host = %(slug)s)
ON CONFLICT (slug) DO NOTHING
RETURNING {columns_of(ProjectRow, active_deployment_id="NULL", repository_branch=NAMED_BRANCH)}
"""  # noqa: S608 - constants only

# Of columns that are not simply set. Another repository has another default branch.
_ASSIGNMENTS: Mapping[str, LiteralString] = {
    "repository_branch": (
        "repository_branch = COALESCE(%(repository_branch)s::text, 'main'), "
        "follows_default_branch = %(repository_branch)s::text IS NULL"
    ),
    "repository_url": (
        "repository_url = %(repository_url)s, "
        "default_branch = CASE WHEN repository_url = %(repository_url)s THEN default_branch END"
    ),
}


class ProjectRepository:
    """A project that is being deleted is not found and not listed, but its slug remains taken."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lock_tenant(self, connection: Connection, tenant_id: str) -> Plan | None:
        """Returns the tenant's plan. Serialises the creation of projects, so that the plan's limit is exact."""
        return connection.fetch_value(
            Plan, "SELECT plan FROM tenants WHERE id = %(id)s FOR NO KEY UPDATE", {"id": tenant_id}
        )

    def count_of(self, connection: Connection, tenant_id: str) -> int:
        total = connection.fetch_value(
            int,
            "SELECT count(*) FROM projects WHERE tenant_id = %(tenant_id)s AND deleting_at IS NULL",
            {"tenant_id": tenant_id},
        )
        return total or 0

    def insert(self, connection: Connection, project: NewProject) -> ProjectRow | None:
        """Returns None if a project or a preview's address has the slug; the transaction remains usable."""
        return connection.fetch_one(ProjectRow, _INSERT, msgspec.structs.asdict(project))

    def find(self, tenant_id: str, project_id: str) -> ProjectRow | None:
        return self._database.fetch_one(
            ProjectRow,
            _SELECT + "WHERE p.id = %(id)s AND p.tenant_id = %(tenant_id)s AND p.deleting_at IS NULL",
            {"id": project_id, "tenant_id": tenant_id},
        )

    def find_by_slug(self, tenant_ids: Sequence[str], slug: str) -> ProjectRow | None:
        return self._database.fetch_one(
            ProjectRow,
            _SELECT + "WHERE p.slug = %(slug)s AND p.tenant_id = ANY(%(tenant_ids)s) AND p.deleting_at IS NULL",
            {"slug": slug, "tenant_ids": list(tenant_ids)},
        )

    def find_tenant(self, project_id: str) -> str | None:
        return self._database.fetch_value(
            str, "SELECT tenant_id FROM projects WHERE id = %(id)s AND deleting_at IS NULL", {"id": project_id}
        )

    def page(
        self, tenant_ids: Sequence[str], request: PageRequest, *, framework: Sequence[str] = ()
    ) -> Page[ProjectRow]:
        where: LiteralString = "p.tenant_id = ANY(%(tenant_ids)s) AND p.deleting_at IS NULL"
        parameters: dict[str, object] = {"tenant_ids": list(tenant_ids)}
        if framework:
            where += " AND p.framework = ANY(%(framework)s)"
            parameters["framework"] = list(framework)
        keyset, order, keyset_parameters = keyset_clause(request, column=SORTABLE[request.sort], id_column="p.id")
        page_query = f"{_SELECT} WHERE {where} AND {keyset} {order}"
        rows = self._database.fetch_all(ProjectRow, page_query, parameters | keyset_parameters)
        total = None
        if request.with_total:
            count_query = f"SELECT count(*) FROM projects p WHERE {where}"  # noqa: S608 - constants only
            total = self._database.fetch_value(int, count_query, parameters)
        return page_of(rows, request, total)

    def update(self, connection: Connection, tenant_id: str, project_id: str, changes: Mapping[str, object]) -> bool:
        """Returns False if there is no such project."""
        unknown = set(changes) - set(CHANGEABLE)
        if unknown:
            raise ValueError(f"not changeable: {sorted(unknown)}")
        assignments = ", ".join(
            _ASSIGNMENTS.get(column, f"{column} = %({column})s") for column in CHANGEABLE if column in changes
        )
        query = (
            f"UPDATE projects SET {assignments}, updated_at = now() "  # noqa: S608 - constants only
            "WHERE id = %(id)s AND tenant_id = %(tenant_id)s AND deleting_at IS NULL RETURNING id"
        )
        return connection.exists(query, {**changes, "id": project_id, "tenant_id": tenant_id})

    def set_deleting(self, tenant_id: str, project_id: str) -> Plan | None:
        """Returns the tenant's plan, or None if there is no such project or it is already being deleted."""
        return self._database.fetch_value(
            Plan,
            "UPDATE projects p SET deleting_at = now(), updated_at = now() FROM tenants t "
            "WHERE p.id = %(id)s AND p.tenant_id = %(tenant_id)s AND t.id = p.tenant_id AND p.deleting_at IS NULL "
            "RETURNING t.plan",
            {"id": project_id, "tenant_id": tenant_id},
        )
