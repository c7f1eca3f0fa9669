"""What requirements files, lockfiles and version files say about a Python project."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import partial
from typing import Any

from shared.errors import FailureCode, StageFailure
from shared.projects.commands import find_command_problem
from shared.text.written import escaped
from workers.frameworks.documentation_environments import (
    SITE_GROUPS,
    documentation_environment,
)
from workers.frameworks.node_projects import as_mapping
from workers.frameworks.own_package import installs_project, is_package, names_itself, needed_package
from workers.frameworks.source_tree import SourceTree, ancestors, join, storable_value

# Groups and extras that uv and poetry leave out unless they are named, and that a site is built with.
_SITE_GROUPS = (*SITE_GROUPS, "sphinx", "mkdocs")
_DOCUMENTATION_REQUIREMENTS = (
    *("docs/requirements.txt", "doc/requirements.txt", "docs/source/requirements.txt", "requirements-docs.txt"),
    *("requirements/docs.txt", "docs-requirements.txt", "requirements_docs.txt", "requirements-doc.txt"),
    # A lockfile of hatch-pip-compile.
    "requirements/requirements-docs.txt",
)
_REQUIREMENTS = ("requirements.txt", *_DOCUMENTATION_REQUIREMENTS)


@dataclass(frozen=True, slots=True)
class PythonProject:
    """`install_command` is None when there is nothing to install. Paths are relative to the repository's root."""

    manager: str
    lockfile: str | None
    install_directory: str
    install_command: str | None
    python_version: str | None
    reasons: tuple[str, ...]


def has_python_project(tree: SourceTree, directory: str) -> bool:
    names = ("requirements.txt", "uv.lock", "poetry.lock", "Pipfile.lock", "pyproject.toml", "Pipfile")
    return any(tree.is_file(join(directory, name)) for name in names)


def read_python_project(
    tree: SourceTree, directory: str, packages: tuple[str, ...], configurations: tuple[str, ...] = ()
) -> PythonProject:
    """`packages` are the generator that builds the site, which is installed where the project doesn't name it;
    `configurations` are its files, relative to the directory.

    Looked for in each directory up to the root: uv.lock, requirements files, poetry.lock, Pipfile.lock,
    pyproject.toml, Pipfile. Requirements of the documentation come before all others, except a group of that name.
    """
    version, version_reason = _python_version(tree, directory)
    reasons = [version_reason] if version_reason else []
    files = tuple(join(directory, name) for name in configurations)
    for above in ancestors(directory):
        found = _of_documentation(tree, above) if packages else _in_directory(tree, above)
        if found is not None:
            manager, lockfile, command, reason = found
            missing = _unnamed(tree, above, lockfile, packages, command)
            if missing:
                quoted = " ".join(f"'{package}'" for package in missing)
                command = f"{command} {quoted}" if manager == "pip" else f"{command} && uv pip install {quoted}"
                reasons.append(f"{', '.join(missing)} is installed as well: nothing of the project names it.")
            if manager == "pip":
                command = _with_project(tree, above, lockfile, files, command, reasons)
            return PythonProject(manager, lockfile, above, command, version, (*reasons, reason))
    if not packages:
        return PythonProject("uv", None, directory, None, version, tuple(reasons))
    quoted = " ".join(f"'{package}'" for package in packages)
    command = _with_project(tree, directory, None, files, f"uv pip install {quoted}", reasons)
    reasons.append(
        f"There is no requirements.txt: {', '.join(packages)} is installed in its newest version. Add one to pin it."
    )
    return PythonProject("uv", None, directory, command, version, tuple(reasons))


def _with_project(
    tree: SourceTree, directory: str, lockfile: str | None, files: tuple[str, ...], command: str, reasons: list[str]
) -> str:
    """The command that installs the project itself as well, where the generator's `files` need it."""
    project = _read_toml(tree, join(directory, "pyproject.toml"))
    needed = needed_package(tree, directory, project, files)
    is_installed = lockfile is not None and names_itself(tree.read_lockfile(lockfile) or "")
    if needed is None or is_installed or installs_project(command):
        return command
    reasons.append("The project itself is installed as well: the site's configuration uses it.")
    # On its own: the requirements may pin another version of it.
    return f"{command} && uv pip install {needed}"


