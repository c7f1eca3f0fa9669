"""Installs a project's dependencies and stores them, or finds them installed already."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shared.deployments.state import Stage
from shared.settings import LimitSettings, SecretSettings
from workers.commands.failure_advice import advice_for
from workers.commands.sandboxed import OutputTail, make_spec, raise_failure, run_logged
from workers.commands.tools import mounts, python_of
from workers.commands.trees import StageTrees
from workers.executors.base import Directory, Executor, LocalTree, StoredTree, Tree
from workers.executors.layout import HOME
from workers.executors.toolchain import Toolchain
from workers.frameworks.detection import Detection
from workers.frameworks.install_inputs import DependencyFiles
from workers.frameworks.install_parts import InstallParts
from workers.frameworks.node_projects import FORCING_VARIABLE, LOCKFILES
from workers.frameworks.requests import VERSION_VARIABLES
from workers.frameworks.source_tree import SourceTree, join
from workers.pipeline.carried_files import SWITCH
from workers.pipeline.outputs import Tool
from workers.pipeline.stage import StageContext
from workers.pipeline.stage_cache import StageCache, variable_components
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore
from workers.stages.install.commands import install_environment, install_script, repository_variables
from workers.stages.install.dependency_key import dependency_components
from workers.stages.install.downloads import DownloadCache
from workers.stages.install.layer import changes_source, has_entry
from workers.stages.install.lockfile_mismatch import raise_mismatch

# Variables that the stage itself reads.
_OF_THE_STAGE = frozenset({FORCING_VARIABLE, SWITCH, *VERSION_VARIABLES.values()})
_SCRIPT_SWITCH = re.compile(r"(?:ignore|enable)_?scripts", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Project:
    """What is installed: the source's digest, what was detected in it, and the tools that it asks for."""

    source: str
    detection: Detection
    files: DependencyFiles
    tools: Sequence[Tool]


@dataclass(frozen=True, slots=True)
class Installed:
    """Digests of the snapshots: the dependencies over the source, and what the project's own part left over both."""

    dependencies: str
    prepared: str | None
    is_cache_hit: bool


