"""The stages of the pipeline, one row each: what a stage records, what it may see and how it is built.

Adding a stage takes its module, a row with the type of its output here, its line in `shared/deployments/state.py` and a
migration. Later stages read an output as `context.inputs[CLONE].source`. Field names are those of the recorded JSON.
Processes of different versions read them, so a new field needs a default.
"""

from __future__ import annotations

from importlib import import_module

import msgspec

from shared.deployments.state import Stage
from workers.frameworks.detection import Detection
from workers.frameworks.node_projects import FORCING_VARIABLE
from workers.frameworks.requests import VERSION_VARIABLES
from workers.pipeline.carried_files import SWITCH
from workers.pipeline.outputs import Output, Tool
from workers.pipeline.stage import StageFunction, StageParts, StageRow


class CloneOutput(Output, frozen=True, kw_only=True):
    """`source` is the digest of the tree's snapshot."""

    source: str
    commit_sha: str = msgspec.field(name="commitSha", default="")
    commit_message: str = msgspec.field(name="commitMessage", default="")


class InstallOutput(Output, frozen=True, kw_only=True):
    """`source` and `dependencies` are digests of snapshots; `dependencies` is None if nothing was installed.

    The dependency snapshot is the upper layer that the install left over the source. `prepared` is the one that the
    project's own part of the install left over both, or None if there is no such part. `watched` are the paths that
    decide whether another commit has to be built.
    """

    source: str
    dependencies: str | None
    prepared: str | None = None
    detection: Detection
    tools: list[Tool] = msgspec.field(default_factory=list[Tool])
    watched: list[str] = msgspec.field(default_factory=list[str])


class BuildOutput(Output, frozen=True, kw_only=True):
    """`output` is the digest of the output directory's snapshot."""

    output: str


class ArtifactOutput(Output, frozen=True, kw_only=True):
    """`manifest` is the digest of the manifest that names the site's files. Upload and deploy record it."""

    manifest: str


CLONE = StageRow(
    Stage.CLONE,
    output=CloneOutput,
    module="workers.stages.clone.stage",
    is_cached=True,
    sees_credentials=True,
)
INSTALL = StageRow(
    Stage.INSTALL,
    output=InstallOutput,
    module="workers.stages.install.stage",
    is_cached=True,
    # They say how to install and are no secrets.
    always_seen=frozenset({FORCING_VARIABLE, SWITCH, *VERSION_VARIABLES.values()}),
)
BUILD = StageRow(
    Stage.BUILD,
    output=BuildOutput,
    module="workers.stages.build.stage",
    is_cached=True,
    is_counted_as_build=True,
)
UPLOAD = StageRow(Stage.UPLOAD, output=ArtifactOutput, module="workers.stages.upload.stage", is_cached=True)
DEPLOY = StageRow(Stage.DEPLOY, output=ArtifactOutput, module="workers.stages.deploy")

TABLE: dict[Stage, StageRow[Output]] = {row.stage: row for row in (CLONE, INSTALL, BUILD, UPLOAD, DEPLOY)}


def build_stage(stage: Stage, parts: StageParts) -> StageFunction:
    """Builds the stage with what it needs. Imports its module, so that other pools' processes stay small."""
    return import_module(TABLE[stage].module).build(parts)
