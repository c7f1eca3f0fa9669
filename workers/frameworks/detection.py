"""Finds out what a repository is and how it is installed and built. Pure: reads the tree, runs nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from shared.errors import FailureCode, StageFailure
from shared.text.storable import storable
from workers.frameworks import catalogue
from workers.frameworks.applications import has_client_router
from workers.frameworks.build_commands import build_command, build_script
from workers.frameworks.candidates import candidate_directories, sole_site
from workers.frameworks.choices import Choices, Overrides, choose
from workers.frameworks.framework import Framework
from workers.frameworks.history_versions import VERSION, history_versions
from workers.frameworks.hugo_modules import with_hugo_modules
from workers.frameworks.node_projects import (
    FORCING_VARIABLE,
    LOCKFILES,
    NodeProject,
    read_node_project,
    scripts_of,
)
from workers.frameworks.outputs import MAXIMUM_OUTPUTS, MAXIMUM_PATH, output_directories, with_called_scripts
from workers.frameworks.python_projects import PythonProject, has_python_project, read_python_project
from workers.frameworks.recognition import Recognised, choose_framework, lone_site_script
from workers.frameworks.site_files.routing import Routing
from workers.frameworks.source_tree import SourceTree, join
from workers.frameworks.workspaces import is_workspace_root

__all__ = ["Detection", "Overrides", "detect", "validate_path"]


# Of directories whose first page is committed: as deep as the collection of the output looks.
_PAGE_DEPTH = 5
_MAXIMUM_PAGES = 200
_FLAG = re.compile(r"--?[a-z][\w-]{0,50}(?:=[\w.,/-]{1,100})?")


@dataclass(frozen=True, slots=True)
class Detection:
    """What to run where.

    `root_directory` (where the build runs), `install_directory` and `lockfile` are relative to the repository's root,
    `output_directories` to `root_directory`, the likeliest first. A command of None is not run. `reasons` are lines for
    the log. `committed_pages`: directories, relative to `root_directory`, whose first page is committed, so that it may
    not be the build's. `is_output_chosen`: a person named the output directory. `candidates`: other directories of the
    repository that may be the site. `environment`: variables for the commands, which the repository's files give or
    need, and `address_variables`: those that are given the site's address. `is_application`: whether the first page is
    shown for paths that the site doesn't have; None if that is to be decided by the output. `is_application_named`: a
    person said so. `routing`: what the repository's files ask for.
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
    committed_pages: tuple[str, ...] = ()
    is_output_chosen: bool = False
    candidates: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    address_variables: tuple[str, ...] = ()
    is_application: bool | None = None
    is_application_named: bool = False
    routing: Routing = field(default_factory=Routing)

    @property
    def output_directory(self) -> str:
        return self.output_directories[0]


def detect(root: Path, directory: Path, overrides: Overrides, tree: SourceTree | None = None) -> Detection:
    """`directory` is the project's place inside `root`, absolute or relative to it. `tree`: `root`, opened already.

    Raises StageFailure: ROOT_DIRECTORY_NOT_FOUND, CONFIGURATION_INVALID, PROJECT_NOT_RECOGNISED.
    """
    tree = tree or SourceTree(root)
    choices = choose(tree, _project_directory(tree, root, directory), overrides)
    relative = choices.root_directory
    package = tree.read_object(join(relative, "package.json"))
    try:
        recognised = _choose_framework(tree, relative, package, choices)
    except StageFailure as failure:
        site = sole_site(tree, relative) if failure.code == FailureCode.PROJECT_NOT_RECOGNISED else None
        if site is None:
            raise
        reason = (
            f"Root directory {site}: nothing in {_place(relative)} says how to build it, and this is the only directory"
            " that does. Set the root directory to choose another one."
        )
        # Its own configuration files count there.
        found = detect(root, Path(site), overrides, tree)
        return replace(found, reasons=(*choices.reasons, reason, *found.reasons))
    return _detect(tree, relative, package, recognised, choices, overrides)


def _is_application(framework: Framework, package: dict[str, Any], build: str | None) -> bool:
    """As the framework's row says, if the build runs that framework: a dependency may be of another part."""
    program = (framework.command or "").partition(" ")[0]
    texts = with_called_scripts(build or program, scripts_of(package))
    return any(program in text for text in texts) and (
        framework.is_application or has_client_router(framework, package)
    )


