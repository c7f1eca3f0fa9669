"""Which paths of a repository the output of a project depends on. Reads the tree, runs nothing."""

from __future__ import annotations

from typing import Any

from shared.errors import StageFailure
from shared.text.storable import storable
from workers.frameworks.choices import CONFIGURATION_FILES
from workers.frameworks.detection import Detection
from workers.frameworks.install_inputs import runs_scripts, source_reader
from workers.frameworks.node_projects import LOCKFILES, dependencies_of
from workers.frameworks.outside_references import outside_references
from workers.frameworks.source_references import source_references
from workers.frameworks.source_tree import SourceTree, ancestors, join

# They become arguments of a command, of which a host takes only so many.
_MAXIMUM_PATHS_BYTES = 100_000
# In the directories above the project's.
SHARED_FILES = (
    *(name for names in LOCKFILES.values() for name in names),
    *("package.json", ".npmrc", ".yarnrc", ".yarnrc.yml", ".yarn", "bunfig.toml", "pnpm-workspace.yaml", "patches"),
    *(".pnpmfile.cjs", ".pnpmfile.mjs", "pnpmfile.cjs", "turbo.json", "tsconfig.json", "tsconfig.base.json"),
    *("uv.lock", "uv.toml", "poetry.lock", "poetry.toml", "Pipfile", "Pipfile.lock", "requirements.txt"),
    *("pyproject.toml", ".nvmrc", ".node-version", ".python-version", ".gitattributes", ".lfsconfig"),
    # Looked for upward by what makes styles and scripts.
    *(".browserslistrc", "browserslist", ".postcssrc", "babel.config.js", "babel.config.json", ".babelrc"),
    *(f".postcssrc.{kind}" for kind in ("json", "yaml", "yml", "js", "cjs", "mjs", "ts")),
    *(f"postcss.config.{kind}" for kind in ("js", "cjs", "mjs", "ts", "cts", "mts", "json")),
)


def watched_paths(tree: SourceTree, detection: Detection) -> list[str]:
    """What the output of a project depends on, as paths in the repository: `["."]` for all of it."""
    root = detection.root_directory
    if root == "." or _installs_more(tree, detection):
        return ["."]
    packages = _workspace_packages(tree, root)
    commands = [detection.install_command or "", detection.build_command or ""]
    outside = [path for package in packages for path in outside_references(tree, package, [])]
    outside += outside_references(tree, root, commands)
    outside += [path for package in (root, *packages) for path in source_references(tree, package)]
    if "." in outside:
        return ["."]
    shared = [join(above, name) for above in ancestors(root)[1:] for name in SHARED_FILES]
    # A file that names another root directory is above the one that it names.
    configuration = [join(above, name) for above in ancestors(root)[1:] for name in CONFIGURATION_FILES]
    paths = [root, *packages, *outside, *shared, *configuration]
    if detection.runtime == "python" and detection.lockfile:
        paths.append(detection.lockfile)
    return ["."] if _are_unfit(paths) else list(dict.fromkeys(paths))


def _are_unfit(paths: list[str]) -> bool:
    """Whether git can't be asked about them: too many, or with names that are no UTF-8, which no database takes."""
    size = sum(len(path.encode("utf-8", "replace")) + 20 for path in paths)
    return size > _MAXIMUM_PATHS_BYTES or any(storable(path) != path for path in paths)


def _installs_more(tree: SourceTree, detection: Detection) -> bool:
    """Whether the install, in a directory above the project's, may read any file there."""
    directory = detection.install_directory
    if detection.install_command is None or directory == detection.root_directory:
        return False
    if detection.runtime == "node":
        return runs_scripts(_read_package(tree, join(directory, "package.json")))
    return source_reader(tree, detection) is not None


def _workspace_packages(tree: SourceTree, root: str) -> list[str]:
    """Directories of the repository's own packages that the project depends on, directly or not."""
    by_name: dict[str, tuple[str, dict[str, Any]]] = {}
    for path in tree.find_all(".", "package.json"):
        package = _read_package(tree, path)
        name = package.get("name")
        if isinstance(name, str):
            by_name[name] = (ancestors(path)[1], package)
    found: dict[str, None] = {}
    waiting = [_read_package(tree, join(root, "package.json"))]
    while waiting:
        for name in dependencies_of(waiting.pop()):
            if name in by_name and by_name[name][0] not in found:
                directory, package = by_name[name]
                found[directory] = None
                waiting.append(package)
    return [directory for directory in found if directory != "."]


def _read_package(tree: SourceTree, path: str) -> dict[str, Any]:
    try:
        return tree.read_object(path) or {}
    except StageFailure:
        # Somebody else's broken file, in a fixture for instance.
        return {}
