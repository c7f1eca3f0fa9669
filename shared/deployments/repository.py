"""Database access to deployments. Every state change is a compare-and-set on the status and the fencing token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import LiteralString

import msgspec
from psycopg.types.json import Jsonb

from shared.db.database import Connection, Database
from shared.db.paging import Page, PageRequest, keyset_clause, page_of
from shared.db.rows import columns_of
from shared.deployments.branch_repository import NAMED_BRANCH
from shared.deployments.rows import (
    DeployableProject,
    DeploymentFilters,
    DeploymentRow,
    HeldDeployment,
    NewDeployment,
)
from shared.deployments.state import FINISHED, STAGES, DeploymentStatus, Stage, predecessors
from shared.plans import Plan

SORTABLE: dict[str, LiteralString] = {"created_at": "d.created_at"}

_COLUMNS = columns_of(
    DeploymentRow,
    "d",
    tenant_plan="t.plan",
    project_name="p.name",
    project_slug="p.slug",
    is_set_by_administrator=(
        "EXISTS (SELECT 1 FROM users u WHERE u.id = d.repository_set_by AND u.is_platform_administrator)"
    ),
)

_SELECT: LiteralString = f"""
SELECT {_COLUMNS}
FROM deployments d JOIN projects p ON p.id = d.project_id JOIN tenants t ON t.id = d.tenant_id
"""  # noqa: S608 - constants only

_SETTINGS: LiteralString = """
jsonb_build_object('root_directory', root_directory, 'framework', framework, 'install_command', install_command,
                   'build_command', build_command, 'output_directory', output_directory, 'node_version', node_version,
                   'runtime', runtime, 'replicas', replicas, 'build_network', build_network,
                   'is_application', is_application)
"""

_TAKE_RELEASE_SEQUENCE: LiteralString = f"""
UPDATE projects SET release_sequence = release_sequence + 1
WHERE id = %(project_id)s AND tenant_id = %(tenant_id)s AND deleting_at IS NULL
RETURNING {columns_of(DeployableProject, settings=_SETTINGS, repository_branch=NAMED_BRANCH)}
"""  # noqa: S608 - constants only

_INSERT = """
INSERT INTO deployments (id, tenant_id, project_id, created_by, trigger, repository_url, repository_set_by, branch,
                         awaits_branch, commit_sha, settings, is_preview, clean, if_changed, priority,
                         release_sequence, host, traceparent, preview_expires_at)
VALUES (%(id)s, %(tenant_id)s, %(project_id)s, %(created_by)s, %(trigger)s, %(repository_url)s,
        %(repository_set_by)s, %(branch)s, %(awaits_branch)s, %(commit_sha)s, %(settings)s, %(is_preview)s, %(clean)s,
        %(if_changed)s, %(priority)s, %(release_sequence)s, %(host)s, %(traceparent)s,
        CASE WHEN %(is_preview)s THEN now() + make_interval(days => %(preview_days)s) END)
"""

_LOCK_HELD = "SELECT status, fence FROM deployments WHERE id = %(id)s FOR NO KEY UPDATE"

_LOCK = "SELECT id FROM deployments WHERE id = %(id)s AND tenant_id = %(tenant_id)s FOR NO KEY UPDATE"

# Serialises the admission of a tenant's deployments, so that the limit of its queue is exact.
_LOCK_TENANT = "SELECT plan FROM tenants WHERE id = %(tenant_id)s FOR NO KEY UPDATE"

_COUNT_LIVE = """
SELECT count(*) FROM deployments
WHERE tenant_id = %(tenant_id)s AND status NOT IN ('ready', 'failed', 'cancelled')
"""

# A deployment occupies its slot while a stage may run.
_STARTED_STATUSES = [traits.status.value for traits in STAGES.values()]
_STARTED = """
SELECT id FROM deployments
WHERE tenant_id = %(tenant_id)s AND status = ANY(%(started)s::deployment_status[])
"""

# Of one stage.
_MAXIMUM_WARNINGS = 20
_MAXIMUM_WARNING = 2000

# The longest stage may take an hour, and a worker that died is noticed in much less. A queued deployment waits for
# those of its tenant that have started, however long they take.
_STUCK_AFTER = "2 hours"
_COUNT_STUCK = """
SELECT d.status, count(*) AS number FROM deployments d
WHERE d.status NOT IN ('ready', 'failed', 'cancelled') AND d.created_at < now() - %(after)s::interval
  AND CASE WHEN d.status = 'queued' THEN d.tenant_id NOT IN (
        SELECT tenant_id FROM deployments
        WHERE status = ANY(%(started)s::deployment_status[]) AND status NOT IN ('ready', 'failed', 'cancelled')
      ) ELSE NOT EXISTS (
        SELECT 1 FROM stage_runs r
        WHERE r.deployment_id = d.id AND COALESCE(r.finished_at, r.started_at) > now() - %(after)s::interval
      ) END
