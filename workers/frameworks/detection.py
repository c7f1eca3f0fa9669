"""Finds out what a repository is and how it is installed and built. Pure: reads the tree, runs nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from shared.errors import FailureCode, StageFailure
from workers.frameworks import catalogue
from workers.frameworks.candidates import candidate_directories
from workers.frameworks.catalogue import Framework
from workers.frameworks.node_projects import (
    FORCING_VARIABLE,
    LOCKFILES,
    NodeProject,
    has_turborepo,
    installed_dependencies_of,
    read_node_project,
    scripts_of,
)
from workers.frameworks.outputs import MAXIMUM_PATH, output_directories
from workers.frameworks.python_projects import PythonProject, has_python_project, read_python_project
from workers.frameworks.source_tree import SourceTree, join

# Scripts (name and text) that run the framework but never end, or build something else than what is published.
_NOT_FOR_RELEASE = re.compile(r"\b(?:dev|development|test|staging|analyze|watch|serve)\b|\s-w\b")


@dataclass(frozen=True, slots=True)
class Overrides:
    """The project's settings; None means detect. An empty command means: run none.

    `package_manager` chooses Node's where no packageManager field does.
    """

    framework: str | None = None
    install_command: str | None = None
    build_command: str | None = None
    output_directory: str | None = None
    node_version: str | None = None
    package_manager: str | None = None


@dataclass(frozen=True, slots=True)
class Detection:
    """What to run where.

    `root_directory` (where the build runs), `install_directory` and `lockfile` are relative to the repository's root,
    `output_directories` to `root_directory`: the first that exists is the output. A command of None is not run.
    `reasons` are lines for the log.
    """

    framework: str
    package_manager: str | None
    root_directory: str
    install_directory: str
    install_command: str | None
    build_command: str | None
    output_directories: tuple[str, ...]
    lockfile: str | None
    runtime: str
    node_version: str | None
    python_version: str | None
    is_custom_install: bool
    reasons: tuple[str, ...]

    @property
    def output_directory(self) -> str:
        return self.output_directories[0]


def detect(root: Path, directory: Path, overrides: Overrides, tree: SourceTree | None = None) -> Detection:
    """`directory` is the project's place inside `root`, absolute or relative to it. `tree`: `root`, opened already.

    Raises StageFailure: ROOT_DIRECTORY_NOT_FOUND, CONFIGURATION_INVALID, PROJECT_NOT_RECOGNISED.
    """
    # One piece, although long: it decides the values one by one, in the order in which the log gives their reasons.
    tree = tree or SourceTree(root)
    relative = _project_directory(tree, root, directory)
    package = tree.read_object(join(relative, "package.json"))
    framework, reason = _choose_framework(tree, relative, package, overrides)
    project = _read_project(tree, relative, framework, package, overrides)
    reasons = [reason, *(project.reasons if project else ())]
    install_command = project.install_command if project else None
    has_requirements = isinstance(project, NodeProject) and tree.is_file(join(relative, "requirements.txt"))
    if has_requirements and overrides.install_command is None:
        reasons.append(_unused_requirements(relative, install_command))
    install_command = _chosen("Install command", overrides.install_command, install_command, reasons)
    build_command = _build_command(tree, relative, framework, package, project)
    build_command = _chosen("Build command", overrides.build_command, build_command, reasons)
    script = _build_script(framework, scripts_of(package or {})) if overrides.build_command is None else None
    build = scripts_of(package or {})[script] if script and build_command else build_command
    outputs = output_directories(tree, relative, framework, package, build)
    if overrides.output_directory is not None and overrides.output_directory.strip():
        outputs = (validate_path(overrides.output_directory.strip(), "output directory"),)
        reasons.append(f"Output directory {outputs[0]}: the project's settings.")
    node_version = project.node_version if isinstance(project, NodeProject) else None
    if overrides.node_version:
        node_version = overrides.node_version
        reasons.append(f"Node version {node_version}: the project's settings.")
    return Detection(
        framework=framework.name,
        package_manager=project.manager if project else None,
        root_directory=relative,
        install_directory=project.install_directory if project else relative,
        install_command=install_command,
        build_command=build_command,
        output_directories=outputs,
        lockfile=project.lockfile if project else None,
        runtime=_runtime(project),
        node_version=node_version,
        python_version=project.python_version if isinstance(project, PythonProject) else None,
        is_custom_install=overrides.install_command is not None,
        reasons=tuple(reasons),
    )


def validate_path(text: str, what: str) -> str:
    """A path inside the repository in its shortest form, `.` for the root. Raises StageFailure."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\0" in text or "\n" in text or len(text) > MAXIMUM_PATH:
        raise StageFailure(
            FailureCode.CONFIGURATION_INVALID,
            f"The {what} {text[:200]!r} can't be used; give a path inside the repository, relative and without `..`.",
        )
    return path.as_posix()


