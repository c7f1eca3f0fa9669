"""What package.json, lockfiles and version files say about a Node project."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

from shared.text.written import escaped
from workers.frameworks.source_tree import SourceTree, ancestors, join
from workers.frameworks.workspaces import has_member, is_apart_from_pnpm_workspace, is_workspace_root

# Where a directory has several, the first decides: other platforms choose in this order, too, and the lockfile that is
# there by mistake is mostly npm's.
LOCKFILES: dict[str, tuple[str, ...]] = {
    "yarn": ("yarn.lock",),
    "pnpm": ("pnpm-lock.yaml",),
    "npm": ("npm-shrinkwrap.json", "package-lock.json"),
    "bun": ("bun.lock", "bun.lockb"),
}
_INSTALLED_FIELDS = ("dependencies", "devDependencies", "optionalDependencies")
_DEPENDENCY_FIELDS = (*_INSTALLED_FIELDS, "peerDependencies")
# A variable of the project that chooses among npm, pnpm, yarn and bun.
FORCING_VARIABLE = "CLOUDIFY_PACKAGE_MANAGER"
_INSTALL_SCRIPTS = frozenset(
    [
        *("preinstall", "install", "postinstall", "preprepare", "prepare", "postprepare", "prepublish"),
        *("dependencies", "pnpm:devPreinstall"),
    ]
)
# Corepack appends a hash of the archive: pnpm@9.1.0+sha512.abc.
_PACKAGE_MANAGER = re.compile(r"\s*([a-z][a-z0-9-]{0,40})\s*(?:@\s*v?([^+]{0,100})|$)")


@dataclass(frozen=True, slots=True)
class NodeProject:
    """`install_command` is None when there is nothing to install. Paths are relative to the repository's root."""

    manager: str
    lockfile: str | None
    install_directory: str
    install_command: str | None
    node_version: str | None
    reasons: tuple[str, ...]


def dependencies_of(package: dict[str, Any]) -> dict[str, Any]:
    """Every direct dependency of whatever kind, by name."""
    return _merge(package, _DEPENDENCY_FIELDS)


def installed_dependencies_of(package: dict[str, Any]) -> dict[str, Any]:
    """Those of the package's own. What it names as a peer alone, it extends: a plugin of Vite is no Vite project."""
    return _merge(package, _INSTALLED_FIELDS)


