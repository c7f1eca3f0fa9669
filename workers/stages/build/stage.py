"""The build stage: runs the build command without network and keeps the directory it wrote."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec

from shared.deployments.state import Stage
from shared.errors import FailureCode, PlatformError, StageFailure
from shared.settings import Settings
from workers.commands.failure_advice import advice_for
from workers.commands.sandboxed import (
    VIRTUAL_ENVIRONMENT,
    WORKSPACE,
    OutputTail,
    check_command,
    make_spec,
    raise_failure,
    raise_interruption,
    run_logged,
    search_path,
    workspace_path,
)
from workers.commands.tools import Tool, mounts, programs
from workers.commands.tools import environment as environment_of
from workers.commands.trees import StageTrees
from workers.executors.base import Directory, ExecutionResult, Executor, Outcome, StoredTree, Tree
from workers.executors.toolchain import Toolchain
from workers.frameworks.catalogue import BY_NAME, COMMON_OUTPUT_DIRECTORIES
from workers.frameworks.detection import Detection
from workers.pipeline.stage import StageContext, StageResult
from workers.pipeline.stage_cache import StageCache, variable_components
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore
from workers.stages.build.cache import BuildCache, packages_digest

_COLLECTED = "/output"
_MISSING, _EMPTY, _NO_PAGE, _NO_INDEX, _OUTSIDE, _UNCOPIED, _FILE, _SHUT = 41, 42, 43, 44, 45, 46, 47, 48
# How cp's line ends when the platform's disk or memory failed; all else is about what the build wrote.
_PLATFORM_ERRORS = (
    "Input/output error",
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "Stale file handle",
    "Cannot allocate memory",
    "memory exhausted",
    "Too many open files",
    "Too many open files in system",
)
_SUGGESTED = (*COMMON_OUTPUT_DIRECTORIES, ".output/public", "build/client", "_build/html", ".vitepress/dist")

# Ends a copy: without an index.html at the top, whether there is any page at all.
_LOOK_FOR_PAGES = f"""
[ ! -f {_COLLECTED}/index.html ] || exit 0
[ -n "$(find {_COLLECTED} -name '*.html' -print -quit)" ] && exit {_NO_INDEX}
exit {_NO_PAGE}
"""

# Arguments: the directories to look for, in order. Runs inside the sandbox, so a link that leaves the workspace leads
# to the sandbox's own files at most; and even those are refused.
_COLLECT = f"""
found= outside= file=
for directory in "$@"; do
  [ -d "$directory" ] || {{
    if [ -e "$directory" ]; then file=$directory; elif [ -L "$directory" ]; then outside=$directory; fi
    continue
  }}
  resolved=$(cd -P -- "$directory" 2>/dev/null && pwd -P) || {{ echo "$directory"; exit {_SHUT}; }}
  case "$resolved/" in /workspace/*) ;; *) outside=$directory; continue ;; esac
  found=$directory
  [ -r "$resolved" ] || {{ echo "$directory"; exit {_SHUT}; }}
  [ -n "$(ls -A -- "$resolved")" ] || continue
  LC_ALL=C cp -dR --preserve=mode,timestamps -- "$resolved/." {_COLLECTED}/ || exit {_UNCOPIED}
  {_LOOK_FOR_PAGES}
done
[ -z "$found" ] || exit {_EMPTY}
[ -z "$outside" ] || {{ echo "$outside"; exit {_OUTSIDE}; }}
[ -z "$file" ] || {{ echo "$file"; exit {_FILE}; }}
for directory in {" ".join(_SUGGESTED)}; do [ ! -d "$directory" ] || echo "$directory"; done
exit {_MISSING}
"""

# The whole project directory as the site: without version control, dependencies and hidden files such as .env.
_COLLECT_ALL = f"""
for entry in * .well-known; do
  [ -e "$entry" ] || [ -L "$entry" ] || continue
  [ "$entry" != node_modules ] || continue
  LC_ALL=C cp -dR --preserve=mode,timestamps -- "$entry" {_COLLECTED}/ || exit {_UNCOPIED}
done
# Nothing can be removed from a directory that its owner may not write to.
chmod -R u+rwX {_COLLECTED} || exit 1
find {_COLLECTED} -mindepth 1 '(' -name '.*' ! -name .well-known -o -name node_modules ')' -prune \\
  -exec rm -rf -- '{{}}' +
[ -n "$(ls -A {_COLLECTED})" ] || exit {_EMPTY}
{_LOOK_FOR_PAGES}
"""


class BuildStage:
    """Output: {"output": digest of the output directory}."""

    def __init__(
        self,
        executor: Executor,
        snapshots: SnapshotStore,
        index: SnapshotIndex,
        toolchain: Toolchain,
        settings: Settings,
    ) -> None:
        self._executor = executor
        self._snapshots = snapshots
        self._toolchain = toolchain
        self._settings = settings
        self._cache = StageCache(snapshots, index, "output")
        self.build_cache = BuildCache(snapshots, index)
        self._digest_key = hmac.digest(settings.secret_key, b"build environment", "sha256")

    def run(self, context: StageContext) -> StageResult:
        installed = context.inputs[Stage.INSTALL]
        detection = msgspec.convert(installed["detection"], Detection)
        tools = msgspec.convert(installed.get("tools", []), list[Tool])
        environment = self._environment(context, detection, tools)
        components = self._components(installed, detection, environment, tools)
        if detection.build_command is not None:
            check_command(detection.build_command, "build command")
        record = self._cache.find(context, [components])
        if record is not None:
            return StageResult({"output": record.digest}, is_cache_hit=True)
        tenant_id = context.deployment.tenant_id
        trees = StageTrees(self._snapshots, context.directory)
        digests = [digest for digest in (installed["source"], installed["dependencies"]) if digest]
        inputs = tuple(StoredTree(tenant_id, digest) for digest in digests)
        if detection.build_command is None:
            collected = self._collect(context, trees, detection, inputs)
        else:
            with trees.opened(inputs[0]) as source:
                packages = packages_digest(source, detection) or str(installed["dependencies"] or "none")
                collected = self._built(context, trees, detection, environment, inputs, source, tools, packages)
        snapshot = trees.save(tenant_id, collected)
        self._cache.record(context, components, snapshot, {})
        context.log.system(f"Output stored ({snapshot.digest[:12]}, {snapshot.size_bytes // 1024} KiB packed).")
        return StageResult({"output": snapshot.digest})

    def _built(
        self,
        context: StageContext,
        trees: StageTrees,
        detection: Detection,
        environment: dict[str, str],
        inputs: tuple[StoredTree, ...],
        source: Path,
        tools: Sequence[Tool],
        packages: str,
    ) -> Tree:
        components = {
            # Not every tool names its plugins' versions in what it keeps: babel-loader doesn't.
            "packages": packages,
            **self._tool_components(tools),
            **variable_components(context.variables, self._digest_key),
        }
        with self.build_cache.opened(context, detection, source, components) as kept:
            layers = inputs if kept.layer is None else (*inputs, kept.layer)
            changes = self._build(context, trees, detection, environment, layers, tools, is_fresh=kept.layer is None)
            collected = self._collect(context, trees, detection, (*layers, changes))
            kept.keep(changes)
        return collected

    def _environment(self, context: StageContext, detection: Detection, tools: Sequence[Tool]) -> dict[str, str]:
        """Nothing in it differs between two builds of one commit for one host, or no output would be found again."""
        deployment = context.deployment
        commit_sha = deployment.commit_sha or str(context.inputs[Stage.CLONE].get("commitSha") or "")
        return {
            "CI": "1",
            "NODE_ENV": "production",
            "PYTHONUNBUFFERED": "1",
            **environment_of(tools),
            **context.variables,
            "PATH": search_path(self._toolchain, detection, programs(tools)),
            "VIRTUAL_ENV": VIRTUAL_ENVIRONMENT,
            "CLOUDIFY": "1",
            "CLOUDIFY_ENVIRONMENT": "preview" if deployment.is_preview else "production",
            "CLOUDIFY_PROJECT": deployment.project_slug,
            "CLOUDIFY_BRANCH": deployment.branch,
            "CLOUDIFY_COMMIT_SHA": commit_sha,
            "CLOUDIFY_URL": self._settings.site_url(deployment.host),
        }

    def _components(
        self,
        installed: Mapping[str, Any],
        detection: Detection,
        environment: Mapping[str, str],
        tools: Sequence[Tool],
    ) -> dict[str, str]:
        return {
            "source": str(installed["source"]),
            "dependencies": str(installed["dependencies"] or "none"),
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
            output_bytes=self._settings.build.output_bytes,
            network="none",
            mounts=mounts(tools),
            output="build",
        )
        tail = OutputTail()
        result = run_logged(self._executor, context, spec, trees, tail)
        advice = advice_for(tail.data, "build")
        if not (advice or is_fresh or result.exit_code == 127):
            advice = "It started from files of an earlier build; a clean deployment doesn't."
        raise_failure(context, result, "build command", advice)
        return result.outputs["build"]

    def _collect(
        self, context: StageContext, trees: StageTrees, detection: Detection, layers: tuple[Tree, ...]
    ) -> Tree:
        """Copies the output out of the merged layers, inside a sandbox of its own: no link of it touches the host."""
        is_whole = detection.output_directories == (".",)
        script = _COLLECT_ALL if is_whole else _COLLECT
        spec = make_spec(
            context,
            Stage.BUILD,
            command=("/bin/sh", "-c", script, "collect", *detection.output_directories),
            directory=detection.root_directory,
            layers=layers,
            changes="collect",
            environment={},
            output_bytes=64 * 1024,
            network="none",
            directories=(Directory("collected", _COLLECTED),),
            output="collected",
        )
        printed: list[bytes] = []

        def on_output(_stream: Literal["stdout", "stderr"], data: bytes) -> None:
            printed.append(data)

        result = self._executor.run(spec, trees, on_output, context.cancelled)
        raise_interruption(context, result)
        _check_collected(context, detection, result, b"".join(printed).decode(errors="replace"))
        return result.outputs["collected"]


def _check_collected(context: StageContext, detection: Detection, result: ExecutionResult, printed: str) -> None:
    """Raises StageFailure, PlatformError unless there is an output and it can be a site."""
    if result.exit_code == _MISSING:
        raise StageFailure(FailureCode.OUTPUT_DIRECTORY_MISSING, _missing_message(detection, printed.split()))
    if result.exit_code == _OUTSIDE:
        raise StageFailure(
            FailureCode.OUTPUT_DIRECTORY_MISSING,
            f"The output directory {printed.strip()} is a symbolic link that leads out of the project, or to"
            " nothing. A site holds the project's own files: make it a directory, or set the output directory in the"
            " project's settings to what the build writes.",
        )
    if result.exit_code == _FILE:
        raise StageFailure(
            FailureCode.OUTPUT_INVALID,
            f"The output directory {printed.strip()} is a file, or a link to one. Set the output directory in the"
            " project's settings to the directory that the build writes.",
        )
    if result.exit_code == _SHUT:
        raise StageFailure(
            FailureCode.OUTPUT_INVALID,
            f"The output directory {printed.strip()} can't be read: its permissions shut it. Let the build end with"
            f" `chmod -R u+rwX {printed.strip()}`.",
        )
    if result.exit_code == _UNCOPIED:
        _raise_uncopied(printed)
    if result.exit_code == _EMPTY:
        raise StageFailure(
            FailureCode.OUTPUT_DIRECTORY_EMPTY,
            f"The output directory {detection.output_directory} is empty. Does the build write somewhere else?"
            " Set the output directory in the project's settings.",
        )
    if result.exit_code in (_NO_PAGE, _NO_INDEX):
        _check_pages(context, detection, has_pages=result.exit_code == _NO_INDEX)
        return
    if result.outcome is Outcome.USER_ERROR:
        raise PlatformError(f"The output of the build could not be copied: {printed[-500:]}")
    raise_failure(context, result, f"copy of {workspace_path(detection.output_directory)}")


def _raise_uncopied(printed: str) -> NoReturn:
    """Raises PlatformError when cp names a failure of the disk or memory, else StageFailure with what cp says."""
    lines = [line.removeprefix("cp: ") for line in printed.split("\n")[:-1] if line.startswith("cp: ")]
    if not lines or any(line.endswith(_PLATFORM_ERRORS) for line in lines):
        raise PlatformError(f"The output of the build could not be copied: {printed[-500:]}")
    problem = lines[0].replace(f"{WORKSPACE}/", "", 1).replace("/./", "/", 1)
    raise StageFailure(
        FailureCode.OUTPUT_INVALID,
        f"The output can't be published: {problem[:600]}. Let the build remove it, or make it readable"
        " (`chmod -R u+rwX`).",
    )


def _check_pages(context: StageContext, detection: Detection, *, has_pages: bool) -> None:
    """The output has no index.html at its top. Raises StageFailure when it is certainly no static site."""
    framework = BY_NAME[detection.framework]
    is_chosen = bool((context.deployment.output_directory or "").strip())
    if framework.advice and not has_pages and not is_chosen:
        raise StageFailure(
            FailureCode.OUTPUT_INVALID,
            f"The build left a server and no page: {detection.output_directory} holds no HTML file, and this platform"
            f" publishes files. {framework.advice}",
        )
    advice = f" {framework.advice}" if framework.advice else ""
    context.log.system(
        f"There is no index.html at the top of the output, so the site's address itself answers 404.{advice}"
    )


def _missing_message(detection: Detection, existing: list[str]) -> str:
    wanted = detection.output_directories
    looked_for = wanted[0] if len(wanted) == 1 else f"any of {', '.join(wanted)}"
    place = "" if detection.root_directory == "." else f" in {detection.root_directory}"
    advice = BY_NAME[detection.framework].advice
    found = f" There is {', '.join(existing)}; is that it?" if existing and not advice else f" {advice}".rstrip()
    condition = "If the site is elsewhere, set" if advice else "Set"
    command = f"`{detection.build_command}`" if detection.build_command else "The repository"
    return (
        f"{command} left no output directory: {looked_for} doesn't exist{place}.{found}"
        f" {condition} the output directory in the project's settings to what the build writes."
    )
