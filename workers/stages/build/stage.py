"""The build stage: runs the build command and keeps the directory it wrote."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from shared.deployments.state import Stage
from shared.settings import LimitSettings, NetworkSettings, SecretSettings, SiteSettings
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
from workers.commands.tools import environment as environment_of
from workers.commands.tools import mounts, programs
from workers.commands.trees import StageTrees
from workers.executors.base import Executor, StoredTree, Tree
from workers.executors.toolchain import Toolchain
from workers.frameworks.detection import Detection
from workers.pipeline.outputs import Tool
from workers.pipeline.stage import StageContext, StageFunction, StageParts, StageResult
from workers.pipeline.stage_cache import StageCache, variable_components
from workers.pipeline.table import CLONE, INSTALL, BuildOutput, InstallOutput
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore
from workers.stages.build.cache import BuildCache, packages_digest
from workers.stages.build.collect import collect_output
from workers.stages.build.network import BuildNetwork, network_of, summary


def build(parts: StageParts) -> BuildStage:
    executor = parts.open_executor()
    index = SnapshotIndex(parts.database)
    settings = parts.settings
    return BuildStage(
        executor,
        parts.snapshots(),
        index,
        executor.toolchain,
        sites=settings.sites,
        limits=settings.limits,
        secrets=settings.secrets,
        network=settings.network,
    )


class BuildStage(StageFunction):
    """Runs the build command in a sandbox, and stores the output directory as a snapshot."""

    def __init__(
        self,
        executor: Executor,
        snapshots: SnapshotStore,
        index: SnapshotIndex,
        toolchain: Toolchain,
        *,
        sites: SiteSettings,
        limits: LimitSettings,
        secrets: SecretSettings,
        network: NetworkSettings,
    ) -> None:
        self._executor = executor
        self._snapshots = snapshots
        self._toolchain = toolchain
        self._sites = sites
        self._limits = limits
        self._network = network
        self._cache = StageCache(snapshots, index, "output")
        self.build_cache = BuildCache(snapshots, index)
        self._digest_key = hmac.digest(secrets.secret_key, b"build environment", "sha256")

    def reap(self, name: str) -> None:
        self._executor.reap(name)

    def take_over(self, name: str) -> None:
        self._executor.take_over(name)

    def run(self, context: StageContext) -> StageResult[BuildOutput]:
        installed = context.inputs[INSTALL]
        detection, tools = installed.detection, installed.tools
        environment = self._environment(context, detection, tools)
        network = network_of(context.deployment, self._network)
        components = self._components(installed, detection, environment, tools)
        if network.is_filtered and detection.build_command is not None:
            # What the build fetched may be another thing for the next commit, even if that changes nothing here.
            components["commit"] = environment["CLOUDIFY_COMMIT_SHA"]
        if detection.build_command is not None:
            check_command(detection.build_command, "build command")
        record = self._cache.find(context, [components])
        if record is not None:
            return StageResult(BuildOutput(output=record.digest), is_cache_hit=True)
        tenant_id = context.deployment.tenant_id
        trees = StageTrees(self._snapshots, context.directory)
        # The kernel refuses a layer that is there twice, as two installs with equal changes would make it.
        snapshots = dict.fromkeys((installed.source, installed.dependencies, installed.prepared))
        digests = [digest for digest in snapshots if digest]
        inputs = tuple(StoredTree(tenant_id, digest) for digest in digests)
        if detection.build_command is None:
            collected = collect_output(self._executor, context, trees, detection, inputs)
        else:
            collected = self._built(context, trees, detection, environment, inputs, tools, network)
        snapshot = trees.save(tenant_id, collected)
        self._cache.record(context, components, snapshot, {})
        if "commit" in components:
            context.log.system("It was built with a network, so it is kept for this commit only.")
        context.log.system(f"Output stored ({snapshot.digest[:12]}, {snapshot.size_bytes // 1024} KiB packed).")
        return StageResult(BuildOutput(output=snapshot.digest))

    def _built(
        self,
        context: StageContext,
        trees: StageTrees,
        detection: Detection,
        environment: dict[str, str],
        inputs: tuple[StoredTree, ...],
        tools: Sequence[Tool],
        network: BuildNetwork,
    ) -> Tree:
        """`inputs`: the source, then the layers of the install if there are any."""
        dependencies = next((tree.digest for tree in inputs[1:]), "none")
        with ExitStack() as stack:
            stack.enter_context(trees.pinning())
            source = stack.enter_context(trees.opened(inputs[0]))
            components = {
                # Not every tool names its plugins' versions in what it keeps: babel-loader doesn't.
                "packages": packages_digest(source, detection) or dependencies,
                **self._tool_components(tools),
                **variable_components(context.variables, self._digest_key),
            }
            cached = stack.enter_context(self.build_cache.opened(context, detection, source, components))
            layers = inputs if cached.layer is None else (*inputs, cached.layer)
            changes = self._build(
                context, trees, detection, environment, layers, tools, network, is_fresh=cached.layer is None
            )
            collected = collect_output(self._executor, context, trees, detection, (*layers, changes))
            cached.store(changes)
        return collected

    def _environment(self, context: StageContext, detection: Detection, tools: Sequence[Tool]) -> dict[str, str]:
        """Equal for two builds of one commit for one host; otherwise no output would be found again."""
        deployment = context.deployment
        commit_sha = deployment.commit_sha or _commit_sha(context)
        return {
            "CI": "1",
            "NODE_ENV": "production",
            "PYTHONUNBUFFERED": "1",
            **environment_of(tools),
            **dict.fromkeys(detection.address_variables, self._sites.url(deployment.host)),
            **detection.environment,
            **context.variables,
            "PATH": search_path(self._toolchain, detection, programs(tools)),
            "VIRTUAL_ENV": VIRTUAL_ENVIRONMENT,
            "CLOUDIFY": "1",
            "CLOUDIFY_ENVIRONMENT": "preview" if deployment.is_preview else "production",
            "CLOUDIFY_PROJECT": deployment.project_slug,
            "CLOUDIFY_BRANCH": deployment.branch or "",
            "CLOUDIFY_COMMIT_SHA": commit_sha,
            "CLOUDIFY_URL": self._sites.url(deployment.host),
        }

    def _components(
        self,
        installed: InstallOutput,
        detection: Detection,
        environment: Mapping[str, str],
        tools: Sequence[Tool],
    ) -> dict[str, str]:
        return {
            "source": installed.source,
            "dependencies": installed.dependencies or "none",
            **({"prepared files": installed.prepared} if installed.prepared else {}),
            "build_command": detection.build_command or "none",
            "root_directory": detection.root_directory,
            "output_directory": " ".join(detection.output_directories),
            **self._tool_components(tools),
            **variable_components(environment, self._digest_key),
        }

    def _tool_components(self, tools: Sequence[Tool]) -> dict[str, str]:
        return {
            "node": self._toolchain.node_version,
            "python": self._toolchain.python_version,
            "npm": self._toolchain.npm_version,
            "uv": self._toolchain.uv_version,
            **({"builder image": self._toolchain.image} if self._toolchain.image else {}),
            **{tool.name: tool.version for tool in tools},
        }

    def _build(
        self,
        context: StageContext,
        trees: StageTrees,
        detection: Detection,
        environment: dict[str, str],
        layers: tuple[StoredTree, ...],
        tools: Sequence[Tool],
        network: BuildNetwork,
        *,
        is_fresh: bool,
    ) -> Tree:
        command = detection.build_command or ""
        context.log.system(f"$ {command}")
        spec = make_spec(
            context,
            Stage.BUILD,
            command=("/bin/sh", "-c", command),
            directory=detection.root_directory,
            layers=layers,
            changes="build",
            environment=environment,
            output_bytes=self._limits.output_bytes,
            network=network.of_sandbox,
            mounts=mounts(tools),
            output="build",
        )
        tail = OutputTail()
        result = run_logged(self._executor, context, spec, trees, tail)
        if network.is_filtered:
            context.log.system(summary(result.traffic))
        advice = advice_for(tail.data, "build", network.advice)
        if not (advice or is_fresh or result.exit_code == 127):
            advice = "It started from files of an earlier build; a clean deployment doesn't."
        raise_failure(context, result, "build command", advice)
        return result.outputs["build"]


def _commit_sha(context: StageContext) -> str:
    clone = context.inputs.find(CLONE)
    return "" if clone is None else clone.commit_sha
