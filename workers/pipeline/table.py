"""The stages of the pipeline, one row each: what a stage records, what it may see and how it is built.

Adding a stage takes its module, a row here, its line in `shared/deployments/state.py` and a migration.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from shared.deployments.state import Stage
from workers.frameworks.node_projects import FORCING_VARIABLE
from workers.pipeline.outputs import ArtifactOutput, BuildOutput, CloneOutput, InstallOutput
from workers.pipeline.stage import StageFunction, StageParts, StageRow

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
    # It says how to install and is no secret.
    always_seen=frozenset({FORCING_VARIABLE}),
)
BUILD = StageRow(
    Stage.BUILD,
    output=BuildOutput,
    module="workers.stages.build.stage",
    is_cached=True,
    is_counted_as_build=True,
)
UPLOAD = StageRow(Stage.UPLOAD, output=ArtifactOutput, module="workers.stages.upload", is_cached=True)
DEPLOY = StageRow(Stage.DEPLOY, output=ArtifactOutput, module="workers.stages.deploy")

TABLE: dict[Stage, StageRow[Any]] = {row.stage: row for row in (CLONE, INSTALL, BUILD, UPLOAD, DEPLOY)}


def build_stage(stage: Stage, parts: StageParts) -> StageFunction:
    """Builds the stage with what it needs. Imports its module, so that other pools' processes stay small."""
    return import_module(TABLE[stage].module).build(parts)
