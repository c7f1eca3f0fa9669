"""The command that builds a project, where neither its settings nor a configuration file name one."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from workers.frameworks.framework import Framework
from workers.frameworks.node_projects import NodeProject, has_turborepo
from workers.frameworks.python_projects import PythonProject
from workers.frameworks.recognition import find_file
from workers.frameworks.source_tree import SourceTree, join

# Scripts (name and text) that run the framework but never end, or build something else than what is published.
_NOT_FOR_RELEASE = re.compile(r"\b(?:dev|development|test|staging|analyze|watch|serve)\b|\s-w\b")
# Where the pages of a documentation generator are, below the project's directory.
_PAGE_DIRECTORIES = (".", "docs", "src", "doc", "website", "site", "blog")
_PARCEL_ENTRIES = ("index.html", "src/index.html", "index.pug", "src/index.pug")


def build_command(
    tree: SourceTree,
    directory: str,
    framework: Framework,
    script: str | None,
    package: dict[str, Any] | None,
    project: NodeProject | PythonProject | None,
) -> str | None:
    """`script`: of package.json, the one that builds the site."""
    if isinstance(project, NodeProject) and script:
        # Turborepo builds the packages of the workspace that this one needs first.
        is_turbo = script == "build" and has_turborepo(tree, project.install_directory, directory)
        return "turbo run build" if is_turbo else f"{project.manager} run {script}"
    match framework.name:
        case "sphinx":
            return f"sphinx-build -b html {_directory_of(tree, directory, framework, 'conf.py')} _build/html"
        case "jupyter-book":
            return f"jupyter-book build {_directory_of(tree, directory, framework, '_toc.yml')}"
        case "parcel" if "source" not in (package or {}):
            entry = next((name for name in _PARCEL_ENTRIES if tree.is_file(join(directory, name))), None)
            return f"{framework.command} {entry}" if entry else framework.command
        case _ if framework.site_folder:
            pages = page_directory(tree, directory, framework)
            return framework.command if pages == "." else f"{framework.command} {pages}"
        case _:
            return framework.command


def build_script(framework: Framework, scripts: dict[str, str]) -> str | None:
    """The framework's own script, before it one that runs the framework: a repository may build more than a site."""
    command = framework.command or ""
    named = [name for name in framework.scripts if name in scripts]
    running = [name for name in named if command and command in scripts[name]]
    if running or named:
        return (running or named)[0]
    others = [name for name, script in scripts.items() if command and command in script and "build" in name]
    return next((name for name in others if not _NOT_FOR_RELEASE.search(f"{name} {scripts[name]}")), None)


def page_directory(tree: SourceTree, directory: str, framework: Framework) -> str:
    """The directory, relative to the project's, that has the framework's folder; `.` where none has."""
    folder = framework.site_folder
    return next((place for place in _PAGE_DIRECTORIES if tree.is_directory(join(directory, f"{place}/{folder}"))), ".")


def _directory_of(tree: SourceTree, directory: str, framework: Framework, default: str) -> str:
    return str(PurePosixPath(find_file(tree, directory, framework) or default).parent)
