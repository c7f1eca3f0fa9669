"""What a stage is told of its deployment and its project, and the limits and delays that hold for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shared.backoff import Backoff
from shared.deployments.rows import DeploymentRow
from shared.deployments.state import Stage
from shared.plans import PlanLimits
from shared.projects.variable_service import ProjectVariable
from shared.settings import LimitSettings
from workers.pipeline.stage import DeploymentView
from workers.pipeline.table import TABLE

RETRY_MAXIMUM_SECONDS = 120.0
_RETRY = Backoff(2.0, RETRY_MAXIMUM_SECONDS, jitter=0.0)


def retry_delay_seconds(attempt: int) -> float:
    return _RETRY.delay_seconds(attempt)


def effective_limits(limits: PlanLimits, overrides: LimitSettings) -> PlanLimits:
    """The plan's limits, with the operator's overrides for this installation, and within the machine's."""
    memory_bytes = overrides.memory_bytes or limits.memory_bytes
    if overrides.memory_bytes is None and overrides.largest_memory_bytes is not None:
        memory_bytes = min(memory_bytes, overrides.largest_memory_bytes)
    return replace(
        limits,
        memory_bytes=memory_bytes,
        cpu_count=min(limits.cpu_count, overrides.largest_cpu_count or limits.cpu_count),
        disk_bytes=overrides.disk_bytes or limits.disk_bytes,
        disk_entries=overrides.disk_entries or limits.disk_entries,
        stage_timeout_seconds=overrides.stage_timeout_seconds or limits.stage_timeout_seconds,
    )


def target_of(row: DeploymentRow) -> str:
    return "preview" if row.is_preview else "production"


def deployment_view(row: DeploymentRow) -> DeploymentView:
    settings = row.settings
    return DeploymentView(
        id=row.id,
        tenant_id=row.tenant_id,
        project_id=row.project_id,
        project_slug=row.project_slug,
        repository_url=row.repository_url,
        allows_files=row.is_set_by_administrator,
        branch=None if row.awaits_branch else row.branch,
        commit_sha=row.commit_sha,
        root_directory=settings.root_directory or ".",
        framework=settings.framework,
        install_command=settings.install_command,
        build_command=settings.build_command,
        output_directory=settings.output_directory,
        node_version=settings.node_version,
        build_network=settings.build_network,
        is_preview=row.is_preview,
        clean=row.clean,
        runtime=settings.runtime,
        replicas=settings.replicas,
        if_changed=row.if_changed,
        host=row.host,
        release_sequence=row.release_sequence,
        is_application=settings.is_application,
    )


def variables_for(stage: Stage, variables: Sequence[ProjectVariable]) -> dict[str, str]:
    always_seen = TABLE[stage].always_seen
    return {
        variable.key: variable.value
        for variable in variables
        if stage in variable.stages or variable.key in always_seen
    }
