"""Rows of deployments. Their SQL is in `repository.py`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from shared.deployments.state import DeploymentStatus, SiteRuntime, SiteState, Stage
from shared.plans import Plan


class DeploymentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The project's settings when the deployment was made; None means that the value is detected."""

    root_directory: str | None = None
    framework: str | None = None
    install_command: str | None = None
    build_command: str | None = None
    output_directory: str | None = None
    node_version: str | None = None
    runtime: SiteRuntime = SiteRuntime.FILES
    replicas: int = 1
    build_network: str | None = None
    is_application: bool | None = None


class DeploymentRow(msgspec.Struct, frozen=True):
    """A deployment, with the names of its project and the plan of its tenant."""

    id: str
    tenant_id: str
    tenant_plan: Plan
    project_id: str
    project_name: str
    project_slug: str
    created_by: str | None
    trigger: str
    status: DeploymentStatus
    # The greatest fencing token that has changed the row.
    fence: int
    repository_url: str
    # The user who set the repository's address is a platform administrator.
    is_set_by_administrator: bool
    branch: str
    # No branch was named: `branch` is the repository's last known default branch until a clone finds the present one.
    awaits_branch: bool
    commit_sha: str | None
    commit_message: str | None
    settings: DeploymentSettings
    is_preview: bool
    is_active: bool
    clean: bool
    if_changed: bool
    priority: int
    release_sequence: int
    host: str
    site_state: SiteState
    error_code: str | None
    error_stage: Stage | None
    error_message: str | None
    ignored_reason: str | None
    # Texts by the stage that gave them.
    warnings: dict[str, list[str]]
    traceparent: str | None
    cancel_requested_at: datetime | None
    deleting_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class DeployableProject(msgspec.Struct, frozen=True):
    """What a deployment takes from its project; `release_sequence` is the number that was taken for it.

    `repository_branch`: None for the repository's default branch, which was `default_branch` when it was seen last.
    """

    slug: str
    settings: DeploymentSettings
    repository_url: str | None
    repository_set_by: str | None
    repository_branch: str | None
    default_branch: str | None
    release_sequence: int


class NewDeployment(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a new deployment."""

    id: str
    tenant_id: str
    project_id: str
    created_by: str | None
    trigger: str
    repository_url: str
    repository_set_by: str | None
    branch: str
    awaits_branch: bool
    commit_sha: str | None
    settings: DeploymentSettings
    is_preview: bool
    clean: bool
    if_changed: bool
    priority: int
    release_sequence: int
    host: str
    traceparent: str | None


class HeldDeployment(msgspec.Struct, frozen=True):
    status: DeploymentStatus
    fence: int


class DeploymentFilters(msgspec.Struct, frozen=True, kw_only=True):
    """Filters of a page of deployments; None or no statuses mean any."""

    project_id: str | None = None
    statuses: Sequence[DeploymentStatus] = ()
    branch: str | None = None
    is_preview: bool | None = None
    is_active: bool | None = None
