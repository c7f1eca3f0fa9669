"""The install stage: detects what the project is and installs its dependencies, or finds them installed already."""

from __future__ import annotations

import hmac
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from shared.deployments.state import Stage
from shared.settings import LimitSettings, SecretSettings
from workers.commands.failure_advice import advice_for
from workers.commands.sandboxed import (
    VIRTUAL_ENVIRONMENT,
    OutputTail,
    check_command,
    make_spec,
    raise_failure,
    run_logged,
    search_path,
)
from workers.commands.tool_repository import ToolRepository
from workers.commands.tools import ToolProvider, environment, header_variables, mounts, programs
from workers.commands.trees import StageTrees
from workers.executors.base import Directory, Executor, StoredTree, Tree
from workers.executors.layout import HOME, NODE_TARGET
from workers.executors.toolchain import Toolchain
from workers.frameworks.detection import Detection, Overrides
from workers.frameworks.install_inputs import DependencyFiles
from workers.frameworks.node_projects import FORCING_VARIABLE, LOCKFILES
from workers.pipeline.outputs import Tool
from workers.pipeline.stage import StageContext, StageFunction, StageParts, StageResult
from workers.pipeline.stage_cache import StageCache, variable_components
from workers.pipeline.table import CLONE, InstallOutput
from workers.reading.project import ProjectQuestion, ProjectReading
from workers.reading.reader import ContentReader
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore
from workers.snapshots.tar_format import MAXIMUM_DEPTH, is_of_the_tree
from workers.stages.install.dependency_key import dependency_components
from workers.stages.install.lockfile_mismatch import raise_mismatch

