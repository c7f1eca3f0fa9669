"""Package managers and Node versions that only some builds need: fetched once, stored as snapshots, mounted read-only.

A tool is installed in a sandbox of its own that has no project's files, from its name and version alone. So all tenants
can share it, and no build can tamper with it.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.deployments.state import Stage
from shared.errors import FailureCode, PlatformError, StageFailure
from workers.commands.sandboxed import OutputTail, raise_failure, raise_interruption, run_limits, run_traced
from workers.commands.tool_repository import ToolRepository
from workers.commands.trees import StageTrees
from workers.executors.base import Directory, ExecutionSpec, Executor, Mount, Output, RunOutcome, StoredTree
from workers.executors.layout import HOME, NODE_TARGET
from workers.executors.toolchain import Toolchain
from workers.frameworks.tool_versions import ToolRequest, npm_of
from workers.pipeline.outputs import Tool
from workers.pipeline.stage import StageContext
from workers.snapshots.store import SnapshotStore

# Not a tenant's id: those have a prefix.
_OWNER = "tools"
_MOUNT = "/opt/tools"
_OUTPUT_BYTES = 1024 * 1024
_UNKNOWN_VERSION = re.compile(rb"ETARGET|No matching version|E404|no version of|not found in the package registry")


@dataclass(frozen=True, slots=True)
class _Recipe:
    """`install`: version → shell script that installs into the working directory. `programs`: below that directory."""

    programs: str
    install: Callable[[str, Toolchain], str]


def _npm(package: str) -> Callable[[str, Toolchain], str]:
    return lambda version, _: f"npm install --no-save --no-package-lock --no-audit --no-fund '{package}@{version}'"


def _python(package: str) -> Callable[[str, Toolchain], str]:
    def script(version: str, toolchain: Toolchain) -> str:
        return (
            f"uv venv --quiet --python {toolchain.python} venv"
            f" && uv pip install --quiet --python venv/bin/python '{package}=={version}'"
        )

    return script


def _bun(version: str, _: Toolchain) -> str:
    package = f"@oven/{_bun_build()}"
    programs = f"node_modules/{package}/bin"
    return f"npm install --no-save --no-package-lock '{package}@{version}' && ln -s bun {programs}/bunx"


def _bun_build() -> str:
    """Bun has one build for processors with AVX2 and one for older ones."""
    machine = {"x86_64": "x64", "aarch64": "aarch64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    information = Path("/proc/cpuinfo")
    is_old = machine == "x64" and information.is_file() and " avx2 " not in information.read_text()
    return f"bun-linux-{machine}{'-baseline' if is_old else ''}"


def _node(version: str, _: Toolchain) -> str:
    """From npm's registry: the wheels of the older lines ended before versions that many packages ask for."""
    package, npm = _node_package(), npm_of(version)
    install = f"npm install --no-save --no-package-lock --no-audit --no-fund '{package}@{version}' 'npm@{npm}'"
    # Headers stay: what compiles itself needs them.
    return f"{install} && rm -rf node_modules/{package}/share"


def _node_package() -> str:
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"node-linux-{machine}"


_RECIPES: Mapping[str, _Recipe] = {
    "npm": _Recipe("node_modules/.bin", _npm("npm")),
    "pnpm": _Recipe("node_modules/.bin", _npm("pnpm")),
    "yarn": _Recipe("node_modules/.bin", _npm("yarn")),
    "berry": _Recipe("node_modules/.bin", _npm("@yarnpkg/cli-dist")),
    "bun": _Recipe(f"node_modules/@oven/{_bun_build()}/bin", _bun),
    "poetry": _Recipe("venv/bin", _python("poetry")),
    "pipenv": _Recipe("venv/bin", _python("pipenv")),
    "node": _Recipe("node_modules/.bin", _node),
}