def _merge(package: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for field in fields:
        merged |= as_mapping(package.get(field))
    return merged


def scripts_of(package: dict[str, Any]) -> dict[str, str]:
    scripts = as_mapping(package.get("scripts"))
    return {name: script for name, script in scripts.items() if isinstance(script, str) and script.strip()}


def install_scripts_of(package: dict[str, Any]) -> dict[str, str]:
    """The scripts that a package manager runs by itself while it installs."""
    return {name: script for name, script in scripts_of(package).items() if name in _INSTALL_SCRIPTS}


def as_mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def read_node_project(
    tree: SourceTree, directory: str, package: dict[str, Any], forced: str | None = None
) -> NodeProject:
    """Package manager: `packageManager` field, else `forced`, else the nearest lockfile upward, else npm."""
    declared, declared_version, where = declared_manager(tree, directory)
    chosen = declared or forced
    manager, lockfile = _nearest_lockfile(tree, directory, (chosen,) if chosen else tuple(LOCKFILES))
    manager = chosen or manager
    reasons: list[str] = []
    if declared:
        version = f"@{declared_version}" if declared_version else ""
        reasons.append(f"Package manager {declared}: {where} says {declared}{version}.")
    elif forced:
        reasons.append(f"Package manager {forced}: the variable {FORCING_VARIABLE} says so.")
    elif lockfile:
        reasons += [f"Package manager {manager}: found {lockfile}.", *_other_lockfiles(tree, lockfile, manager)]
    else:
        reasons.append("Package manager npm: no packageManager field and no lockfile.")
    install_directory = _parent(lockfile) if lockfile else _workspace_of(tree, directory)
    is_later_yarn = manager == "yarn" and is_berry(tree, install_directory, declared_version)
    node_version, version_reason = _node_version(tree, directory)
    if version_reason:
        reasons.append(version_reason)
    if install_directory == directory and not (
        _has_something_to_install(package) or is_workspace_root(tree, directory)
    ):
        reasons.append("Nothing to install: package.json names no dependencies.")
        return NodeProject(manager, lockfile, install_directory, None, node_version, tuple(reasons))
    if lockfile is None:
        missing = LOCKFILES[manager][-1] if manager == "npm" else LOCKFILES[manager][0]
        reasons.append(
            "There is no lockfile: versions are chosen whenever package.json changes, or for a clean deployment. Run"
            f" `{manager} install` and commit {missing} to pin them."
        )
    command = _install_command(manager, is_frozen=lockfile is not None, is_berry=is_later_yarn)
    if manager == "pnpm" and is_apart_from_pnpm_workspace(tree, install_directory):
        # It would install the workspace above instead.
        command += " --ignore-workspace"
    return NodeProject(manager, lockfile, install_directory, command, node_version, tuple(reasons))


def _parent(path: str) -> str:
    return ancestors(path)[1]


def has_turborepo(tree: SourceTree, workspace: str, directory: str) -> bool:
    """Whether the project is a member of a workspace that is built with Turborepo."""
    if workspace == directory or not tree.is_file(join(workspace, "turbo.json")):
        return False
    return "turbo" in dependencies_of(tree.read_object(join(workspace, "package.json")) or {})


def declared_manager(tree: SourceTree, directory: str) -> tuple[str | None, str, str]:
    """Name and version of the nearest packageManager or devEngines field upward that names a known one, and where.

    The version is what the field says, perhaps a range, or empty.
    """
    for above in ancestors(directory):
        path = join(above, "package.json")
        for name, version, field in _declarations(tree.read_object(path) or {}):
            if name in LOCKFILES:
                return name, version, f"{field} in {path}"
    return None, "", ""


def unknown_manager_notice(tree: SourceTree, directory: str, used: str) -> str | None:
    """A line for the log when a nearer field than the one that counts names a package manager that is not known."""
    for above in ancestors(directory):
        path = join(above, "package.json")
        for name, _, field in _declarations(tree.read_object(path) or {}):
            if name in LOCKFILES:
                return None
            known = ", ".join(LOCKFILES)
            return f"{field} in {path} asks for {name}, which is not one of {known}; {used} is used."
    return None


def _declarations(package: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, version or empty, and field: of packageManager, then of devEngines."""
    found: list[tuple[str, str, str]] = []
    declared = package.get("packageManager")
    if isinstance(declared, str) and declared.strip():
        match = _PACKAGE_MANAGER.match(declared)
        name, version = (match[1], match[2] or "") if match else (declared[:50], "")
        found.append((name, version, "packageManager"))
    name, version = _developed_with(package, "packageManager")
    if name:
        found.append((name[:50], version, "devEngines"))
    # They go into the log.
    return [(escaped(name), escaped(version.strip()), field) for name, version, field in found]


def _developed_with(package: dict[str, Any], what: str) -> tuple[str, str]:
    """Name and version of npm's `devEngines`, whose entries are one object or several; the first one counts."""
    entry = as_mapping(package.get("devEngines")).get(what)
    entry = as_mapping(cast("list[Any]", entry)[0] if isinstance(entry, list) and entry else entry)
    name, version = entry.get("name"), entry.get("version")
    return name if isinstance(name, str) else "", version.strip()[:100] if isinstance(version, str) else ""


def wanted_manager_version(tree: SourceTree, directory: str, manager: str) -> str:
    """The range of the nearest package.json upward that has one for the manager in its `engines`, else empty."""
    for above in ancestors(directory):
        wanted = as_mapping((tree.read_object(join(above, "package.json")) or {}).get("engines")).get(manager)
        if isinstance(wanted, str) and wanted.strip():
            return wanted.strip()[:100]
    return ""


def _other_lockfiles(tree: SourceTree, lockfile: str, manager: str) -> list[str]:
    directory = _parent(lockfile)
    names = [name for other, names in LOCKFILES.items() if other != manager for name in names]
    others = [join(directory, name) for name in names if tree.is_file(join(directory, name))]
    if not others:
        return []
    advice = f"name the package manager in package.json (packageManager) or in the variable {FORCING_VARIABLE}"
    return [f"There is also {', '.join(others)}, which is not used. Delete it, or {advice}."]


def _nearest_lockfile(tree: SourceTree, directory: str, managers: tuple[str, ...]) -> tuple[str, str | None]:
    for above in ancestors(directory):
        # A lockfile further up is this project's only where a workspace ties the two together.
        if above != directory and not has_member(tree, above, directory):
            continue
        for manager in managers:
            for name in LOCKFILES[manager]:
                if tree.is_file(join(above, name)):
                    return manager, join(above, name)
    return "npm", None


def _workspace_of(tree: SourceTree, directory: str) -> str:
    """Where the members of the project's workspace are installed together; the project itself where it is in none."""
    above = (above for above in ancestors(directory)[1:] if has_member(tree, above, directory))
    return next(above, directory)


def is_berry(tree: SourceTree, directory: str, declared_version: str) -> bool:
    """Whether the project is installed with a yarn from 2 on. `declared_version`: of `declared_manager`."""
    major = re.match(r"([\^~=>v\s]*)(\d{1,5})", declared_version)
    # `>=1` allows both, so that the project's files decide.
    if major and (int(major[2]) > 1 or ">" not in major[1]):
        return int(major[2]) > 1
    if tree.is_file(join(directory, ".yarnrc.yml")):
        return True
    return "__metadata:" in (tree.read(join(directory, "yarn.lock")) or b"")[:4096].decode(errors="replace")


def _has_something_to_install(package: dict[str, Any]) -> bool:
    return bool(dependencies_of(package) or package.get("workspaces") or install_scripts_of(package))


def _install_command(manager: str, *, is_frozen: bool, is_berry: bool) -> str:
    if not is_frozen:
        # Where CI is set, later versions of yarn refuse to write a lockfile unless they are told to.
        return "yarn install --no-immutable" if is_berry else f"{manager} install"
    if manager == "yarn":
        return "yarn install --immutable" if is_berry else "yarn install --frozen-lockfile"
    return {
        "npm": "npm ci",
        "pnpm": "pnpm install --frozen-lockfile",
        "bun": "bun install --frozen-lockfile",
    }[manager]


def _node_version(tree: SourceTree, directory: str) -> tuple[str | None, str | None]:
    for above in ancestors(directory):
        for name in (".nvmrc", ".node-version"):
            path = join(above, name)
            words = re.sub(r"#.*", "", tree.read_text(path) or "").split()
            if words:
                return words[0].removeprefix("v")[:100], f"Node version {words[0][:100]}: {path}."
        path = join(above, "package.json")
        package = tree.read_object(path) or {}
        wanted = as_mapping(package.get("engines")).get("node")
        if isinstance(wanted, str) and wanted.strip():
            return wanted.strip()[:100], f"Node version {wanted.strip()[:100]}: engines in {path}."
        name, version = _developed_with(package, "runtime")
        if name == "node" and version:
            return version, f"Node version {version}: devEngines in {path}."
    return None, None
