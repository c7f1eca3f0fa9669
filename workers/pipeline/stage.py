"""What a stage is: a function from earlier stages' outputs to its own, and all that it may touch while it runs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from shared.db.database import Database
from shared.deployments.state import SiteRuntime, Stage
from shared.errors import PlatformError
from shared.plans import PlanLimits
from shared.projects.repository_credentials import RepositoryCredentials
from shared.settings import Settings
from shared.storage.base import ArtifactStore
from workers.artifacts.reader import ArtifactReader
from workers.executors.base import Executor
from workers.pipeline.outputs import Output
from workers.publishers.base import Publisher
from workers.site_pods.site_pods import SitePods
from workers.snapshots.store import SnapshotStore

OutputT_co = TypeVar("OutputT_co", bound=Output, covariant=True)
# JSON as the database holds it.
Recorded = Mapping[str, object]


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
    # None if none was named and none found, which happens to deployments of a commit alone.
    branch: str | None
    commit_sha: str | None
    root_directory: str
    framework: str | None
    install_command: str | None
    build_command: str | None
    output_directory: str | None
    node_version: str | None
    build_network: str | None
    is_preview: bool
    clean: bool
    runtime: SiteRuntime
    replicas: int
    # Ends as ignored when there is nothing new.
    if_changed: bool
    host: str
    release_sequence: int
    # Whether the first page is shown for paths that the site doesn't have; None if it is decided at upload.
    is_application: bool | None = None


class StageLog(Protocol):
    """Safe from any thread. Everything is masked before it is stored or published."""

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """Raw output of a command, in pieces of any size."""
        ...

    def system(self, text: str) -> None:
        """A line of the platform's own: what it does and why."""
        ...


@dataclass(frozen=True, slots=True)
class StageRow(Generic[OutputT_co]):
    """One row of the table of stages (`workers/pipeline/table.py`).

    `output` is the type that the stage records, `module` the module whose `build(parts)` makes the stage's function.
    `is_cached`: its output is kept under a key, and hits are counted. `sees_credentials`: those of the project's
    repository. `always_seen` are names of variables that the stage sees whatever stages they are set for.
    """

    stage: Stage
    output: type[OutputT_co]
    module: str
    is_cached: bool = False
    sees_credentials: bool = False
    always_seen: frozenset[str] = frozenset()
    is_counted_as_build: bool = False


class StageInputs:
    """The recorded outputs of the finished stages, each as its type: `inputs[CLONE].source`."""

    def __init__(self, recorded: Mapping[Stage, Recorded]) -> None:
        self._recorded = recorded

    def __getitem__(self, row: StageRow[OutputT_co]) -> OutputT_co:
        """Raises PlatformError if the stage has recorded nothing, or nothing of this type."""
        try:
            return msgspec.convert(self._recorded[row.stage], row.output)
        except (KeyError, msgspec.ValidationError) as error:
            raise PlatformError(f"The output of the {row.stage.value} stage is not recorded: {error}") from error

    def find(self, row: StageRow[OutputT_co]) -> OutputT_co | None:
        """As `[row]`, or None if the stage has recorded nothing."""
        return self[row] if row.stage in self._recorded else None

    def origin_of(self, digest: str) -> Stage | None:
        """Returns the stage that recorded the digest first; later ones repeat what they were given."""
        return next((stage for stage in Stage if _names(self._recorded.get(stage, {}), digest)), None)


@dataclass(frozen=True, slots=True)
class StageContext:
    """`directory` is empty at the start and deleted at the end.

    `cancelled` is set when the deployment was cancelled or the lease was lost; long work watches it.
    """

    deployment: DeploymentView
    limits: PlanLimits
    directory: Path
    inputs: StageInputs
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
class StageResult(Generic[OutputT_co]):
    """`output` is what later stages need, and digests of what was stored."""

    output: OutputT_co
    is_cache_hit: bool = False
    # Facts that the deployment shows: commit_sha, commit_message, framework, manifest_digest.
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    # What the owner has to know of a deployment that is ready all the same; complete sentences.
    warnings: Sequence[str] = ()


class StageFunction(Protocol):
    """Immutable: run twice it gives the same result and does no harm."""

    def run(self, context: StageContext) -> StageResult[Output]:
        """Runs the stage.

        Raises StageFailure for what the user can fix, NothingToBuild if the deployment is to end as ignored,
        PlatformError or OSError for what is worth another try, InputMissing if an earlier stage's output is lost, and
        Cancelled if it stopped because `context.cancelled` was set.
        """
        ...

    def reap(self, name: str) -> None:
        """Kills what an earlier, dead run of this name left on this host. By default a stage runs no commands."""

    def take_over(self, name: str) -> None:
        """Called before a repeated run, whose worker may have died; see Executor.take_over."""
        self.reap(name)


class NothingToBuild(Exception):
    """Nothing has changed for a deployment that was asked for only if something has. The message says why."""


class StageParts(Protocol):
    """What stages are built from. The methods make what only some stages need; a stage calls them once."""

    @property
    def settings(self) -> Settings: ...
    @property
    def database(self) -> Database: ...
    @property
    def store(self) -> ArtifactStore: ...
    @property
    def artifacts(self) -> ArtifactReader: ...
    @property
    def publisher(self) -> Publisher: ...

    def site_pods(self) -> SitePods | None:
        """Opens what makes pods of sites; None if the platform has no cluster for them. Raises PlatformError."""
        ...

    def snapshots(self) -> SnapshotStore:
        """Opens the store of stage outputs."""
        ...

    def open_executor(self) -> Executor:
        """Opens and probes the executor that the settings name. Raises PlatformError with instructions."""
        ...


def _names(value: object, digest: str) -> bool:
    if isinstance(value, Mapping):
        return any(_names(part, digest) for part in value.values())
    return any(_names(part, digest) for part in value) if isinstance(value, list) else value == digest
