"""The install stage: detects what the project is and installs its dependencies, or finds them installed already."""

from __future__ import annotations

import re
from pathlib import Path

from shared.settings import LimitSettings, SecretSettings
from workers.commands.sandboxed import check_command
from workers.commands.tool_repository import ToolRepository
from workers.commands.tools import ToolProvider
from workers.executors.base import Executor
from workers.executors.toolchain import Toolchain
from workers.frameworks.detection import Overrides
from workers.frameworks.node_projects import FORCING_VARIABLE
from workers.pipeline.outputs import Tool
from workers.pipeline.stage import StageContext, StageFunction, StageParts, StageResult
from workers.pipeline.table import CLONE, InstallOutput
from workers.reading.project import ProjectQuestion, ProjectReading
from workers.reading.reader import ContentReader
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore
from workers.stages.install.dependencies import DependencyInstaller, Project


def build(parts: StageParts) -> InstallStage:
    executor = parts.open_executor()
    snapshots, index = parts.snapshots(), SnapshotIndex(parts.database)
    tools = ToolProvider(executor, snapshots, ToolRepository(parts.database), executor.toolchain)
    return InstallStage(
        executor,
        snapshots,
        index,
        executor.toolchain,
        tools,
        ContentReader(),
        limits=parts.settings.limits,
        secrets=parts.settings.secrets,
    )


class InstallStage(StageFunction):
    """Detects what the project is, and stores its dependencies as a snapshot over the source."""

    def __init__(
        self,
        executor: Executor,
        snapshots: SnapshotStore,
        index: SnapshotIndex,
        toolchain: Toolchain,
        tools: ToolProvider,
        reader: ContentReader,
        *,
        limits: LimitSettings,
        secrets: SecretSettings,
    ) -> None:
        self._executor = executor
        self._snapshots = snapshots
        self._toolchain = toolchain
        self._tools = tools
        self._reader = reader
        self.installer = DependencyInstaller(executor, snapshots, index, toolchain, limits=limits, secrets=secrets)

    def reap(self, name: str) -> None:
        self._executor.reap(name)

    def take_over(self, name: str) -> None:
        self._executor.take_over(name)

    def run(self, context: StageContext) -> StageResult[InstallOutput]:
        deployment = context.deployment
        source = context.inputs[CLONE].source
        with self._snapshots.attach(deployment.tenant_id, source) as tree:
            reading = self._read(context, tree, source)
            detection = reading.detection
            for reason in detection.reasons:
                context.log.system(reason)
            for command, what in (
                (detection.install_command, "install command"),
                (detection.build_command, "build command"),
            ):
                check_command(command or "true", what)
            tools = self._provide_tools(context, reading)
            installed = None
            if reading.dependencies is not None:
                project = Project(source, detection, reading.dependencies, tools)
                installed = self.installer.install(context, project)
        output = InstallOutput(
            source=source,
            dependencies=installed.dependencies if installed else None,
            prepared=installed.prepared if installed else None,
            detection=detection,
            tools=tools,
            watched=list(reading.watched),
        )
        return StageResult(
            output,
            is_cache_hit=installed is not None and installed.is_cache_hit,
            facts={"framework": detection.framework},
        )

    def _read(self, context: StageContext, tree: Path, source: str) -> ProjectReading:
        deployment = context.deployment
        versions = (self._toolchain.node_version, self._toolchain.npm_version)
        question = ProjectQuestion(deployment.root_directory or ".", _overrides(context), *versions)
        return self._reader.read_project(tree, question, context.cancelled, f"{deployment.tenant_id}/{source}")

    def _provide_tools(self, context: StageContext, reading: ProjectReading) -> list[Tool]:
        if reading.notice:
            context.log.system(reading.notice)
        python = python_version_notice(reading.detection.python_version, self._toolchain.python_version)
        if python:
            context.log.system(python)
        return self._tools.provide(context, reading.tools)


def python_version_notice(wanted: str | None, available: str) -> str | None:
    """A line for the log if the project asks for a Python other than the available one."""
    if wanted is None:
        return None
    minor = tuple(int(part) for part in available.split(".")[:2])
    for operator, text in re.findall(r"(>=|<=|==|~=|!=|<|>)?\s*(\d+\.\d+)", wanted):
        named = tuple(int(part) for part in text.split("."))
        is_above, is_below = minor >= named, minor <= named
        fits = {">=": is_above, "~=": is_above, ">": not is_below, "<=": is_below, "<": not is_above}
        # A version that is left out is mostly one patch of a line.
        fits["!="] = True
        if not fits.get(operator, minor == named):
            return f"The project asks for Python {wanted}; this platform has {available} and uses that."
    return None


def _overrides(context: StageContext) -> Overrides:
    deployment = context.deployment
    return Overrides(
        framework=deployment.framework,
        install_command=deployment.install_command,
        build_command=deployment.build_command,
        output_directory=deployment.output_directory,
        node_version=deployment.node_version,
        package_manager=context.variables.get(FORCING_VARIABLE),
        is_preview=deployment.is_preview,
    )