GROUP BY d.status
"""

_ADVANCE = """
UPDATE deployments SET status = %(status)s, fence = %(fence)s, started_at = COALESCE(started_at, now())
WHERE id = %(id)s AND status = ANY(%(allowed)s::deployment_status[]) AND fence <= %(fence)s
"""

# The API and the reconciler act only if no worker holds the deployment: they pass the fence that they read, and change
# nothing if a worker has taken the deployment since.
_FINISH = """
UPDATE deployments
SET status = %(status)s::deployment_status, fence = GREATEST(fence, %(fence)s), finished_at = now(),
    error_code = %(error_code)s, error_stage = %(error_stage)s, error_message = %(error_message)s,
    ignored_reason = %(ignored_reason)s
WHERE id = %(id)s AND status = ANY(%(allowed)s::deployment_status[]) AND fence <= %(fence)s
  AND (%(status)s::deployment_status = 'ready' OR site_state <> 'published')
"""

_FACTS = """
UPDATE deployments
SET commit_sha = COALESCE(%(commit_sha)s, commit_sha), commit_message = COALESCE(%(commit_message)s, commit_message),
    framework = COALESCE(%(framework)s, framework), manifest_digest = COALESCE(%(manifest_digest)s, manifest_digest)
WHERE id = %(id)s AND fence <= %(fence)s
"""

# In place of those that an earlier run of the stage gave.
_WARNINGS = """
UPDATE deployments SET warnings = (warnings - %(stage)s) || %(warnings)s
WHERE id = %(id)s AND fence <= %(fence)s AND (warnings ? %(stage)s OR %(warnings)s <> '{}'::jsonb)
"""

_REQUEST_CANCEL = """
UPDATE deployments SET cancel_requested_at = COALESCE(cancel_requested_at, now())
WHERE id = %(id)s AND tenant_id = %(tenant_id)s
"""

_SET_DELETING = "UPDATE deployments SET site_state = 'removing', deleting_at = now() WHERE id = %(id)s"


class _StuckRow(msgspec.Struct, frozen=True):
    status: DeploymentStatus
    number: int


class DeploymentRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    # Reading

    def find(self, tenant_id: str, deployment_id: str) -> DeploymentRow | None:
        return self._database.fetch_one(
            DeploymentRow,
            _SELECT + "WHERE d.id = %(id)s AND d.tenant_id = %(tenant_id)s AND d.deleting_at IS NULL",
            {"id": deployment_id, "tenant_id": tenant_id},
        )

    def find_tenant(self, deployment_id: str) -> str | None:
        return self._database.fetch_value(
            str,
            "SELECT d.tenant_id FROM deployments d JOIN projects p ON p.id = d.project_id "
            "WHERE d.id = %(id)s AND d.deleting_at IS NULL AND p.deleting_at IS NULL",
            {"id": deployment_id},
        )

    def find_locked(self, connection: Connection, tenant_id: str, deployment_id: str) -> DeploymentRow | None:
        """Locks the row until the transaction ends. Log chunks that refer to it may still be inserted."""
        parameters = {"id": deployment_id, "tenant_id": tenant_id}
        if not connection.exists(_LOCK, parameters):
            return None
        # A separate statement: one that waited for the lock would see joined rows from before the wait.
        return connection.fetch_one(DeploymentRow, _SELECT + "WHERE d.id = %(id)s", parameters)

    def page(self, tenant_ids: Sequence[str], request: PageRequest, filters: DeploymentFilters) -> Page[DeploymentRow]:
        conditions: list[LiteralString] = ["d.tenant_id = ANY(%(tenant_ids)s)", "d.deleting_at IS NULL"]
        parameters: dict[str, object] = {"tenant_ids": list(tenant_ids), **msgspec.structs.asdict(filters)}
        if filters.project_id is not None:
            conditions.append("d.project_id = %(project_id)s")
        if filters.branch is not None:
            conditions.append("d.branch = %(branch)s AND NOT d.awaits_branch")
        if filters.is_preview is not None:
            conditions.append("d.is_preview = %(is_preview)s")
        if filters.is_active is not None:
            conditions.append("d.is_active = %(is_active)s")
        if filters.statuses:
            conditions.append("d.status = ANY(%(statuses)s::deployment_status[])")
            parameters["statuses"] = _names(filters.statuses)
        where = " AND ".join(conditions)
        keyset, order, keyset_parameters = keyset_clause(request, column=SORTABLE[request.sort], id_column="d.id")
        total = None
        page_query = f"{_SELECT} WHERE {where} AND {keyset} {order}"
        count_query = f"SELECT count(*) FROM deployments d WHERE {where}"  # noqa: S608 - constants only
        with self._database.transaction() as connection:
            rows = connection.fetch_all(DeploymentRow, page_query, parameters | keyset_parameters)
            if request.with_total:
                total = connection.fetch_value(int, count_query, parameters)
        return page_of(rows, request, total)

    def live(self) -> list[DeploymentRow]:
        """Returns all unfinished deployments, oldest first. The queue is rebuilt from these."""
        return self._database.fetch_all(
            DeploymentRow,
            _SELECT + "WHERE d.status NOT IN ('ready', 'failed', 'cancelled') ORDER BY d.created_at, d.id",
        )

    def count_stuck(self) -> dict[DeploymentStatus, int]:
        """The number of unfinished deployments without progress for two hours, by status; statuses without any are
        left out.
        """
        parameters = {"after": _STUCK_AFTER, "started": _STARTED_STATUSES}
        rows = self._database.fetch_all(_StuckRow, _COUNT_STUCK, parameters)
        return {row.status: row.number for row in rows}

    def is_live(self, deployment_id: str) -> bool:
        status = self._database.fetch_value(
            DeploymentStatus, "SELECT status FROM deployments WHERE id = %(id)s", {"id": deployment_id}
        )
        return status is not None and status not in FINISHED

    def is_queued(self, connection: Connection, deployment_id: str) -> bool:
        """Returns False once the deployment has started, ended or been deleted, and never True after that."""
        return connection.exists(
            "SELECT 1 FROM deployments WHERE id = %(id)s AND status = 'queued'", {"id": deployment_id}
        )

    def started(self, connection: Connection, tenant_id: str) -> list[str]:
        """Returns the tenant's deployments that occupy slots. While the tenant is locked, no other can start."""
        return connection.fetch_values(str, _STARTED, {"tenant_id": tenant_id, "started": _STARTED_STATUSES})

    # Creating

    def lock_tenant(self, connection: Connection, tenant_id: str) -> Plan | None:
        """Locks the tenant and returns its plan. Its admissions and starts wait until the transaction ends."""
        return connection.fetch_value(Plan, _LOCK_TENANT, {"tenant_id": tenant_id})

    def count_live(self, connection: Connection, tenant_id: str) -> int:
        return connection.fetch_value(int, _COUNT_LIVE, {"tenant_id": tenant_id}) or 0

    def take_release_sequence(
        self, connection: Connection, tenant_id: str, project_id: str
    ) -> DeployableProject | None:
        """Takes the project's next release sequence. None if there is no such project or it is being deleted."""
        return connection.fetch_one(
            DeployableProject, _TAKE_RELEASE_SEQUENCE, {"project_id": project_id, "tenant_id": tenant_id}
        )

    def insert(self, connection: Connection, deployment: NewDeployment, *, preview_days: int) -> None:
        """`preview_days`: how long the site stays if it is a preview."""
        settings = Jsonb(msgspec.structs.asdict(deployment.settings))
        parameters = msgspec.structs.asdict(deployment) | {"settings": settings, "preview_days": preview_days}
        connection.execute(_INSERT, parameters)

    def get_in(self, connection: Connection, deployment_id: str) -> DeploymentRow:
        row = connection.fetch_one(DeploymentRow, _SELECT + "WHERE d.id = %(id)s", {"id": deployment_id})
        assert row is not None
        return row

    # State changes

    def advance(self, connection: Connection, deployment_id: str, status: DeploymentStatus, fence: int) -> bool:
        """Returns False if the deployment is finished, in a later state, or held by another worker."""
        cursor = connection.execute(
            _ADVANCE,
            {"id": deployment_id, "status": status.value, "fence": fence, "allowed": _names(predecessors(status))},
        )
        return cursor.rowcount == 1

    def is_held(self, connection: Connection, deployment_id: str, fence: int) -> bool:
        """Locks the row. Whether the deployment is unfinished and no later worker has changed it."""
        row = connection.fetch_one(HeldDeployment, _LOCK_HELD, {"id": deployment_id})
        return row is not None and row.status not in FINISHED and row.fence <= fence

    def finish(
        self,
        connection: Connection,
        deployment_id: str,
        status: DeploymentStatus,
        *,
        fence: int,
        error: tuple[str, str | None, str] | None = None,
        ignored_reason: str | None = None,
    ) -> bool:
        """`error` is (code, stage, message). Returns False if it is finished or another worker's.

        Also False for one that is published, unless it becomes ready: visitors see it already.
        """
        code, stage, message = error or (None, None, None)
        cursor = connection.execute(
            _FINISH,
            {
                "id": deployment_id,
                "status": status.value,
                "fence": fence,
                "allowed": _names(predecessors(status)),
                "error_code": code,
                "error_stage": stage,
                "error_message": message,
                "ignored_reason": ignored_reason,
            },
        )
        return cursor.rowcount == 1

    def set_facts(self, connection: Connection, deployment_id: str, fence: int, facts: Mapping[str, str]) -> None:
        names = ("commit_sha", "commit_message", "framework", "manifest_digest")
        connection.execute(_FACTS, {name: facts.get(name) for name in names} | {"id": deployment_id, "fence": fence})

    def set_warnings(
        self, connection: Connection, deployment_id: str, fence: int, stage: Stage, warnings: Sequence[str]
    ) -> None:
        given = {stage.value: [text[:_MAXIMUM_WARNING] for text in warnings[:_MAXIMUM_WARNINGS]]} if warnings else {}
        parameters = {"id": deployment_id, "fence": fence, "stage": stage.value, "warnings": Jsonb(given)}
        connection.execute(_WARNINGS, parameters)

    def request_cancel(self, connection: Connection, tenant_id: str, deployment_id: str) -> None:
        connection.execute(_REQUEST_CANCEL, {"id": deployment_id, "tenant_id": tenant_id})

    def set_deleting(self, connection: Connection, deployment_id: str) -> None:
        """Hides the deployment. A worker removes its site and then the row."""
        connection.execute(_SET_DELETING, {"id": deployment_id})


def _names(statuses: Sequence[DeploymentStatus]) -> list[str]:
    return [status.value for status in statuses]