def _project_directory(tree: SourceTree, root: Path, directory: Path) -> str:
    relative = validate_path(
        str(directory.relative_to(root) if directory.is_absolute() else directory), "root directory"
    )
    if not tree.is_directory(relative):
        raise StageFailure(
            FailureCode.ROOT_DIRECTORY_NOT_FOUND,
            f"The repository has no directory {relative}; correct the project's root directory.",
        )
    return relative


def _chosen(name: str, setting: str | None, detected: str | None, reasons: list[str]) -> str | None:
    """The command of the project's settings, with the reason, or else the detected one."""
    if setting is None:
        return detected
    command = setting.strip() or None
    reasons.append(f"{name} {command or '(none)'}: the project's settings.")
    return command


def _runtime(project: NodeProject | PythonProject | None) -> str:
    if project is None:
        return "none"
    return "node" if isinstance(project, NodeProject) else "python"


def _choose_framework(
    tree: SourceTree, directory: str, package: dict[str, Any] | None, overrides: Overrides
) -> tuple[Framework, str]:
    if overrides.framework:
        chosen = catalogue.BY_NAME.get(overrides.framework)
        if chosen is None:
            raise StageFailure(
                FailureCode.CONFIGURATION_INVALID,
                f"The framework {overrides.framework[:100]!r} of the project's settings is not known; use one of"
                f" {', '.join(sorted(catalogue.BY_NAME))}, or leave it unset.",
            )
        return chosen, f"Framework {chosen.label}: the project's settings."
    dependencies = installed_dependencies_of(package or {})
    for framework in catalogue.FRAMEWORKS:
        found = next((name for name in framework.dependencies if name in dependencies), None)
        if found:
            return framework, f"Framework {framework.label}: package.json depends on {found}."
        found = next((name for name in framework.files if tree.is_file(join(directory, name))), None)
        found = found or _find_marked(tree, directory, framework)
        if found:
            return framework, f"Framework {framework.label}: found {join(directory, found)}."
    return _choose_fallback(tree, directory, package, overrides)


def _find_marked(tree: SourceTree, directory: str, framework: Framework) -> str | None:
    for name in framework.marked_files:
        if re.search(framework.mark, tree.read_text(join(directory, name)) or ""):
            return name
    return None


def _choose_fallback(
    tree: SourceTree, directory: str, package: dict[str, Any] | None, overrides: Overrides
) -> tuple[Framework, str]:
    if package is not None and "build" in scripts_of(package):
        return catalogue.NODE, f"No known framework; {join(directory, 'package.json')} has a build script."
    if overrides.build_command:
        framework = catalogue.NODE if package is not None else catalogue.OTHER
        return framework, "No known framework; the build command is the project's own."
    if tree.is_file(join(directory, "index.html")) or overrides.output_directory:
        return catalogue.STATIC, "Plain static files: nothing to build."
    if tree.is_file(join(directory, "public/index.html")):
        return catalogue.STATIC, f"Plain static files: found {join(directory, 'public/index.html')}; nothing to build."
    place = "the repository" if directory == "." else f"the directory {directory}"
    candidates = candidate_directories(tree, directory)
    elsewhere = f" (perhaps to {' or '.join(candidates)})" if candidates else ""
    raise StageFailure(
        FailureCode.PROJECT_NOT_RECOGNISED,
        f"Nothing in {place} says how to build it. Add an index.html, or a package.json with a `build` script, or the"
        " configuration of a known framework (such as mkdocs.yml or hugo.toml); or set the build command and the output"
        f" directory in the project's settings. If the site is in a subdirectory, set the root directory{elsewhere}.",
    )


