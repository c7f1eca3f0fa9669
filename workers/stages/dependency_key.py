"""What an install depends on: the components of the key of a dependency snapshot."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shlex
from collections.abc import Sequence
from typing import Any

from workers.frameworks.detection import Detection
from workers.frameworks.node_projects import as_mapping, install_scripts_of
from workers.frameworks.source_tree import SourceTree, ancestors, join
from workers.toolchain import Toolchain
from workers.tools import Tool

# The parts of package.json that an install reads; a change of another script or of the description is none.
_PACKAGE_PARTS = (
    *("name", "version", "workspaces", "engines", "os", "cpu", "bin", "packageManager", "overrides", "resolutions"),
    *("dependencies", "devDependencies", "optionalDependencies", "peerDependencies", "peerDependenciesMeta"),
    *("bundleDependencies", "bundledDependencies", "dependenciesMeta", "pnpm"),
    *("trustedDependencies", "patchedDependencies", "allowScripts"),
)
_NODE_CONFIGURATION = (
    *(".npmrc", ".yarnrc", ".yarnrc.yml", "bunfig.toml", ".nvmrc", ".node-version"),
    *("pnpm-workspace.yaml", ".pnpmfile.cjs", ".pnpmfile.mjs", "pnpmfile.cjs"),
)
_PYTHON_CONFIGURATION = ("pyproject.toml", "uv.toml", "pip.conf", ".python-version")
_PATCH_DIRECTORIES = ("patches", ".yarn/patches", ".yarn/releases", ".yarn/plugins")
_PLAIN_INSTALLERS = frozenset({"npm", "pnpm", "yarn", "bun", "uv", "pip", "pip3", "corepack", "poetry", "pipenv"})
_LOCAL_REQUIREMENT = re.compile(r"(?m)^\s*(?:-r|-c|-e|--requirement|--constraint|--editable|\.|/)|@\s*file:")
# Sets up git hooks, which means nothing here: so common that every commit would install anew because of it.
_HARMLESS_SCRIPT = re.compile(r"\s*(?:is-ci \|\| )?husky(?: install)?(?: \|\| true)?\s*")
_LOCAL_NODE_DEPENDENCY = ("file:", "link:", "portal:", "./", "../", "~/")


def dependency_components(
    tree: SourceTree, detection: Detection, toolchain: Toolchain, tools: Sequence[Tool] = ()
) -> dict[str, str]:
    """Name → version, digest or command. Two installs with equal components give the same dependencies.

    The source's digest is not among them; see `reads_source`.
    """
    directory = detection.install_directory
    components = {
        "lockfile": _digest_files(tree, [detection.lockfile] if detection.lockfile else []),
        "install_command": detection.install_command or "",
        "install_directory": directory,
        "platform": f"{platform.system().lower()}-{platform.machine()}",
    }
    if detection.runtime == "python":
        components |= {"python": toolchain.python_version, "uv": toolchain.uv_version}
        names = _PYTHON_CONFIGURATION
    else:
        manager = detection.package_manager or "npm"
        components |= {"node": toolchain.node_version, manager: toolchain.npm_version if manager == "npm" else ""}
        components["package.json"] = _digest_packages(tree, directory)
        names = _NODE_CONFIGURATION
    components |= {tool.name: tool.version for tool in tools}
    if toolchain.image:
        components["builder image"] = toolchain.image
    files = [join(above, name) for above in ancestors(directory) for name in names]
    patches = [path for name in _PATCH_DIRECTORIES for path in tree.find_below(join(directory, name))]
    components["configuration"] = _digest_files(tree, [*files, *patches])
    return {name: value for name, value in components.items() if value}


def reads_source(tree: SourceTree, detection: Detection) -> bool:
    """Whether the install may read any file of the repository, so that another commit may give other dependencies."""
    if detection.is_custom_install and not _is_plain_install(detection.install_command or ""):
        return True
    if detection.runtime == "python":
        return _python_reads_source(tree, detection)
    if detection.runtime != "node":
        return True
    for path in _package_files(tree, detection.install_directory):
        package = tree.read_object(path) or {}
        scripts = [script for script in install_scripts_of(package).values() if not _HARMLESS_SCRIPT.fullmatch(script)]
        if scripts or tree.is_file(join(ancestors(path)[1], "binding.gyp")):
            return True
        if any(_is_local(version) for version in _versions(package)):
            return True
    return False


def _python_reads_source(tree: SourceTree, detection: Detection) -> bool:
    if detection.lockfile and detection.lockfile.endswith(".txt"):
        return _LOCAL_REQUIREMENT.search(tree.read_text(detection.lockfile) or "") is not None
    text = tree.read_text(join(detection.install_directory, "pyproject.toml")) or ""
    return "[build-system]" in text or "[tool.uv.sources" in text or "[tool.uv.workspace" in text


def _is_plain_install(command: str) -> bool:
    """Only package managers that install: `npm ci --legacy-peer-deps`, not `node prepare.js` or `npm run setup`."""
    for part in command.split("&&"):
        words = shlex.split(part)
        if len(words) < 2 or words[0] not in _PLAIN_INSTALLERS or words[1] in ("run", "exec", "x", "dlx", "run-script"):
            return False
    return True


def _versions(package: dict[str, Any]) -> list[Any]:
    fields = ("dependencies", "devDependencies", "optionalDependencies")
    return [version for field in fields for version in as_mapping(package.get(field)).values()]


def _is_local(version: Any) -> bool:
    return isinstance(version, str) and version.startswith(_LOCAL_NODE_DEPENDENCY)


def _package_files(tree: SourceTree, directory: str) -> list[str]:
    """The package.json of a project, or all those of a workspace."""
    path = join(directory, "package.json")
    is_workspace = (tree.read_object(path) or {}).get("workspaces") or tree.is_file(
        join(directory, "pnpm-workspace.yaml")
    )
    return tree.find_all(directory, "package.json") if is_workspace else [path]


def _digest_packages(tree: SourceTree, directory: str) -> str:
    """Of every package.json below: members of a workspace are installed together."""
    digest = hashlib.sha256()
    for path in _package_files(tree, directory):
        package = tree.read_object(path) or {}
        parts = {name: package[name] for name in _PACKAGE_PARTS if name in package}
        parts["scripts"] = install_scripts_of(package)
        digest.update(json.dumps([path, parts], sort_keys=True).encode())
    return digest.hexdigest()


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
