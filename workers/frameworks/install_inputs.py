"""What an install depends on in a repository, read from its tree."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from shared.errors import StageFailure
from workers.frameworks.detection import Detection
from workers.frameworks.install_parts import InstallParts, split_node, split_python
from workers.frameworks.local_dependencies import (
    is_plain_install,
    node_configuration_reads_files,
    package_reads_files,
    python_configuration_reads_files,
    python_lock_reads_files,
    python_project_reads_files,
    requirements_read_files,
    uv_lock_names_local_index,
    uv_settings_read_files,
)
from workers.frameworks.node_projects import LOCKFILES, install_scripts_of
from workers.frameworks.source_tree import SourceTree, ancestors, join
from workers.frameworks.workspaces import installed_with, is_workspace_root

# The parts of package.json that an install reads; a change of another script or of the description is none.
_PACKAGE_PARTS = (
    *("name", "version", "workspaces", "engines", "os", "cpu", "bin", "packageManager", "overrides", "resolutions"),
    *("dependencies", "devDependencies", "optionalDependencies", "peerDependencies", "peerDependenciesMeta"),
    *("bundleDependencies", "bundledDependencies", "dependenciesMeta", "pnpm"),
    *("trustedDependencies", "patchedDependencies", "allowScripts", "catalog", "catalogs", "devEngines", "libc"),
    *("directories", "installConfig", "publishConfig", "config"),
)
_NODE_CONFIGURATION = (
    *(".npmrc", ".yarnrc", ".yarnrc.yml", "bunfig.toml", ".nvmrc", ".node-version"),
    *("pnpm-workspace.yaml", ".pnpmfile.cjs", ".pnpmfile.mjs", "pnpmfile.cjs"),
)
_PYTHON_CONFIGURATION = ("pyproject.toml", "uv.toml", "poetry.toml", "Pipfile", "pip.conf", ".python-version")
_PATCH_DIRECTORIES = ("patches", ".yarn/patches", ".yarn/releases", ".yarn/plugins")
# Sets up git hooks, or refuses other package managers, or applies what lies in `patches`, which the key names: so
# common that every commit would install again because of it.
_HARMLESS_PART = re.compile(
    r"\s*(?:true|is-ci|(?:npx (?:-y |--yes )?|yarn (?:run )?|pnpm (?:exec )?|bunx )?"
    r"(?:husky(?: install)?|simple-git-hooks|lefthook install|only-allow \w+"
    r"|patch-package(?: --error-on-(?:fail|warn))*))\s*"
)
# What the install writes. Where the repository has some, it may find its work done, or leave what is there.
_WRITTEN = ("node_modules", ".yarn/cache", ".yarn/unplugged")


@dataclass(frozen=True, slots=True)
class DependencyFiles:
    """What an install depends on in the repository: digests of what it reads, empty where there is none.

    `reader`: what, in words, may read any other file of it while the install runs; None where nothing does. `parts`:
    how the install is split so that only its second part does; None where it can't be, or needn't.
    """

    lockfile: str
    packages: str
    configuration: str
    reader: str | None
    parts: InstallParts | None = None


def read_dependency_files(tree: SourceTree, detection: Detection) -> DependencyFiles:
    """Raises StageFailure for a repository too large to be looked through."""
    directory = detection.install_directory
    is_node = detection.runtime == "node"
    names = _PYTHON_CONFIGURATION if detection.runtime == "python" else _NODE_CONFIGURATION
    files = [join(above, name) for above in ancestors(directory) for name in names]
    packages = _package_files(tree, directory) if is_node else []
    places = dict.fromkeys((directory, installed_with(tree, directory), *(ancestors(path)[1] for path in packages)))
    patches = [path for at in places for name in _PATCH_DIRECTORIES for path in tree.find_below(join(at, name))]
    reader = source_reader(tree, detection)
    return DependencyFiles(
        lockfile=_digest_files(tree, _lockfiles(tree, detection)),
        packages="" if detection.runtime == "python" else _digest_packages(tree, directory),
        configuration=_digest_files(tree, [*files, *patches]),
        reader=reader,
        parts=None if reader is None else _install_parts(tree, detection),
    )


def source_reader(tree: SourceTree, detection: Detection) -> str | None:
    """What, in words, may read any file of the repository while the install runs; None where nothing does.

    Then another commit may give other dependencies.
    """
    reader = _general_reader(tree, detection)
    if reader is not None:
        return reader
    if detection.runtime == "python":
        return _python_source_reader(tree, detection)
    return _node_source_reader(tree, detection.install_directory) if detection.runtime == "node" else "the install"


def _general_reader(tree: SourceTree, detection: Detection) -> str | None:
    requirements = _requirements_name(detection)
    if detection.is_custom_install and not is_plain_install(
        detection.install_command or "", detection.package_manager, requirements
    ):
        return "the install command of the project's settings"
    # Either kind of project may use the environment at the root.
    return "the committed .venv" if tree.is_directory(".venv") else None


def _install_parts(tree: SourceTree, detection: Detection) -> InstallParts | None:
    """None where more than the project's own part reads its files."""
    if _general_reader(tree, detection) is not None:
        return None
    if detection.runtime == "python":
        return split_python(detection) if _python_packages_reader(tree, detection) is None else None
    if detection.runtime != "node":
        return None
    place = detection.install_directory
    if _node_source_reader(tree, place, split=join(place, "package.json")) is not None:
        return None
    return split_node(tree, detection)


def runs_scripts(package: dict[str, Any]) -> bool:
    """Whether an install runs scripts of this package.json that may read any file."""
    parts = (part for script in install_scripts_of(package).values() for part in re.split(r"&&|\|\||;", script))
    return not all(_HARMLESS_PART.fullmatch(part) for part in parts)


