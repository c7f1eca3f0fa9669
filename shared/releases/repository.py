"""Database access to releases: the active deployment of a project and the requests to change it."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import LiteralString

import msgspec

from shared.db.database import Connection, Database
from shared.db.rows import columns_of
from shared.deployments.rows import DeploymentSettings
from shared.deployments.state import DeploymentStatus
from shared.plans import Plan


class ReleaseKind(enum.StrEnum):
    """A rollback also pins the project, so that deployments triggered by webhooks are not activated."""

    ROLLBACK = "rollback"
    PROMOTE = "promote"


class ReleaseStatus(enum.StrEnum):
    PENDING = "pending"
    DONE = "done"
    SUPERSEDED = "superseded"
    FAILED = "failed"


class ReleaseRow(msgspec.Struct, frozen=True):
    """A request to change the active deployment. `host`, `manifest_digest` and `settings` belong to the new
    one.
    """

    id: str
    tenant_id: str
    tenant_plan: Plan
    project_id: str
    deployment_id: str
    deployment_status: DeploymentStatus
    host: str
    manifest_digest: str | None
    kind: ReleaseKind
    status: ReleaseStatus
    release_sequence: int
    settings: DeploymentSettings
    traceparent: str | None


class NewRelease(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a new release."""

    id: str
    tenant_id: str
    project_id: str
    deployment_id: str
    kind: ReleaseKind
    release_sequence: int
    requested_by: str | None
    traceparent: str | None


class LockedProject(msgspec.Struct, frozen=True):
    """`active_release_sequence`: of the release that production's pointer belongs to."""

    is_pinned: bool
    deleting_at: datetime | None
    active_release_sequence: int


_INSERT = """
INSERT INTO releases (id, tenant_id, project_id, deployment_id, kind, release_sequence, requested_by, traceparent)
VALUES (%(id)s, %(tenant_id)s, %(project_id)s, %(deployment_id)s, %(kind)s, %(release_sequence)s, %(requested_by)s,
        %(traceparent)s)
"""

_COLUMNS = columns_of(
    ReleaseRow,
    "r",
    host="d.host",
    manifest_digest="d.manifest_digest",
    deployment_status="d.status",
    tenant_plan="t.plan",
    settings="d.settings",
)

_SELECT: LiteralString = f"""
SELECT {_COLUMNS}
FROM releases r JOIN deployments d ON d.id = r.deployment_id JOIN tenants t ON t.id = r.tenant_id
"""  # noqa: S608 - constants only

_MOVE_POINTER = """
UPDATE projects SET active_release_sequence = %(release_sequence)s, is_pinned = %(is_pinned)s
WHERE id = %(project_id)s AND active_release_sequence < %(release_sequence)s
"""


class ReleaseRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, connection: Connection, release: NewRelease) -> None:
        connection.execute(_INSERT, msgspec.structs.asdict(release))

    def find(self, release_id: str) -> ReleaseRow | None:
        return self._database.fetch_one(ReleaseRow, _SELECT + "WHERE r.id = %(id)s", {"id": release_id})

    def pending(self) -> list[ReleaseRow]:
        return self._database.fetch_all(ReleaseRow, _SELECT + "WHERE r.status = 'pending' ORDER BY r.created_at, r.id")

    def lock_project(self, connection: Connection, project_id: str) -> LockedProject | None:
        return connection.fetch_one(
            LockedProject,
            "SELECT is_pinned, deleting_at, active_release_sequence FROM projects WHERE id = %(id)s FOR NO KEY UPDATE",
            {"id": project_id},
        )

    def move_pointer(
        self, connection: Connection, project_id: str, deployment_id: str, release_sequence: int, *, is_pinned: bool
    ) -> bool:
        """Activates the ready deployment. Returns False if a newer release is active."""
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

    def close(
        self, connection: Connection, release_id: str, status: ReleaseStatus, error_message: str | None = None
    ) -> None:
        connection.execute(
            "UPDATE releases SET status = %(status)s, error_message = %(message)s, finished_at = now() "
            "WHERE id = %(id)s AND status = 'pending'",
            {"id": release_id, "status": status, "message": error_message},
        )
