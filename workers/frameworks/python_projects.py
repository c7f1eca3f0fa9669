"""What requirements files, lockfiles and version files say about a Python project."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any

from shared.errors import FailureCode, StageFailure
from workers.frameworks.node_projects import as_mapping
from workers.frameworks.source_tree import SourceTree, ancestors, join, storable_value

# Groups and extras that uv and poetry leave out unless they are named, and that a site is built with.
_SITE_GROUPS = ("docs", "doc", "documentation", "site", "website")
_REQUIREMENTS = ("requirements.txt", "docs/requirements.txt", "requirements-docs.txt", "requirements/docs.txt")


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


def read_python_project(tree: SourceTree, directory: str, packages: tuple[str, ...]) -> PythonProject:
    """`packages` are installed when the project itself names nothing.

    Looked for in each directory up to the root: uv.lock, requirements files, poetry.lock, Pipfile.lock,
    pyproject.toml, Pipfile.
    """
    version, version_reason = _python_version(tree, directory)
    reasons = (version_reason,) if version_reason else ()
    for above in ancestors(directory):
        found = _in_directory(tree, above)
        if found is not None:
            manager, lockfile, command, reason = found
            return PythonProject(manager, lockfile, above, command, version, (*reasons, reason))
    if not packages:
        return PythonProject("uv", None, directory, None, version, reasons)
    quoted = " ".join(f"'{package}'" for package in packages)
    reason = (
        f"There is no requirements.txt: {', '.join(packages)} is installed in its newest version. Add one to pin it."
    )
    return PythonProject("uv", None, directory, f"uv pip install {quoted}", version, (*reasons, reason))


def _in_directory(tree: SourceTree, directory: str) -> tuple[str, str | None, str, str] | None:
    """Manager, lockfile, install command, and the reason."""
    path = join(directory, "pyproject.toml")
    if tree.is_file(join(directory, "uv.lock")):
        command = f"uv sync --locked{_uv_options(_read_toml(tree, path))}"
        return "uv", join(directory, "uv.lock"), command, f"Package manager uv: found {join(directory, 'uv.lock')}."
    for name in _REQUIREMENTS:
        text = tree.read_lockfile(join(directory, name))
        if text is not None:
            hashes = " --require-hashes" if "--hash=" in text else ""
            return (
                "pip",
                join(directory, name),
                f"uv pip install{hashes} -r {name}",
                f"Python packages from {join(directory, name)}{' with their hashes checked' if hashes else ''}.",
            )
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
        path = join(above, "pyproject.toml")
        wanted = as_mapping(_read_toml(tree, path).get("project")).get("requires-python")
        if isinstance(wanted, str) and wanted.strip():
            return wanted.strip()[:100], f"Python version {wanted.strip()[:100]}: requires-python in {path}."
    return None, None