def _requirements_name(detection: Detection) -> str | None:
    lockfile = detection.lockfile or ""
    if detection.runtime != "python" or not lockfile.endswith(".txt"):
        return None
    directory = detection.install_directory
    return lockfile if directory == "." else lockfile.removeprefix(f"{directory}/")


def _python_source_reader(tree: SourceTree, detection: Detection) -> str | None:
    directory = detection.install_directory
    requirements = _requirements_name(detection)
    if not is_plain_install(detection.install_command or "true", detection.package_manager, requirements):
        return "the project itself, or a file that the install command names"
    for above in ancestors(directory):
        for name in ("uv.toml", "poetry.toml"):
            if python_configuration_reads_files(tree.read_text(join(above, name)) or ""):
                return join(above, name)
    pipfile, project = join(directory, "Pipfile"), join(directory, "pyproject.toml")
    if python_lock_reads_files("Pipfile", tree.read_text(pipfile) or ""):
        return pipfile
    text = (tree.read_lockfile(detection.lockfile) if detection.lockfile else None) or ""
    settings = tree.read_text(project) or ""
    if requirements is not None:
        if requirements_read_files(text):
            return detection.lockfile
        return project if uv_settings_read_files(settings) else None
    name = (detection.lockfile or "").rpartition("/")[2]
    if name and python_lock_reads_files(name, text):
        return detection.lockfile
    return project if python_project_reads_files(settings) else None


def _python_packages_reader(tree: SourceTree, detection: Detection) -> str | None:
    """What reads files while everything is installed but the project itself and what is next to it."""
    directory = detection.install_directory
    for above in ancestors(directory):
        for name in ("uv.toml", "poetry.toml"):
            if python_configuration_reads_files(tree.read_text(join(above, name)) or ""):
                return join(above, name)
    text = (tree.read_lockfile(detection.lockfile) if detection.lockfile else None) or ""
    project = join(directory, "pyproject.toml")
    match (detection.lockfile or "").rpartition("/")[2]:
        case "uv.lock":
            is_read = uv_lock_names_local_index(text) or uv_settings_read_files(tree.read_text(project) or "")
        case "poetry.lock":
            is_read = python_lock_reads_files("poetry.lock", text)
        case _:
            is_read = True
    return project if is_read else None


def _node_source_reader(tree: SourceTree, directory: str, *, split: str | None = None) -> str | None:
    """`split`: a package.json whose later scripts don't count."""
    for above in ancestors(directory):
        for name in _NODE_CONFIGURATION:
            text = tree.read_text(join(above, name))
            if text is not None and node_configuration_reads_files(name, text):
                return join(above, name)
    for name in _WRITTEN:
        if tree.is_directory(join(directory, name)):
            return f"the committed {join(directory, name)}"
    for path in _package_files(tree, directory):
        package, place = _read_package(tree, path), ancestors(path)[1]
        scripts = install_scripts_of(package)
        if path == split:
            scripts = {name: text for name, text in scripts.items() if name == "preinstall"}
        if runs_scripts({"scripts": scripts}):
            return f"a script that {path} has for installs"
        if package_reads_files(package):
            return f"a dependency or patch that {path} names"
        for name in ("binding.gyp", "node_modules"):
            if tree.is_file(join(place, name)) or tree.is_directory(join(place, name)):
                return f"the committed {join(place, name)}"
    return None


def _lockfiles(tree: SourceTree, detection: Detection) -> list[str]:
    """The detected one; for a member of a workspace, those above too: package managers read the workspace's."""
    found = [detection.lockfile] if detection.lockfile else []
    if detection.runtime != "node":
        return found
    root, places = installed_with(tree, detection.install_directory), ancestors(detection.install_directory)
    if root != detection.install_directory:
        places = places[: places.index(root) + 1]
        found += [join(place, name) for place in places for names in LOCKFILES.values() for name in names]
    if detection.package_manager == "pnpm" and is_workspace_root(tree, root):
        # Each member may have one of its own (shared-workspace-lockfile=false).
        found += tree.find_all(root, "pnpm-lock.yaml")
    return list(dict.fromkeys(found))


def _package_files(tree: SourceTree, directory: str) -> list[str]:
    """The package.json of a project, or all those of a workspace."""
    root = installed_with(tree, directory)
    return tree.find_all(root, "package.json") if is_workspace_root(tree, root) else [join(root, "package.json")]


def _digest_packages(tree: SourceTree, directory: str) -> str:
    """Of every package.json below: members of a workspace are installed together."""
    digest = hashlib.sha256()
    for path in _package_files(tree, directory):
        package = _read_package(tree, path)
        parts = {name: package[name] for name in _PACKAGE_PARTS if name in package}
        parts["scripts"] = install_scripts_of(package)
        digest.update(json.dumps([path, parts], sort_keys=True).encode())
    return digest.hexdigest()


def _read_package(tree: SourceTree, path: str) -> dict[str, Any]:
    try:
        return tree.read_object(path) or {}
    except StageFailure:
        # Somebody's broken fixture below a workspace; an install that needs it says so itself.
        return {}


def _digest_files(tree: SourceTree, paths: list[str]) -> str:
    """Empty when none of the files exists."""
    digest = hashlib.sha256()
    is_empty = True
    for path in paths:
        content = tree.read(path)
        if content is not None:
            is_empty = False
            digest.update(json.dumps([path, hashlib.sha256(content).hexdigest()]).encode())
    return "" if is_empty else digest.hexdigest()
