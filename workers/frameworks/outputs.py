"""Where each framework's build leaves the site."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from workers.frameworks import catalogue
from workers.frameworks.catalogue import Framework
from workers.frameworks.node_projects import as_mapping, scripts_of
from workers.frameworks.source_tree import SourceTree, join

MAXIMUM_PATH = 500
_MAXIMUM_OUTPUTS = 40
_OPTION = re.compile(
    r"\s--(?:outDir|out-dir|output|output-path|dest|destination|site-dir)(?:=|\s+)['\"]?([^\s'\"]{1,500})"
)


def output_directories(
    tree: SourceTree, directory: str, framework: Framework, package: dict[str, Any] | None, build: str | None
) -> tuple[str, ...]:
    """Relative to the project's directory; the first that exists after the build is its output.

    `build`: the build command, or the text of the script that it runs; None when there is no build.
    """
    found = _by_framework(tree, directory, framework, package, has_build=build is not None)
    named = _of_command(framework, build or "")
    return tuple(dict.fromkeys((named, *found))) if named else found


def _of_command(framework: Framework, build: str) -> str | None:
    """The directory that an option names, of the part of the command that runs the framework."""
    program = (framework.command or "").partition(" ")[0]
    for part in re.split(r"&&|[;|]", build) if program else ():
        match = _OPTION.search(part) if re.search(rf"(?<![\w-]){re.escape(program)}(?![\w-])", part) else None
        if match and _is_inside(match[1]):
            return PurePosixPath(match[1]).as_posix()
    return None


def _by_framework(
    tree: SourceTree, directory: str, framework: Framework, package: dict[str, Any] | None, *, has_build: bool
) -> tuple[str, ...]:
    if framework is catalogue.STATIC:
        has_index = tree.is_file(join(directory, "index.html"))
        return ("public",) if not has_index and tree.is_file(join(directory, "public/index.html")) else (".",)
    if framework.name in ("node", "other"):
        return catalogue.COMMON_OUTPUT_DIRECTORIES if has_build else (".",)
    if framework.name == "angular":
        return _angular_outputs(tree, directory)
    if framework.name == "vitepress":
        return _vitepress_outputs(framework, scripts_of(package or {}))
    for name in framework.output_files:
        match = re.search(framework.output_pattern or "", tree.read_text(join(directory, name)) or "")
        if match and _is_inside(match[1]):
            return (PurePosixPath(match[1]).as_posix(),)
    return (framework.output, *framework.other_outputs)


def _is_inside(path: str) -> bool:
    return len(path) <= MAXIMUM_PATH and not path.startswith("/") and ".." not in PurePosixPath(path).parts


def _angular_outputs(tree: SourceTree, directory: str) -> tuple[str, ...]:
    """The `application` builder writes below `browser`, the older one does not: both are looked for."""
    projects = as_mapping((tree.read_object(join(directory, "angular.json"), has_comments=True) or {}).get("projects"))
    outputs: list[str] = []
    for name, project in projects.items():
        architect = as_mapping(as_mapping(project).get("architect") or as_mapping(project).get("targets"))
        path = as_mapping(as_mapping(architect.get("build")).get("options")).get("outputPath")
        base = as_mapping(path).get("base") if isinstance(path, dict) else path
        base = base if isinstance(base, str) and _is_inside(base) else f"dist/{name}"
        outputs += [f"{base}/browser", base]
    # They become arguments of a command, of which a host takes only so many.
    return tuple(output for output in outputs if len(output) <= MAXIMUM_PATH)[:_MAXIMUM_OUTPUTS] or ("dist",)


def _vitepress_outputs(framework: Framework, scripts: dict[str, str]) -> tuple[str, ...]:
    """`vitepress build docs` writes to docs/.vitepress/dist."""
    for name in framework.scripts:
        match = re.search(r"\bvitepress\s+build\s+([^\s&|;-][^\s&|;]*)", scripts.get(name, ""))
        if match and _is_inside(match[1]):
            return (PurePosixPath(match[1], framework.output).as_posix(),)
    return (framework.output, f"docs/{framework.output}")
