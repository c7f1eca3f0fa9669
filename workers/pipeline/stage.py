"""What a stage is: a function from named inputs to a recorded output, and all it may touch while it runs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from shared.deployments.state import Stage
from shared.plans import PlanLimits
from shared.projects.repository_credentials import RepositoryCredentials


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """What a stage may know of its deployment. `settings` are the project's when the deployment was made."""

    id: str
    tenant_id: str
    project_id: str
    project_slug: str
    repository_url: str
    # Whether it may be a file:// one: who set the address is a platform administrator now.
    allows_files: bool
    branch: str
    commit_sha: str | None
    root_directory: str
    framework: str | None
    install_command: str | None
    build_command: str | None
    output_directory: str | None
    node_version: str | None
    is_preview: bool
    clean: bool
    # Ends as ignored when there is nothing new.
    if_changed: bool
    host: str
    release_sequence: int


class StageLog(Protocol):
    """Safe from any thread. Everything is masked before it is stored or published."""

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """Raw output of a command, in pieces of any size."""
        ...

    def system(self, text: str) -> None:
        """A line of the platform's own: what it does and why."""
        ...


@dataclass(frozen=True, slots=True)
class StageContext:
    """`directory` is empty at the start and deleted at the end. `inputs`: outputs of the finished stages.

    `cancelled` is set when the deployment was cancelled or the lease was lost; long work watches it.
    """

    deployment: DeploymentView
    limits: PlanLimits
    directory: Path
    inputs: Mapping[Stage, Mapping[str, Any]]
    log: StageLog
    cancelled: threading.Event
    attempt: int
    # Variables of the deployment's target, decrypted; for the build command only, never for an argv or a log. The
    # install stage gets those named CLOUDIFY_…, to read them itself: what installs runs code that nobody looked at.
    variables: Mapping[str, str]
    # Of the project's repository; for the clone alone.
    credentials: RepositoryCredentials | None = None
    # The fencing token that the run works under; for people who look at what runs.
    fence: int = 0


@dataclass(frozen=True, slots=True)
class StageResult:
    """`output` is JSON: what the later stages need, and digests of what was stored."""

    output: dict[str, Any]
    is_cache_hit: bool = False
    # Facts that the deployment shows: commit_sha, commit_message, framework, manifest_digest.
    facts: dict[str, str] | None = None


class StageFunction(Protocol):
    """Immutable: run twice it gives the same result and does no harm.

    Raises StageFailure for what the user can mend, PlatformError for what is worth another try, Cancelled when it
    stopped because `context.cancelled` was set.
    """

    def run(self, context: StageContext) -> StageResult: ...


def origin_of(digest: str, inputs: Mapping[Stage, Mapping[str, Any]]) -> Stage | None:
    """The stage that recorded the digest first; later ones repeat what they were given."""
    return next((stage for stage in Stage if _names(inputs.get(stage, {}), digest)), None)


def _names(value: object, digest: str) -> bool:
    if isinstance(value, Mapping):
        return any(_names(part, digest) for part in value.values())
    return any(_names(part, digest) for part in value) if isinstance(value, list) else value == digest