def _detect(
    tree: SourceTree,
    relative: str,
    package: dict[str, Any] | None,
    recognised: Recognised,
    choices: Choices,
    overrides: Overrides,
) -> Detection:
    framework = recognised.framework
    project = _read_project(tree, relative, framework, package, choices, overrides)
    reasons = [*choices.reasons, recognised.reason, *(project.reasons if project else ())]
    install_command = _install_command(tree, relative, project, choices, reasons)
    if framework.name == "hugo" and choices.install_command is None:
        place = project.install_directory if project else relative
        install_command = with_hugo_modules(tree, relative, place, install_command, reasons)
    script = recognised.script or build_script(framework, scripts_of(package or {}))
    command = build_command(tree, relative, framework, script, package, project)
    command = _chosen("Build command", "build_command", choices, command, reasons)
    text = scripts_of(package or {})[script] if script and command and choices.build_command is None else command
    outputs = _outputs(tree, relative, framework, package, text, choices, reasons)
    node_version = project.node_version if isinstance(project, NodeProject) else None
    if choices.node_version:
        node_version = choices.node_version
        reasons.append(f"Node version {node_version}: {choices.sources['node_version']}.")
    python_version = project.python_version if isinstance(project, PythonProject) else None
    if choices.python_version and not isinstance(project, NodeProject):
        python_version = choices.python_version
        reasons.append(f"Python version {python_version}: {choices.sources['python_version']}.")
    versions = history_versions(tree, project.install_directory) if isinstance(project, PythonProject) else {}
    if versions:
        names = ", ".join(versions)
        reasons.append(
            f"The project takes its version from git's history, which builds don't have: it is {VERSION} unless the"
            f" project's variables say otherwise ({names})."
        )
    is_application = choices.is_application
    if is_application is None and _is_application(framework, package or {}, text):
        is_application = True
    is_root_of_workspace = framework is catalogue.NODE and is_workspace_root(tree, relative)
    return Detection(
        framework=framework.name,
        package_manager=project.manager if project else None,
        root_directory=relative,
        install_directory=project.install_directory if project else relative,
        install_command=install_command,
        build_command=command,
        output_directories=outputs,
        lockfile=project.lockfile if project else None,
        runtime=_runtime(project),
        node_version=node_version,
        python_version=python_version,
        is_custom_install=choices.install_command is not None or bool(choices.extra_installs),
        reasons=tuple(reasons),
        committed_pages=_committed_pages(tree, relative, outputs),
        is_output_chosen=choices.output_directory is not None and not choices.is_hosts_output,
        candidates=tuple(candidate_directories(tree, relative)) if is_root_of_workspace else (),
        environment={**versions, **(choices.environment or {})},
        address_variables=choices.address_variables,
        is_application=is_application,
        is_application_named=choices.is_application is not None,
        routing=choices.routing,
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


def _chosen(label: str, name: str, choices: Choices, detected: str | None, reasons: list[str]) -> str | None:
    """The command that was chosen, with the reason, or else the detected one."""
    setting: str | None = getattr(choices, name)
    if setting is None:
        return detected
    command = setting.strip() or None
    reasons.append(f"{label} {command or '(none)'}: {choices.sources[name]}.")
    return command


def _install_command(
    tree: SourceTree,
    directory: str,
    project: NodeProject | PythonProject | None,
    choices: Choices,
    reasons: list[str],
) -> str | None:
    detected = project.install_command if project else None
    if choices.install_command is not None:
        return _chosen("Install command", "install_command", choices, detected, reasons)
    if choices.extra_installs:
        before = [detected] if detected and isinstance(project, NodeProject) else []
        command = " && ".join([*before, *choices.extra_installs])
        reasons.append(f"Install command {command}: {choices.sources['build_command']} begins with it.")
        return command
    flags = _install_flags(project, choices)
    if detected and flags:
        reasons.append(f"Install command {detected} {flags}: the configuration file's environment says so.")
        return f"{detected} {flags}"
    if isinstance(project, NodeProject) and tree.is_file(join(directory, "requirements.txt")):
        reasons.append(_unused_requirements(directory, detected))
    return detected


def _install_flags(project: NodeProject | PythonProject | None, choices: Choices) -> str:
    """Options for the package manager that Netlify takes from NPM_FLAGS and the like."""
    if not isinstance(project, NodeProject):
        return ""
    flags = (choices.environment or {}).get(f"{project.manager.upper()}_FLAGS", "")
    return " ".join(flag for flag in flags.split() if _FLAG.fullmatch(flag) and flag != "--version")


def _outputs(
    tree: SourceTree,
    directory: str,
    framework: Framework,
    package: dict[str, Any] | None,
    build: str | None,
    choices: Choices,
    reasons: list[str],
) -> tuple[str, ...]:
    detected = output_directories(tree, directory, framework, package, build)
    text = choices.output_directory
    if text is None:
        return detected
    chosen = text if choices.is_hosts_output else validate_path(text, "output directory")
    reasons.append(f"Output directory {chosen}: {choices.sources['output_directory']}.")
    if not choices.is_hosts_output or chosen == ".":
        return (chosen,)
    # Written for another host, whose builds may leave the site elsewhere.
    return tuple(dict.fromkeys((chosen, *detected)))[:MAXIMUM_OUTPUTS]


def _runtime(project: NodeProject | PythonProject | None) -> str:
    if project is None:
        return "none"
    return "node" if isinstance(project, NodeProject) else "python"


def _choose_framework(tree: SourceTree, directory: str, package: dict[str, Any] | None, choices: Choices) -> Recognised:
    if choices.framework:
        chosen = catalogue.BY_NAME.get(choices.framework)
        source = choices.sources["framework"]
        if chosen is None:
            raise StageFailure(
                FailureCode.CONFIGURATION_INVALID,
                f"The framework {choices.framework[:100]!r} of {source} is not known; use one of"
                f" {', '.join(sorted(catalogue.BY_NAME))}, or leave it unset.",
            )
        scripts = scripts_of(package or {})
        # For a project of its own kind, the script is what builds it.
        script = lone_site_script(scripts) if chosen is catalogue.NODE and "build" not in scripts else None
        return Recognised(chosen, f"Framework {chosen.label}: {source}.", script)
    return choose_framework(
        tree,
        directory,
        package,
        has_build_command=bool(choices.build_command),
        has_output_directory=bool(choices.output_directory),
    )


def _read_project(
    tree: SourceTree,
    directory: str,
    framework: Framework,
    package: dict[str, Any] | None,
    choices: Choices,
    overrides: Overrides,
) -> NodeProject | PythonProject | None:
    if framework.missing and (choices.build_command is None or _runs_missing(framework, choices)):
        raise StageFailure(
            FailureCode.CONFIGURATION_INVALID,
            f"This is a {framework.label} site, which needs {framework.missing}, and this platform has none yet."
            f" {framework.way_out}",
        )
    if framework.runtime == "python":
        return read_python_project(tree, directory, framework.packages, framework.files)
    if framework.runtime == "node" and package is None and choices.build_command is None:
        raise StageFailure(
            FailureCode.CONFIGURATION_INVALID,
            f"A {framework.label} project needs a package.json, and {join(directory, 'package.json')} doesn't exist."
            " Correct the root directory or the framework in the project's settings.",
        )
    if framework in (catalogue.STATIC, catalogue.DOCSIFY) and not choices.build_command:
        return None
    if package is not None:
        return read_node_project(tree, directory, package, _forced_manager(overrides))
    if has_python_project(tree, directory):
        return read_python_project(tree, directory, ())
    return None


def _runs_missing(framework: Framework, choices: Choices) -> bool:
    """Whether a command that was written for another host runs the program that is missing here."""
    program = (framework.command or "").partition(" ")[0]
    return choices.is_hosts_command and program in (choices.build_command or "").split()


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


def _committed_pages(tree: SourceTree, directory: str, outputs: tuple[str, ...]) -> tuple[str, ...]:
    """Near the top, as far as they are few; those of the output directories in any case."""
    found = [path for path in outputs if tree.is_file(join(directory, f"{path}/index.html"))]
    try:
        below = tree.find_below(directory)
    except StageFailure:
        # Too many directories to look through.
        below = []
    for path in below:
        place = PurePosixPath(path)
        if place.name == "index.html":
            relative = place.parent.relative_to(directory)
            if len(relative.parts) <= _PAGE_DEPTH and len(found) < _MAXIMUM_PAGES and storable(path) == path:
                found.append(relative.as_posix())
    return tuple(dict.fromkeys(found))


def _place(directory: str) -> str:
    return "the repository" if directory == "." else f"the directory {directory}"
