"""Collects a build's output directory, and reports why it can't be published."""

from __future__ import annotations

from typing import Literal, NoReturn

from shared.deployments.state import Stage
from shared.errors import FailureCode, PlatformError, StageFailure
from workers.commands.sandboxed import (
    WORKSPACE,
    make_spec,
    raise_failure,
    raise_interruption,
    run_traced,
    workspace_path,
)
from workers.executors.base import Directory, ExecutionResult, Executor, RunOutcome, Tree, Trees
from workers.frameworks.catalogue import BY_NAME, COMMON_OUTPUT_DIRECTORIES
from workers.frameworks.detection import Detection
from workers.pipeline.stage import StageContext

_COLLECTED = "/output"
_MISSING, _EMPTY, _NO_PAGE, _NO_INDEX, _OUTSIDE, _UNCOPIED, _FILE, _SHUT = 41, 42, 43, 44, 45, 46, 47, 48
# How cp's line ends when the platform's disk or memory failed; any other error is about the build's files.
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


def collect_output(
    executor: Executor, context: StageContext, trees: Trees, detection: Detection, layers: tuple[Tree, ...]
) -> Tree:
    """Copies the output out of the merged layers, inside a sandbox of its own: no link of it touches the host.

    Raises StageFailure if it is missing or can't be a site, PlatformError, Cancelled.
    """
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

    result = run_traced(executor, context, spec, trees, on_output, "collect output")
    raise_interruption(context, result)
    _check_collected(context, detection, result, b"".join(printed).decode(errors="replace"))
    return result.outputs["collected"]


def _check_collected(context: StageContext, detection: Detection, result: ExecutionResult, printed: str) -> None:
    """Raises StageFailure or PlatformError unless there is an output that can be a site."""
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
    if result.outcome is RunOutcome.USER_ERROR:
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