def _of_documentation(tree: SourceTree, directory: str) -> tuple[str, str | None, str, str] | None:
    """As `_in_directory`."""
    requirements = _documentation_requirements(tree, directory)
    if requirements is not None:
        return requirements
    found = _in_directory(tree, directory)
    project = _read_toml(tree, join(directory, "pyproject.toml"))
    if _uv_options(project) or _poetry_options(project):
        return found
    environment = documentation_environment(tree, directory, partial(_read_other_toml, tree))
    if environment is None:
        return found
    manager, lockfile, command, reason = found or ("uv", None, "", "")
    extras = ",".join(environment.extras)
    own = (
        (f"'.[{extras}]'" if extras else ".")
        if environment.has_project and is_package(tree, directory, project)
        else ""
    )
    groups = " ".join(f"--group {name}" for name in environment.groups)
    arguments = " ".join(part for part in (own, groups, *environment.arguments) if part)
    if not arguments:
        return found
    if manager == "pip":
        command = f"{command} {arguments}"
    elif lockfile is None and manager == "uv":
        command = f"uv pip install {arguments}"
    else:
        command = f"{command} && uv pip install {arguments}"
    if find_command_problem(command) is not None:
        return found
    reason = f"{reason} {environment.where}, names packages of the documentation.".strip()
    return manager, lockfile, command, reason


def _documentation_requirements(tree: SourceTree, directory: str) -> tuple[str, str | None, str, str] | None:
    """As `_in_directory`."""
    project = _read_toml(tree, join(directory, "pyproject.toml"))
    if _uv_options(project) or _poetry_options(project):
        return None
    for name in _DOCUMENTATION_REQUIREMENTS:
        text = tree.read_lockfile(join(directory, name))
        if text is not None and _names_packages(text):
            return _of_requirements(join(directory, name), name, text)
    return None


def _of_requirements(path: str, name: str, text: str) -> tuple[str, str | None, str, str]:
    hashes = " --require-hashes" if "--hash=" in text else ""
    reason = f"Python packages from {path}{' with their hashes checked' if hashes else ''}."
    return "pip", path, f"uv pip install{hashes} -r {name}", reason


def _names_packages(text: str) -> bool:
    return re.search(r"(?m)^\s{0,9}[A-Za-z0-9.-]", text) is not None


def _unnamed(
    tree: SourceTree, directory: str, lockfile: str | None, packages: tuple[str, ...], command: str
) -> list[str]:
    """Those of `packages` that neither the install command nor the lockfile nor the project's own files name, even as
    part of another's name: a theme of a generator brings it along.
    """
    if command.startswith("pipenv") or "--require-hashes" in command:
        return []
    files = [path for path in (lockfile, join(directory, "pyproject.toml"), join(directory, "Pipfile")) if path]
    texts = [text for path in files if (text := tree.read_lockfile(path)) is not None]
    has_lockfile = lockfile is not None and bool((tree.read_lockfile(lockfile) or "").strip())
    project = _read_toml(tree, join(directory, "pyproject.toml"))
    if not has_lockfile and (lockfile is not None or not texts or _uv_options(project) or _poetry_options(project)):
        return []
    # Another file may name it.
    if any(re.search(r"(?m)^\s{0,9}(?:-r|-c|-e|--requirement|\.)", text) for text in texts):
        return []
    named = "\n".join((command, *texts)).lower()
    return [package for package in packages if re.split(r"[<>=\[]", package.lower())[0] not in named]


def _in_directory(tree: SourceTree, directory: str) -> tuple[str, str | None, str, str] | None:
    """Manager, lockfile, install command, and the reason."""
    path = join(directory, "pyproject.toml")
    if tree.is_file(join(directory, "uv.lock")):
        command = f"uv sync --locked{_uv_options(_read_toml(tree, path))}"
        return "uv", join(directory, "uv.lock"), command, f"Package manager uv: found {join(directory, 'uv.lock')}."
    for name in _REQUIREMENTS:
        text = tree.read_lockfile(join(directory, name))
        if text is not None:
            return _of_requirements(join(directory, name), name, text)
    for manager, name in (("poetry", "poetry.lock"), ("pipenv", "Pipfile.lock")):
        if tree.is_file(join(directory, name)):
            options = (
                _poetry_options(_read_toml(tree, path)) if manager == "poetry" else _pipenv_options(tree, directory)
            )
            reason = f"Package manager {manager}: found {join(directory, name)}."
            return manager, join(directory, name), f"{manager} sync{options}", reason
    project = _read_toml(tree, path)
    options = _uv_options(project)
    if as_mapping(project.get("project")).get("dependencies") or project.get("dependency-groups") or options:
        reason = f"Python packages from {path}. There is no lockfile: commit uv.lock to pin them."
        return "uv", None, f"uv sync{options}", reason
    if as_mapping(as_mapping(project.get("tool")).get("poetry")).get("dependencies"):
        reason = f"Python packages from {path}. There is no lockfile: commit poetry.lock to pin them."
        return "poetry", None, f"poetry install{_poetry_options(project)}", reason
    if tree.is_file(join(directory, "Pipfile")):
        reason = (
            f"Python packages from {join(directory, 'Pipfile')}. There is no lockfile: commit Pipfile.lock to pin them."
        )
        return "pipenv", None, "pipenv install --dev", reason
    return None


