"""Where in a repository a site may be, for the person who has to set the root directory."""

from __future__ import annotations

from pathlib import PurePosixPath

from shared.errors import StageFailure
from shared.text.storable import storable
from workers.frameworks import catalogue
from workers.frameworks.node_projects import installed_dependencies_of, scripts_of
from workers.frameworks.source_tree import SourceTree, join

_MAXIMUM_DEPTH = 3
_MAXIMUM_NAMED = 4
_MAXIMUM_READ = 200
_FRAMEWORK_PACKAGES = frozenset(name for framework in catalogue.FRAMEWORKS for name in framework.dependencies)
_FRAMEWORK_FILES = frozenset(
    name for framework in catalogue.FRAMEWORKS for name in framework.files if "/" not in name
) | {"index.html"}
_PAGES = frozenset({"index.html"})
# A page alone says little elsewhere: it may be a test's, or a report.
_PAGE_DIRECTORIES = frozenset(
    [
        *("docs", "doc", "site", "website", "www", "web", "html", "dist", "build", "out", "public_html", "app", "src"),
        "frontend",
    ]
)
_NO_SITES = frozenset(
    ["test", "tests", "__tests__", "e2e", "fixtures", "examples", "example", "templates", "template", "benchmarks"]
)


def candidate_directories(tree: SourceTree, directory: str) -> list[str]:
    """At most four directories below `directory`, relative to the tree's root, each outside the others."""
    return [storable(name) for name in _found(tree, directory)[:_MAXIMUM_NAMED]]


def sole_site(tree: SourceTree, directory: str) -> str | None:
    """The only directory below `directory` that is a site for certain; None where there are several or none."""
    found = [path for path in _found(tree, directory) if _NO_SITES.isdisjoint(PurePosixPath(path).parts)]
    if len(found) != 1 or storable(found[0]) != found[0]:
        return None
    is_built = any(tree.is_file(join(found[0], name)) for name in ("package.json", *_FRAMEWORK_FILES - _PAGES))
    return found[0] if is_built or PurePosixPath(found[0]).name in _PAGE_DIRECTORIES else None


def _found(tree: SourceTree, directory: str) -> list[str]:
    found: list[str] = []
    files = [PurePosixPath(path) for path in tree.find_below(directory)]
    files = [path for path in files if len(path.relative_to(directory).parts) in range(2, _MAXIMUM_DEPTH + 2)]
    known = [path for path in files if path.name in _FRAMEWORK_FILES or path.name == "package.json"]
    for path in sorted(known, key=lambda path: (len(path.parts), path.as_posix()))[:_MAXIMUM_READ]:
        parent = path.parent
        if not any(parent.is_relative_to(other) for other in found) and _is_project(tree, path):
            found.append(parent.as_posix())
    return found


def _is_project(tree: SourceTree, path: PurePosixPath) -> bool:
    if path.name != "package.json":
        return True
    try:
        package = tree.read_object(path.as_posix()) or {}
    except StageFailure:
        # A template of one, perhaps; this is only a search.
        return False
    return "build" in scripts_of(package) or not _FRAMEWORK_PACKAGES.isdisjoint(installed_dependencies_of(package))