_DEPENDENCY_DIRECTORIES = frozenset({"node_modules", ".venv"})
# Yarn's Plug'n'Play keeps packages as archives below .yarn, and a map of them next to it.
_YARN_DIRECTORIES = frozenset({"cache", "unplugged"})
_WRITTEN_FILES = frozenset(
    {name for names in LOCKFILES.values() for name in names}
    | {"uv.lock", ".pnp.cjs", ".pnp.loader.mjs", "install-state.gz", "build-state.yml"}
)


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
        self._output_bytes = limits.output_bytes
        self._cache = StageCache(snapshots, index, "dependencies")
        self._digest_key = hmac.digest(secrets.secret_key, b"install environment", "sha256")

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
            dependencies, is_hit = None, False
            if reading.dependencies is not None:
                dependencies, is_hit = self._dependencies(context, detection, reading.dependencies, source, tools)
        output = InstallOutput(
            source=source,
            dependencies=dependencies,
            detection=detection,
            tools=tools,
            watched=list(reading.watched),
        )
        return StageResult(output, is_cache_hit=is_hit, facts={"framework": detection.framework})

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

    def _dependencies(
        self,
        context: StageContext,
        detection: Detection,
        files: DependencyFiles,
        source: str,
        tools: Sequence[Tool],
    ) -> tuple[str | None, bool]:
        command = detection.install_command or ""
        components = {
            **dependency_components(files, detection, self._toolchain, tools),
            **variable_components(
                {
                    **_environment_of(detection),
                    **{name: value for name, value in context.variables.items() if name != FORCING_VARIABLE},
                },
                self._digest_key,
            ),
        }
        of_source = {**components, "source": source}
        reader = files.reader
        if reader is not None:
            context.log.system(f"Dependencies are cached for this commit only: {reader} may read any file.")
        candidates = [components, of_source] if reader is None else [of_source]
        record = self._cache.find(context, candidates)
        if record is not None:
            return record.digest, True
        context.log.system(f"$ {command}")
        trees = StageTrees(self._snapshots, context.directory)
        tenant_id = context.deployment.tenant_id
        changes = self._install(context, trees, detection, StoredTree(tenant_id, source), tools)
        with trees.opened(changes) as upper:
            is_of_commit = reader is not None or changes_source(upper)
        if is_of_commit and reader is None:
            # By a script of a dependency, for instance.
            context.log.system(
                "The install changed other files as well, so dependencies are cached for this commit only."
            )
        key = of_source if is_of_commit else components
        snapshot = trees.save(tenant_id, changes)
        self._cache.record(context, key, snapshot, {})
        context.log.system(f"Dependencies stored ({snapshot.digest[:12]}, {snapshot.size_bytes // 1024} KiB).")
        return snapshot.digest, False

    def _install(
        self, context: StageContext, trees: StageTrees, detection: Detection, source: StoredTree, tools: Sequence[Tool]
    ) -> Tree:
        tail = OutputTail()
        spec = make_spec(
            context,
            Stage.INSTALL,
            command=("/bin/sh", "-c", self._script(detection)),
            directory=detection.install_directory,
            layers=(source,),
            changes="install",
            environment=self._environment(context, detection, tools),
            output_bytes=self._output_bytes,
            network="proxy",
            mounts=mounts(tools),
            directories=(Directory("home", HOME),),
            output="install",
        )
        result = run_logged(self._executor, context, spec, trees, tail)
        if result.exit_code:
            raise_mismatch(tail.data)
        raise_failure(context, result, "install command", advice_for(tail.data, "install"))
        return result.outputs["install"]

    def _script(self, detection: Detection) -> str:
        command = detection.install_command or ""
        if detection.runtime == "node" and "pip" not in command:
            return command
        # Without --seed there is no pip in it, which only a command of the user's own can want.
        seed = " --seed" if re.search(r"(?<!uv )\bpip3?\b", command) else ""
        create = f"uv venv --quiet --clear{seed} --python {self._toolchain.python} {VIRTUAL_ENVIRONMENT}"
        return f"{create} && {command}"

    def _environment(self, context: StageContext, detection: Detection, tools: Sequence[Tool]) -> dict[str, str]:
        # `uv pip` would take it for the environment to install into; it finds the virtual one without it.
        is_sync = (detection.install_command or "").startswith("uv sync")
        python = {"UV_PYTHON": self._toolchain.python} if is_sync else {}
        return {
            **python,
            **header_variables(NODE_TARGET, is_read_by_npm=detection.package_manager != "npm"),
            **environment(tools),
            "CI": "1",
            "npm_config_audit": "false",
            "npm_config_fund": "false",
            "npm_config_update_notifier": "false",
            "npm_config_progress": "false",
            **_environment_of(detection),
            **context.variables,
            "CLOUDIFY": "1",
            "PATH": search_path(self._toolchain, detection, programs(tools)),
            "VIRTUAL_ENV": VIRTUAL_ENVIRONMENT,
            "UV_PROJECT_ENVIRONMENT": VIRTUAL_ENVIRONMENT,
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "UV_LINK_MODE": "copy",
            # Compiled here once: the build sees the layer read-only and would compile at every run.
            "UV_COMPILE_BYTECODE": "1",
            "PIP_NO_INPUT": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }


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


def _environment_of(detection: Detection) -> dict[str, str]:
    """Variables that the repository's files set. NODE_ENV is the build's: an install would leave half of it out."""
    return {name: value for name, value in detection.environment.items() if name != "NODE_ENV"}


def changes_source(upper: Path) -> bool:
    """Whether the install wrote anything but dependencies and a lockfile that was not there.

    A directory that can't be looked into counts as a change. Raises OSError for failures of the platform.
    """
    errors: list[OSError] = []
    # By descriptors, as paths may get longer than the kernel takes.
    for directory, directories, files, descriptor in os.fwalk(upper, onerror=errors.append):
        skipped = _YARN_DIRECTORIES if directory.endswith("/.yarn") else _DEPENDENCY_DIRECTORIES
        directories[:] = [name for name in directories if name not in skipped]
        if directory.count("/") - str(upper).count("/") > MAXIMUM_DEPTH:
            # No snapshot takes it, and saving says so; os.walk would run into Python's own limit first.
            return True
        # A link to a directory is listed with the directories.
        if any(name not in _WRITTEN_FILES for name in files) or any(
            stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode) for name in directories
        ):
            return True
    for error in errors:
        if not is_of_the_tree(error):
            raise error
    return bool(errors)