class ToolProvider:
    """Safe between threads and processes: two that fetch the same tool at once both get a valid one."""

    def __init__(
        self, executor: Executor, snapshots: SnapshotStore, repository: ToolRepository, toolchain: Toolchain
    ) -> None:
        self._executor = executor
        self._snapshots = snapshots
        self._repository = repository
        self._toolchain = toolchain

    def provide(self, context: StageContext, requests: Sequence[ToolRequest]) -> list[Tool]:
        """The tools, fetched unless they are stored. Raises StageFailure for a version that doesn't exist."""
        return [self._provide(context, request) for request in requests]

    def _provide(self, context: StageContext, request: ToolRequest) -> Tool:
        key = self._key(request)
        digest = self._repository.find(key)
        if digest is None or not self._snapshots.exists(_OWNER, digest):
            context.log.system(f"Fetching {request.name} {request.version}, which is not here yet.")
            digest = self._fetch(context, request, key)
        return Tool(request.name, request.version, digest)

    def _key(self, request: ToolRequest) -> str:
        """Python tools are bound to the interpreter that they were installed with, and to its path."""
        toolchain = self._toolchain
        python = f"{toolchain.python_version} {toolchain.python}" if request.name in ("poetry", "pipenv") else ""
        parts = (request.name, request.version, python, toolchain.platform, _bun_build(), toolchain.image)
        return f"{request.name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"

    def _fetch(self, context: StageContext, request: ToolRequest, key: str) -> str:
        directory, home = f"tool-{request.name}", f"home-{request.name}"
        target = f"{_MOUNT}/{request.name}"
        spec = ExecutionSpec(
            name=f"{context.deployment.id}-{Stage.INSTALL.value}",
            command=("/bin/sh", "-c", _RECIPES[request.name].install(request.version, self._toolchain)),
            working_directory=target,
            mounts=(),
            overlay=None,
            environment={"npm_config_update_notifier": "false", "UV_LINK_MODE": "copy", "UV_PYTHON_DOWNLOADS": "never"},
            limits=run_limits(context.limits, _OUTPUT_BYTES),
            network="proxy",
            directories=(Directory(directory, target), Directory(home, HOME)),
            outputs=(Output(directory, _OWNER),),
        )
        trees = StageTrees(self._snapshots, context.directory)
        tail = OutputTail()

        def on_output(_stream: Literal["stdout", "stderr"], data: bytes) -> None:
            tail.add(data)

        result = run_traced(self._executor, context, spec, trees, on_output, "fetch tool")
        raise_interruption(context, result)
        if result.outcome is RunOutcome.USER_ERROR:
            self._raise_unfetched(request, tail.data)
        raise_failure(context, result, f"fetching of {request.name}")
        snapshot = trees.save(_OWNER, result.outputs[directory])
        self._repository.record(
            key, name=request.name, version=request.version, digest=snapshot.digest, size_bytes=snapshot.size_bytes
        )
        return snapshot.digest

    def _raise_unfetched(self, request: ToolRequest, output: bytes) -> None:
        if _UNKNOWN_VERSION.search(output):
            raise StageFailure(
                FailureCode.CONFIGURATION_INVALID,
                f"There is no {request.name} {request.version} in the package registry. Correct the version in the"
                " packageManager field of package.json.",
            )
        text = output.decode(errors="replace")[-500:]
        raise PlatformError(f"{request.name} {request.version} can't be fetched: {text}")


def mounts(tools: Sequence[Tool]) -> tuple[Mount, ...]:
    """The mounts of the tools in a sandbox."""
    return tuple(Mount(StoredTree(_OWNER, tool.digest), f"{_MOUNT}/{tool.name}") for tool in tools)


def programs(tools: Sequence[Tool]) -> list[str]:
    """The directories of the tools' programs inside the sandbox, for PATH."""
    return [f"{_MOUNT}/{tool.name}/{_RECIPES[tool.name].programs}" for tool in tools]


def header_variables(directory: str, *, is_read_by_npm: bool) -> dict[str, str]:
    """Tells node-gyp where Node's headers are, so that it downloads none. Newer npms warn about the older name."""
    names = ("npm_package_config_node_gyp_nodedir", *(("npm_config_nodedir",) if is_read_by_npm else ()))
    return dict.fromkeys(names, directory)


def _reads_older_name(npm: str) -> bool:
    return int(npm.partition(".")[0]) < 11


def environment(tools: Sequence[Tool]) -> dict[str, str]:
    """Variables that keep tools from prompting, and from fetching another version of themselves."""
    names = {tool.name: tool.version for tool in tools}
    variables: dict[str, str] = {}
    if "node" in names:
        is_read_by_npm = _reads_older_name(names.get("npm") or npm_of(names["node"]))
        variables |= header_variables(f"{_MOUNT}/node/node_modules/{_node_package()}", is_read_by_npm=is_read_by_npm)
    elif "npm" in names:
        variables |= header_variables(NODE_TARGET, is_read_by_npm=_reads_older_name(names["npm"]))
    if "pnpm" in names:
        variables |= dict.fromkeys(
            ("npm_config_manage_package_manager_versions", "pnpm_config_manage_package_manager_versions"), "false"
        )
    if "berry" in names:
        # The cache belongs to the dependencies: with Plug'n'Play, packages are read out of it.
        variables |= {"YARN_ENABLE_GLOBAL_CACHE": "false", "YARN_ENABLE_TELEMETRY": "false"}
        variables |= {"YARN_ENABLE_PROGRESS_BARS": "false"}
    if "poetry" in names:
        variables |= {"POETRY_NO_INTERACTION": "1", "POETRY_VIRTUALENVS_CREATE": "false"}
    if "pipenv" in names:
        variables |= {"PIPENV_NOSPIN": "1", "PIPENV_YES": "1", "PIPENV_VERBOSITY": "-1"}
    return variables
