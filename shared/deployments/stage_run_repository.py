"""Database access to stage runs: one row for each attempt of a stage, of which at most one succeeds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString

import msgspec
from psycopg.types.json import Jsonb

from shared.db.database import Connection, Database
from shared.db.rows import columns_of
from shared.deployments.state import Stage


class StageRunRow(msgspec.Struct, frozen=True):
    """One attempt of a stage; `attempt` counts from 1."""

    deployment_id: str
    stage: Stage
    status: str
    attempt: int
    is_cache_hit: bool
    started_at: datetime
    finished_at: datetime | None


class _StageOutput(msgspec.Struct, frozen=True):
    stage: Stage
    output: dict[str, object]


class _SucceededStage(msgspec.Struct, frozen=True):
    deployment_id: str
    stage: Stage


_OF_DEPLOYMENTS: LiteralString = f"""
SELECT {columns_of(StageRunRow)} FROM stage_runs
WHERE deployment_id = ANY(%(ids)s) ORDER BY started_at, fence
"""  # noqa: S608 - constants only

# The worker of a run that another attempt replaces died or lost its lease.
_REPLACE = """
UPDATE stage_runs SET status = 'retrying', finished_at = now(), error_message = 'The worker was lost.'
WHERE deployment_id = %(deployment_id)s AND stage = %(stage)s AND status = 'running' AND fence < %(fence)s
"""

_START = """
INSERT INTO stage_runs (deployment_id, stage, fence, attempt, worker)
SELECT %(deployment_id)s, %(stage)s, %(fence)s, 1 + count(*), %(worker)s FROM stage_runs
WHERE deployment_id = %(deployment_id)s AND stage = %(stage)s
ON CONFLICT (deployment_id, stage, fence) DO UPDATE SET worker = EXCLUDED.worker
RETURNING attempt
"""

_SUCCEED = """
UPDATE stage_runs SET status = 'succeeded', output = %(output)s, is_cache_hit = %(is_cache_hit)s, finished_at = now()
WHERE deployment_id = %(deployment_id)s AND stage = %(stage)s AND fence = %(fence)s AND status = 'running'
"""

_END = """
UPDATE stage_runs
SET status = %(status)s, finished_at = now(), error_code = %(error_code)s, error_message = %(error_message)s
WHERE deployment_id = %(deployment_id)s AND status = 'running' AND fence <= %(fence)s
"""


_FORGET = """
UPDATE stage_runs SET status = 'retrying', output = NULL, error_message = %(message)s
WHERE deployment_id = %(deployment_id)s AND stage = ANY(%(stages)s::stage[]) AND status = 'succeeded'
"""


class StageRunRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def outputs(self, connection: Connection, deployment_id: str) -> dict[str, dict[str, object]]:
        """Returns the recorded outputs of the succeeded stages, by stage."""
        rows = connection.fetch_all(
            _StageOutput,
            "SELECT stage, output FROM stage_runs WHERE deployment_id = %(id)s AND status = 'succeeded'",
            {"id": deployment_id},
        )
        return {row.stage: row.output for row in rows}

    def succeeded_stages(self, deployment_ids: Sequence[str]) -> dict[str, set[Stage]]:
        rows = self._database.fetch_all(
            _SucceededStage,
            "SELECT deployment_id, stage FROM stage_runs WHERE deployment_id = ANY(%(ids)s) AND status = 'succeeded'",
            {"ids": list(deployment_ids)},
        )
        stages: dict[str, set[Stage]] = {deployment_id: set() for deployment_id in deployment_ids}
        for row in rows:
            stages[row.deployment_id].add(row.stage)
        return stages

    def running_stage(self, deployment_id: str) -> Stage | None:
        """Returns the stage that a worker has started and not ended, if one is recorded."""
        return self._database.fetch_value(
            Stage,
            "SELECT stage FROM stage_runs WHERE deployment_id = %(id)s AND status = 'running' "
            "ORDER BY fence DESC LIMIT 1",
            {"id": deployment_id},
        )

    def forget(self, connection: Connection, deployment_id: str, stages: Sequence[str], *, message: str) -> None:
        """Discards the success of these stages, so that they run again."""
        connection.execute(_FORGET, {"deployment_id": deployment_id, "stages": list(stages), "message": message})

    def interrupt_all(self, connection: Connection, *, message: str) -> None:
        """Closes all running stages: their workers are gone, and the stages run again."""
        connection.execute(
            "UPDATE stage_runs SET status = 'retrying', finished_at = now(), error_message = %(message)s "
            "WHERE status = 'running'",
            {"message": message},
        )

    def of_deployments(self, connection: Connection, deployment_ids: Sequence[str]) -> dict[str, list[StageRunRow]]:
        """Returns all runs of each deployment, in the order in which they started."""
        rows = connection.fetch_all(StageRunRow, _OF_DEPLOYMENTS, {"ids": list(deployment_ids)})
        runs: dict[str, list[StageRunRow]] = {deployment_id: [] for deployment_id in deployment_ids}
        for row in rows:
            runs[row.deployment_id].append(row)
        return runs

    def start(self, connection: Connection, deployment_id: str, stage: str, fence: int, worker: str) -> int:
        """Records the run and returns the number of its attempt, from 1."""
        parameters = {"deployment_id": deployment_id, "stage": stage, "fence": fence, "worker": worker}
        connection.execute(_REPLACE, parameters)
        attempt = connection.fetch_value(int, _START, parameters)
        assert attempt is not None
        return attempt

    def succeed(
        self,
        connection: Connection,
        deployment_id: str,
        stage: str,
        fence: int,
        *,
        output: dict[str, object],
        is_cache_hit: bool,
    ) -> bool:
        cursor = connection.execute(
            _SUCCEED,
            {
                "deployment_id": deployment_id,
                "stage": stage,
                "fence": fence,
                "output": Jsonb(output),
                "is_cache_hit": is_cache_hit,
            },
        )
        return cursor.rowcount == 1

    def end(
        self,
        connection: Connection,
        deployment_id: str,
        *,
        status: str,
        fence: int,
        error: tuple[str, str] | None = None,
    ) -> None:
        """Closes the deployment's running stage as failed, cancelled or retrying. `error` is (code, message)."""
        code, message = error or (None, None)
        connection.execute(
            _END,
            {
                "deployment_id": deployment_id,
                "status": status,
                "fence": fence,
                "error_code": code,
                "error_message": message,
            },
        )
