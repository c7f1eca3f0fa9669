"""How an install is split: packages, which every commit with the same lockfile shares, and the project's own part.

Many projects have a script for installs (`postinstall`, `prepare`) or install themselves as a package. Such an install
reads any file of the commit, so that its result belongs to that commit alone. But the packages, which take nearly all
of its time, don't depend on those files.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from workers.frameworks.detection import Detection
from workers.frameworks.node_projects import declared_manager, install_scripts_of, is_berry
from workers.frameworks.source_tree import SourceTree, join

# What package managers run after everything is installed, in their order. Of `prepare`, the scripts before and after it
# run with it, as they do with `install`.
_LATER_SCRIPTS = ("install", "postinstall", "prepare")
_WITH_OTHERS = {"preprepare": "prepare", "postprepare": "prepare"}
# A project that switches scripts off gets none in the second part either: such an install isn't split.
_SWITCHES = re.compile(r"ignore-?scripts|enable-?scripts", re.IGNORECASE)
_CONFIGURATION = (".npmrc", ".yarnrc", ".yarnrc.yml", "bunfig.toml", "pnpm-workspace.yaml")
# With a package to add, managers run none of the project's scripts.
_INSTALL = re.compile(
    r"(?:corepack enable && )?(?:npm (?:ci|clean-install|install|i)|(?:pnpm|bun) (?:install|i)|yarn(?: install)?)"
    r"(?: -\S+)*"
)
_UV_SYNC = re.compile(r"uv sync\b(?!.*--no-install)")
_POETRY = re.compile(r"poetry (?:sync|install)\b(?!.*--(?:no-root|only-root))")


@dataclass(frozen=True, slots=True)
class InstallParts:
    """`packages` is the command that installs what the lockfile names, `own` the one that runs after it.

    `package` is the content of a package.json without the project's scripts, which the first command sees at
    `package_path`; empty where it sees the repository's own. `reason`: for the log, what the second command is for.
    """

    packages: str
    own: str
    package_path: str
    package: str
    reason: str


def split_python(detection: Detection) -> InstallParts | None:
    """For a lockfile that leaves only the project itself and its members to be built. None for other managers."""
    command = detection.install_command or ""
    if detection.package_manager == "uv" and _UV_SYNC.match(command):
        packages, own = f"{command} --no-install-local", command
    elif detection.package_manager == "poetry" and _POETRY.match(command):
        packages, own = f"{command} --no-root", "poetry install --only-root"
    else:
        return None
    if "&" in command or ";" in command:
        return None
    return InstallParts(packages, own, "", "", "the project is a package itself")


def split_node(tree: SourceTree, detection: Detection) -> InstallParts | None:
    """For a project whose own scripts are the only thing that reads its sources.

    None for scripts that run before the packages are there, or that a manager runs at another moment.
    """
    directory = detection.install_directory
    path = join(directory, "package.json")
    package = tree.read_object(path) or {}
    scripts = install_scripts_of(package)
    command = detection.install_command or ""
    settings = (tree.read_text(join(directory, name)) or "" for name in _CONFIGURATION)
    if not scripts or not _INSTALL.fullmatch(command) or any(_SWITCHES.search(text) for text in (command, *settings)):
        return None
    if any(_WITH_OTHERS.get(name, name) not in (*_LATER_SCRIPTS, "preinstall") for name in scripts):
        return None
    if any(needed not in scripts for name, needed in _WITH_OTHERS.items() if name in scripts):
        return None
    manager = detection.package_manager or "npm"
    later = _later_scripts(scripts)
    if manager == "yarn" and is_berry(tree, directory, declared_manager(tree, detection.root_directory)[1]):
        # It knows no `prepare`, and runs nothing before or after a script.
        later = [name for name in ("install", "postinstall") if name in scripts]
    remaining = {name: text for name, text in package["scripts"].items() if name not in scripts}
    if "preinstall" in scripts:
        # Known as harmless, or the install would not be split.
        remaining["preinstall"] = scripts["preinstall"]
    return InstallParts(
        packages=command,
        own=" && ".join(f"{manager} run {name}" for name in later),
        package_path=path,
        # As yarn formats it: later versions rewrite another form.
        package=json.dumps({**package, "scripts": remaining}, indent=2) + "\n",
        reason=f"{path} has scripts for installs ({', '.join(later)})",
    )


def _later_scripts(scripts: dict[str, str]) -> list[str]:
    """`install` runs `postinstall` after itself."""
    names = [name for name in _LATER_SCRIPTS if name in scripts]
    return [name for name in names if not (name == "postinstall" and "install" in scripts)]
