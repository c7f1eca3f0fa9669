"""Where in a repository a site may be, for the person who has to set the root directory."""

from __future__ import annotations

from pathlib import PurePosixPath

from shared.errors import StageFailure
from shared.text.storable import storable
from workers.frameworks import catalogue
from workers.frameworks.node_projects import installed_dependencies_of, scripts_of
from workers.frameworks.source_tree import SourceTree

_MAXIMUM_DEPTH = 3
_MAXIMUM_NAMED = 4
_MAXIMUM_READ = 200
_FRAMEWORK_PACKAGES = frozenset(name for framework in catalogue.FRAMEWORKS for name in framework.dependencies)
_FRAMEWORK_FILES = frozenset(
    name for framework in catalogue.FRAMEWORKS for name in framework.files if "/" not in name
) | {"index.html"}


def candidate_directories(tree: SourceTree, directory: str) -> list[str]:
    """At most four directories below `directory`, relative to the tree's root, each outside the others."""
    found: list[str] = []
    files = [PurePosixPath(path) for path in tree.find_below(directory)]
    files = [path for path in files if len(path.relative_to(directory).parts) in range(2, _MAXIMUM_DEPTH + 2)]
    known = [path for path in files if path.name in _FRAMEWORK_FILES or path.name == "package.json"]
    for path in sorted(known, key=lambda path: (len(path.parts), path.as_posix()))[:_MAXIMUM_READ]:
        parent = path.parent
        if not any(parent.is_relative_to(other) for other in found) and _is_project(tree, path):
            found.append(parent.as_posix())
    return [storable(name) for name in found[:_MAXIMUM_NAMED]]


def _is_project(tree: SourceTree, path: PurePosixPath) -> bool:
    if path.name != "package.json":
        return True
    try:
        package = tree.read_object(path.as_posix()) or {}
    except StageFailure:
        # A template of one, perhaps; this is only a search.
        return False
    return "build" in scripts_of(package) or not _FRAMEWORK_PACKAGES.isdisjoint(installed_dependencies_of(package))