def _read_project(
    tree: SourceTree, directory: str, framework: Framework, package: dict[str, Any] | None, overrides: Overrides
) -> NodeProject | PythonProject | None:
    if framework.runtime == "ruby" and overrides.build_command is None:
        raise StageFailure(
            FailureCode.CONFIGURATION_INVALID,
            f"This is a {framework.label} site, which needs Ruby, and this platform has none yet. Build it"
            " elsewhere and deploy the result, or set a build command that works without Ruby.",
        )
    if framework.runtime == "python":
        return read_python_project(tree, directory, framework.packages)
    if framework.runtime == "node" and package is None and overrides.build_command is None:
        raise StageFailure(
            FailureCode.CONFIGURATION_INVALID,
            f"A {framework.label} project needs a package.json, and {join(directory, 'package.json')} doesn't exist."
            " Correct the root directory or the framework in the project's settings.",
        )
    if framework is catalogue.STATIC and overrides.build_command is None:
        return None
    if package is not None:
        return read_node_project(tree, directory, package, _forced_manager(overrides))
    if has_python_project(tree, directory):
        return read_python_project(tree, directory, ())
    return None


def _unused_requirements(directory: str, install_command: str | None) -> str:
    both = " && ".join([*([install_command] if install_command else []), "pip install -r requirements.txt"])
    return (
        f"There is also {join(directory, 'requirements.txt')}, which is not installed. If the build needs it, set the"
        f" install command to `{both}`."
    )


def _forced_manager(overrides: Overrides) -> str | None:
    name = (overrides.package_manager or "").strip()
    if name and name not in LOCKFILES:
        raise StageFailure(
            FailureCode.CONFIGURATION_INVALID,
            f"The variable {FORCING_VARIABLE} names no package manager; set it to one of {', '.join(LOCKFILES)}, or"
            " delete it.",
        )
    return name or None


def _build_command(
    tree: SourceTree,
    directory: str,
    framework: Framework,
    package: dict[str, Any] | None,
    project: NodeProject | PythonProject | None,
) -> str | None:
    if isinstance(project, NodeProject):
        script = _build_script(framework, scripts_of(package or {}))
        if script:
            # Turborepo builds the packages of the workspace that this one needs first.
            is_turbo = script == "build" and has_turborepo(tree, project.install_directory, directory)
            return "turbo run build" if is_turbo else f"{project.manager} run {script}"
    if framework.name == "sphinx":
        source = _sphinx_source(tree, directory, framework)
        return f"sphinx-build -b html {source} _build/html"
    if framework.name == "vitepress" and not tree.is_directory(join(directory, ".vitepress")):
        return "vitepress build docs" if tree.is_directory(join(directory, "docs/.vitepress")) else framework.command
    return framework.command


def _build_script(framework: Framework, scripts: dict[str, str]) -> str | None:
    """The framework's own script, before it one that runs the framework: a repository may build more than a site."""
    command = framework.command or ""
    named = [name for name in framework.scripts if name in scripts]
    running = [name for name in named if command and command in scripts[name]]
    if running or named:
        return (running or named)[0]
    others = [name for name, script in scripts.items() if command and command in script and "build" in name]
    return next((name for name in others if not _NOT_FOR_RELEASE.search(f"{name} {scripts[name]}")), None)


def _sphinx_source(tree: SourceTree, directory: str, framework: Framework) -> str:
    found = next((name for name in framework.files if tree.is_file(join(directory, name))), "conf.py")
    return str(PurePosixPath(found).parent)
