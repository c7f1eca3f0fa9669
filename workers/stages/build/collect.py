"""Collects a build's output directory, and reports why it can't be published."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import Literal, NoReturn

from shared.deployments.state import Stage
from shared.errors import FailureCode, PlatformError, StageFailure
from shared.text.storable import storable
from shared.text.wording import counted
from shared.text.written import escaped
from workers.commands.sandboxed import (
    WORKSPACE,
    make_spec,
    raise_failure,
    raise_interruption,
    run_traced,
    workspace_path,
)
from workers.executors.base import Directory, ExecutionResult, Executor, RunOutcome, Tree, Trees
from workers.frameworks.catalogue import BY_NAME
from workers.frameworks.detection import Detection
from workers.pipeline.stage import StageContext

_COLLECTED = "/output"
# In a message.
_MAXIMUM_NAMED = 8
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
# Never the site, although there may be pages in them.
_REPORTS = frozenset({"coverage", "test", "tests", "e2e", "report", "reports", "test-results", "playwright-report"})

# What the script begins with. Arguments: `installed` if dependencies were installed; then the directories to look for,
# in order; after `--`, those of them whose first page is committed.
_BEGIN = f"""
installed=$1; shift
# Links that lead to a place next to the output: what they show becomes a part of the site. What leads out of the
# workspace stays as it is, and is refused later.
follow_links() {{
  find {_COLLECTED} -type l | while IFS= read -r link; do
    text=$(readlink -- "$link") && now=$(readlink -f -- "$link") || now=
    case "$text:$now" in
      /*) ;;
      *:{_COLLECTED}/*) [ ! -e "$now" ] || continue ;;
    esac
    target=$(readlink -f -- "$1/${{link#{_COLLECTED}/}}") || target=
    case "$target" in
      */.git/*|*/.git) continue ;;
      {WORKSPACE}/*) ;;
      *) continue ;;
    esac
    if [ -f "$target" ]; then
      rm -- "$link"
      LC_ALL=C cp --preserve=mode,timestamps -- "$target" "$link" || exit {_UNCOPIED}
    elif [ -d "$target" ]; then
      case "$1/" in "$target"/*) continue ;; esac
      rm -- "$link"
      LC_ALL=C cp -dR --preserve=mode,timestamps -- "$target/." "$link/" || exit {_UNCOPIED}
    fi
  done
  # The loop is a process of its own.
  [ $? -ne {_UNCOPIED} ] || exit {_UNCOPIED}
}}
"""

# Ends a copy: without an index.html at the top, whether there is any page at all, and where pages are in the workspace.
_END = f"""
list_pages() {{
  find . -maxdepth 5 '(' -name node_modules -o -name '.?*' ! -name .vitepress ! -name .vuepress ! -name .output ')' \\
    -prune -o -name index.html -print | head -n 200 | while IFS= read -r page; do
      echo "page ${{page%/index.html}}"
    done
}}
finish() {{
  echo "chosen $1"
  [ ! -f {_COLLECTED}/index.html ] || exit 0
  list_pages
  [ -n "$(find {_COLLECTED} -name '*.html' -print -quit)" ] && exit {_NO_INDEX}
  exit {_NO_PAGE}
}}
"""

# The whole project directory as the site: without version control, hidden files such as .env, and what was installed;
# `node_modules` that are committed are a part of a plain site.
_ALL = f"""
prune() {{
  find {_COLLECTED} -mindepth 1 -path {_COLLECTED}/.well-known -prune -o '(' -name '.*' $hidden ')' -prune \\
    -exec rm -rf -- '{{}}' +
}}
collect_all() {{
  hidden=
  [ "$installed" != installed ] || hidden="-o -name node_modules"
  for entry in * .well-known; do
    [ -e "$entry" ] || [ -L "$entry" ] || continue
    [ "$installed" != installed ] || [ "$entry" != node_modules ] || continue
    LC_ALL=C cp -dR --preserve=mode,timestamps -- "$entry" {_COLLECTED}/ || exit {_UNCOPIED}
  done
  # Nothing can be removed from a directory that its owner may not write to.
  chmod -R u+rwX {_COLLECTED} || exit 1
  prune
  follow_links "$(pwd -P)"
  prune
  # A link that leads to nothing, to what isn't published, or to a directory around it, is no file.
  find {_COLLECTED} -type l | while IFS= read -r link; do
    now=$(readlink -f -- "$link") || now=
    case "$link" in "$now"/*) ;; *) [ ! -e "$link" ] || continue ;; esac
    echo "dropped ${{link#{_COLLECTED}/}}"
    rm -- "$link"
  done
  [ -n "$(ls -A {_COLLECTED})" ] || exit {_EMPTY}
  finish .
}}
"""

# Runs inside the sandbox, so a link that leaves the workspace leads to the sandbox's own files at most; and even those
# are refused. A page that the build wrote comes before a committed one, and any before none.
_COLLECT = f"""{_BEGIN}{_END}{_ALL}
committed="|" seen=
for argument in "$@"; do
  [ -z "$seen" ] || committed="$committed$argument|"
  [ "$argument" != -- ] || seen=yes
done
found= outside= file= best= rank=0
for directory in "$@"; do
  [ "$directory" != -- ] || break
  [ -d "$directory" ] || {{
    if [ -e "$directory" ]; then file=$directory; elif [ -L "$directory" ]; then outside=$directory; fi
    continue
  }}
  resolved=$(cd -P -- "$directory" 2>/dev/null && pwd -P) || {{ shut=$directory; continue; }}
  case "$resolved/" in {WORKSPACE}/*) ;; *) outside=$directory; continue ;; esac
  found=$directory
  [ -r "$resolved" ] || {{ shut=$directory; continue; }}
  [ -n "$(ls -A -- "$resolved")" ] || continue
  if [ -f "$resolved/index.html" ]; then
    case "$committed" in *"|$directory|"*) this=3 ;; *) this=4 ;; esac
  elif [ "$directory" != . ] && [ -n "$(find "$resolved" -name '*.html' -print -quit)" ]; then this=2
  else this=1
  fi
  [ $this -le $rank ] || {{ best=$directory rank=$this; }}
done
[ -n "$best" ] || [ -z "${{shut-}}" ] || {{ echo "$shut"; exit {_SHUT}; }}
[ "$best" != . ] || collect_all
if [ -n "$best" ]; then
  resolved=$(cd -P -- "$best" && pwd -P)
  LC_ALL=C cp -dR --preserve=mode,timestamps -- "$resolved/." {_COLLECTED}/ || exit {_UNCOPIED}
  follow_links "$resolved"
  finish "$best"
fi
[ -z "$found" ] || exit {_EMPTY}
[ -z "$outside" ] || {{ echo "$outside"; exit {_OUTSIDE}; }}
[ -z "$file" ] || {{ echo "$file"; exit {_FILE}; }}
list_pages
exit {_MISSING}
"""


def collect_output(
    executor: Executor, context: StageContext, trees: Trees, detection: Detection, layers: tuple[Tree, ...]
) -> Tree:
    """Copies the output out of the merged layers, inside a sandbox of its own: no link of it touches the host.

    Raises StageFailure if it is missing or can't be a site, PlatformError, Cancelled.
    """
    result, printed = _collect(executor, context, trees, detection, layers, "collected")
    elsewhere = _other_output(detection, result, printed)
    if elsewhere is not None:
        context.log.system(
            f"Output directory {elsewhere}: the build wrote its first page there, and nothing where it was looked for."
        )
        detection = replace(detection, output_directories=(elsewhere,))
        result, printed = _collect(executor, context, trees, detection, layers, "found")
    _check_collected(context, detection, result, printed)
    [output] = result.outputs.values()
    return output


def _collect(
    executor: Executor,
    context: StageContext,
    trees: Trees,
    detection: Detection,
    layers: tuple[Tree, ...],
    name: str,
) -> tuple[ExecutionResult, str]:
    """The result, whose only output is called `name`, and what the script printed. Raises Cancelled, PlatformError."""
    is_installed = "installed" if detection.install_command is not None else "plain"
    committed = [path for path in detection.output_directories if path in detection.committed_pages]
    spec = make_spec(
        context,
        Stage.BUILD,
        command=("/bin/sh", "-c", _COLLECT, "collect", is_installed, *detection.output_directories, "--", *committed),
        directory=detection.root_directory,
        layers=layers,
        changes=f"collect-{name}",
        environment={},
        output_bytes=64 * 1024,
        network="none",
        directories=(Directory(name, _COLLECTED),),
        output=name,
    )
    printed: list[bytes] = []

    def on_output(_stream: Literal["stdout", "stderr"], data: bytes) -> None:
        printed.append(data)

    result = run_traced(executor, context, spec, trees, on_output, "collect output")
    raise_interruption(context, result)
    return result, b"".join(printed).decode(errors="replace")


def _other_output(detection: Detection, result: ExecutionResult, printed: str) -> str | None:
    """The only other directory with a first page that the build wrote, if the output has none."""
    is_without_page = result.exit_code in (_MISSING, _EMPTY, _NO_INDEX, _NO_PAGE)
    # What builds a server leaves pages that are parts of it.
    if not is_without_page or detection.is_output_chosen or BY_NAME[detection.framework].advice:
        return None
    committed = {*detection.committed_pages, "."}
    looked_at = tuple(f"{path}/" for path in detection.output_directories if path != ".")
    written = [path for path in _lines(printed, "page") if path not in committed]
    written = [path for path in written if not f"{path}/".startswith(looked_at)]
    written = [path for path in written if _REPORTS.isdisjoint(path.split("/"))]
    top = [path for path in written if not any(path.startswith(f"{other}/") for other in written)]
    return top[0] if len(top) == 1 else None


def _lines(printed: str, kind: str) -> list[str]:
    """Paths that the script printed after the word, in their shortest form."""
    lines = (line.removeprefix(f"{kind} ") for line in printed.split("\n") if line.startswith(f"{kind} "))
    return [posixpath.normpath(storable(line)) for line in lines]


def _check_collected(context: StageContext, detection: Detection, result: ExecutionResult, printed: str) -> None:
    """Raises StageFailure or PlatformError unless there is an output that can be a site."""
    if result.exit_code == _MISSING:
        existing = [path for path in _lines(printed, "page") if path != "."][:_MAXIMUM_NAMED]
        raise StageFailure(FailureCode.OUTPUT_DIRECTORY_MISSING, _missing_message(detection, existing))
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
    if result.exit_code in (0, _NO_PAGE, _NO_INDEX):
        _tell(context, detection, printed)
    if result.exit_code in (_NO_PAGE, _NO_INDEX):
        _check_pages(detection, has_pages=result.exit_code == _NO_INDEX)
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


def _tell(context: StageContext, detection: Detection, printed: str) -> None:
    chosen = next(iter(_lines(printed, "chosen")), detection.output_directory)
    if chosen != detection.output_directory:
        context.log.system(f"Output directory {chosen}, of {', '.join(detection.output_directories[:_MAXIMUM_NAMED])}.")
    dropped = _lines(printed, "dropped")
    if dropped:
        named = ", ".join(escaped(path) for path in dropped[:_MAXIMUM_NAMED])
        context.log.system(
            f"{counted(len(dropped), 'symbolic link')} ({named}) to nothing that is published: left out."
        )


def _check_pages(detection: Detection, *, has_pages: bool) -> None:
    """The output has no index.html at its top. Raises StageFailure when it is certainly no static site."""
    framework = BY_NAME[detection.framework]
    if framework.advice and not has_pages and not detection.is_output_chosen:
        raise StageFailure(
            FailureCode.OUTPUT_INVALID,
            f"The build left a server and no page: {detection.output_directory} holds no HTML file, and this platform"
            f" publishes files. {framework.advice}",
        )


def _missing_message(detection: Detection, existing: list[str]) -> str:
    wanted = detection.output_directories[:_MAXIMUM_NAMED]
    looked_for = wanted[0] if len(wanted) == 1 else f"any of {', '.join(wanted)}"
    place = "" if detection.root_directory == "." else f" in {detection.root_directory}"
    advice = BY_NAME[detection.framework].advice
    found = f" There is {', '.join(existing)}; is that it?" if existing and not advice else f" {advice}".rstrip()
    condition = "If the site is elsewhere, set" if advice else "Set"
    command = f"`{detection.build_command}`" if detection.build_command else "The repository"
    members = (
        f" If a member of the workspace is the site, set the root directory to it: {', '.join(detection.candidates)}."
        if detection.candidates
        else ""
    )
    return (
        f"{command} left no output directory: {looked_for} doesn't exist{place}.{found}"
        f" {condition} the output directory in the project's settings to what the build writes.{members}"
    )