def _uv_options(project: dict[str, Any]) -> str:
    extras = as_mapping(as_mapping(project.get("project")).get("optional-dependencies"))
    groups = as_mapping(project.get("dependency-groups"))
    found = [f" --group {name}" for name in _SITE_GROUPS if name in groups]
    return "".join([*found, *(f" --extra {name}" for name in _SITE_GROUPS if name in extras)])


def _poetry_options(project: dict[str, Any]) -> str:
    """Groups are installed unless they are optional; extras never are."""
    poetry = as_mapping(as_mapping(project.get("tool")).get("poetry"))
    groups = as_mapping(poetry.get("group"))
    extras = as_mapping(as_mapping(project.get("project")).get("optional-dependencies")) | as_mapping(
        poetry.get("extras")
    )
    found = [f" --with {name}" for name in _SITE_GROUPS if as_mapping(groups.get(name)).get("optional") is True]
    return "".join([*found, *(f" --extras {name}" for name in _SITE_GROUPS if name in extras)])


def _pipenv_options(tree: SourceTree, directory: str) -> str:
    """With what development needs, as the other managers install it."""
    lock = tree.read(join(directory, "Pipfile.lock")) or b""
    return " --dev" if re.search(rb'"develop"\s*:\s*\{\s*"', lock) else ""


def _read_toml(tree: SourceTree, path: str) -> dict[str, Any]:
    text = tree.read_text(path)
    if text is None:
        return {}
    try:
        # TOML, too, can spell a NUL without holding one.
        return storable_value(tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        raise StageFailure(
            FailureCode.CONFIGURATION_INVALID, f"{path} is not valid TOML: {error}. Correct the file and push again."
        ) from error


def _python_version(tree: SourceTree, directory: str) -> tuple[str | None, str | None]:
    for above in ancestors(directory):
        path = join(above, ".python-version")
        lines = (line.partition("#")[0].split() for line in (tree.read_text(path) or "").splitlines())
        words = next((words for words in lines if words), None)
        if words:
            return words[0][:100], f"Python version {words[0][:100]}: {path}."
        match = re.match(
            r"\s{0,9}(?:python-)?(\d[\d.]{0,20})\s", f"{tree.read_text(join(above, 'runtime.txt')) or ''}\n"
        )
        if match:
            return match[1], f"Python version {match[1]}: {join(above, 'runtime.txt')}."
        path = join(above, "pyproject.toml")
        project = _read_toml(tree, path)
        for wanted, name in (
            (_group_python(project), "requires-python and tool.uv.dependency-groups"),
            (as_mapping(project.get("project")).get("requires-python"), "requires-python"),
            (_poetry_python(project), "tool.poetry.dependencies"),
        ):
            if isinstance(wanted, str) and wanted.strip():
                return wanted.strip()[:100], f"Python version {escaped(wanted.strip()[:100])}: {name} in {path}."
    return None, None


def _read_other_toml(tree: SourceTree, path: str) -> dict[str, Any]:
    """As `_read_toml`; what a site may be built without is no reason to refuse it."""
    try:
        return _read_toml(tree, path)
    except StageFailure:
        return {}


def _group_python(project: dict[str, Any]) -> str | None:
    """What the documentation's group asks for together with the project."""
    groups = as_mapping(as_mapping(as_mapping(project.get("tool")).get("uv")).get("dependency-groups"))
    wanted = [as_mapping(groups.get(name)).get("requires-python") for name in _SITE_GROUPS if name in groups]
    if not any(wanted):
        return None
    return ", ".join(str(each) for each in (*wanted, as_mapping(project.get("project")).get("requires-python")) if each)


def _poetry_python(project: dict[str, Any]) -> Any:
    poetry = as_mapping(as_mapping(project.get("tool")).get("poetry"))
    return as_mapping(poetry.get("dependencies")).get("python")