class DependencyInstaller:
    """Safe between threads."""

    def __init__(
        self,
        executor: Executor,
        snapshots: SnapshotStore,
        index: SnapshotIndex,
        toolchain: Toolchain,
        *,
        limits: LimitSettings,
        secrets: SecretSettings,
    ) -> None:
        self._executor = executor
        self._snapshots = snapshots
        self._toolchain = toolchain
        self._output_bytes = limits.output_bytes
        self._dependencies = StageCache(snapshots, index, "dependencies")
        self._prepared = StageCache(snapshots, index, "prepared files")
        self.downloads = DownloadCache(snapshots, index)
        self._digest_key = hmac.digest(secrets.secret_key, b"install environment", "sha256")

    def install(self, context: StageContext, project: Project) -> Installed:
        """Raises StageFailure, PlatformError, Cancelled."""
        parts = self._parts_of(context, project)
        components = self._components(context, project)
        if parts is None:
            reader = project.files.reader
            if reader is not None:
                context.log.system(
                    f"Dependencies are kept for this commit only: {reader} may read any file, so another commit may"
                    " need others."
                )
            digest, is_hit = self._whole(context, project, components, is_of_commit=reader is not None)
            return Installed(digest, None, is_hit)
        if parts.own:
            context.log.system(
                f"The install has two parts: packages, which all commits with this lockfile share, and `{parts.own}`,"
                f" which runs for each commit because {parts.reason}."
            )
        return self._in_parts(context, project, parts, components)

    def _parts_of(self, context: StageContext, project: Project) -> InstallParts | None:
        if any(_SCRIPT_SWITCH.search(name) for name in (*context.variables, *project.detection.environment)):
            return None
        return project.files.parts

    def _components(self, context: StageContext, project: Project) -> dict[str, str]:
        return {
            **dependency_components(project.files, project.detection, self._toolchain, project.tools),
            **self._variables(context, project),
        }

    def _variables(self, context: StageContext, project: Project) -> dict[str, str]:
        """As components. They count for downloads as well: packages may be there for who has their token alone."""
        variables = {
            **repository_variables(project.detection),
            **{name: value for name, value in context.variables.items() if name not in _OF_THE_STAGE},
        }
        return variable_components(variables, self._digest_key)

    def _whole(
        self,
        context: StageContext,
        project: Project,
        components: Mapping[str, str],
        *,
        is_of_commit: bool,
        trees: StageTrees | None = None,
    ) -> tuple[str, bool]:
        """`trees`: of an earlier run in this stage, if there was one."""
        of_source = {**components, "source": project.source}
        record = self._dependencies.find(context, [of_source] if is_of_commit else [components, of_source])
        if record is not None:
            return record.digest, True
        name = "install" if trees is None else "install-again"
        trees = trees or StageTrees(self._snapshots, context.directory)
        command = project.detection.install_command or ""
        script = install_script(project.detection, command, python_of(project.tools, self._toolchain)[1])
        changes = self._run(context, trees, project, (command, script), (self._source(context, project),), name)
        if not is_of_commit:
            is_of_commit = self._changes_source(context, trees, changes)
        digest = self._store(context, trees, changes, self._dependencies, of_source if is_of_commit else components)
        return digest, False

    def _in_parts(
        self, context: StageContext, project: Project, parts: InstallParts, whole: Mapping[str, str]
    ) -> Installed:
        """`whole`: the components of an install in one part."""
        components = {**whole, "install_command": parts.packages, "part": "packages"}
        of_source = {**components, "source": project.source}
        record = self._dependencies.find(context, [{**whole, "source": project.source}, of_source, components])
        trees = StageTrees(self._snapshots, context.directory)
        if record is not None:
            digest = record.digest
            if "part" not in record.components:
                return Installed(digest, None, is_cache_hit=True)
        else:
            layers = (self._source(context, project), *self._without_scripts(context, trees, parts))
            script = install_script(project.detection, parts.packages, python_of(project.tools, self._toolchain)[1])
            changes = self._run(context, trees, project, (parts.packages, script), layers, "install")
            with trees.opened(changes) as upper:
                is_rewritten = bool(parts.package_path) and has_entry(upper, parts.package_path)
            if is_rewritten:
                # What it wrote lacks the scripts.
                context.log.system(f"The install rewrites {parts.package_path}, so it runs again, in one part.")
                digest, _ = self._whole(context, project, whole, is_of_commit=True, trees=trees)
                return Installed(digest, None, is_cache_hit=False)
            key = of_source if self._changes_source(context, trees, changes) else components
            digest = self._store(context, trees, changes, self._dependencies, key)
        if not parts.own:
            return Installed(digest, None, record is not None)
        prepared, is_hit = self._prepare(context, trees, project, parts, {**of_source, "dependencies": digest})
        return Installed(digest, prepared, record is not None and is_hit)

    def _prepare(
        self,
        context: StageContext,
        trees: StageTrees,
        project: Project,
        parts: InstallParts,
        components: Mapping[str, str],
    ) -> tuple[str, bool]:
        """Runs the project's own part over its packages. The digest of what it left, and whether it was there."""
        components = {**components, "install_command": parts.own, "part": "own"}
        record = self._prepared.find(context, [components])
        if record is not None:
            return record.digest, True
        layers = (
            self._source(context, project),
            StoredTree(context.deployment.tenant_id, components["dependencies"]),
        )
        changes = self._run(context, trees, project, (parts.own, parts.own), layers, "own")
        return self._store(context, trees, changes, self._prepared, components), False

    def _other_lockfiles(self, context: StageContext, trees: StageTrees, project: Project) -> dict[str, str]:
        """Name → package manager, of those next to the one that is used."""
        detection = project.detection
        if detection.runtime != "node":
            return {}
        with trees.opened(self._source(context, project)) as root:
            tree, directory = SourceTree(root), detection.install_directory
            return {
                name: manager
                for manager, names in LOCKFILES.items()
                for name in names
                if manager != detection.package_manager and tree.is_file(join(directory, name))
            }

    def _source(self, context: StageContext, project: Project) -> StoredTree:
        return StoredTree(context.deployment.tenant_id, project.source)

    def _without_scripts(self, context: StageContext, trees: StageTrees, parts: InstallParts) -> tuple[Tree, ...]:
        """A layer in which package.json has no scripts of the project; stored, so that any executor can show it."""
        if not parts.package_path:
            return ()
        layer = trees.make_directory("package", 0o755)
        file = layer / parts.package_path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(parts.package)
        for path in (file, *file.parents[: len(file.relative_to(layer).parts) - 1]):
            path.chmod(0o644 if path == file else 0o755)
        tenant_id = context.deployment.tenant_id
        return (StoredTree(tenant_id, trees.save(tenant_id, LocalTree(layer)).digest),)

    def _changes_source(self, context: StageContext, trees: StageTrees, changes: Tree) -> bool:
        with trees.opened(changes) as upper:
            is_changed = changes_source(upper)
        if is_changed:
            # By a script of a dependency, for instance.
            context.log.system(
                "The install changed files besides the dependencies, so dependencies are kept for this commit only."
            )
        return is_changed

    def _store(
        self, context: StageContext, trees: StageTrees, changes: Tree, cache: StageCache, components: Mapping[str, str]
    ) -> str:
        snapshot = trees.save(context.deployment.tenant_id, changes)
        cache.record(context, components, snapshot, {})
        context.log.system(
            f"{cache.kind.capitalize()} stored ({snapshot.digest[:12]}, {snapshot.size_bytes // 1024} KiB)."
        )
        return snapshot.digest

    def _run(
        self,
        context: StageContext,
        trees: StageTrees,
        project: Project,
        command: tuple[str, str],
        layers: tuple[Tree, ...],
        name: str,
    ) -> Tree:
        """`command`: as the log shows it, and the script. `name`: of the tree of its changes, which is returned."""
        shown, script = command
        tail = OutputTail()
        environment = install_environment(project.detection, self._toolchain, project.tools, context.variables)
        if name == "own":
            # The packages are compiled already.
            environment["UV_COMPILE_BYTECODE"] = "0"
        fitting = {"platform": self._toolchain.platform, **self._variables(context, project)}
        if name == "own":
            # It needs few of them: what builds the project.
            fitting["part"] = name
        # What runs over Node's packages is the project's own scripts, which mostly download nothing.
        is_scripts = name == "own" and project.detection.runtime == "node"
        with self.downloads.opened(context, project.detection, name, fitting, is_needed=not is_scripts) as downloads:
            context.log.system(f"$ {shown}")
            spec = make_spec(
                context,
                Stage.INSTALL,
                command=downloads.command(script),
                directory=project.detection.install_directory,
                layers=layers,
                changes=name,
                environment=environment,
                output_bytes=self._output_bytes,
                network="proxy",
                mounts=(*mounts(project.tools), *downloads.mounts),
                directories=(Directory(f"home-{name}", HOME), *downloads.directories),
                output=name,
            )
            spec = replace(spec, outputs=(*spec.outputs, *downloads.outputs))
            result = run_logged(self._executor, context, spec, trees, tail)
            if result.exit_code:
                raise_mismatch(tail.data, self._other_lockfiles(context, trees, project))
            raise_failure(context, result, "install command", advice_for(tail.data, "install"))
            self.downloads.keep(context, downloads, result)
        return result.outputs[name]
