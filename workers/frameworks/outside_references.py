"""Finds the paths outside of a project's directory that its configuration refers to. Reads the tree, runs nothing.

For the question whether a commit that leaves the directory alone can be ignored: what is found here counts as the
project's. Only the files directly in the directory are read, and those that they lead to: of them, every `..` counts,
as their paths are often put together. What lies deeper is for `source_references`.
"""

from __future__ import annotations

import posixpath
import re

from shared.errors import StageFailure
from workers.frameworks.source_tree import SourceTree, ancestors, join

_CONFIGURATION = re.compile(
    r".*\.(?:json|[cm]?[jt]s|toml|ya?ml|py|txt|cfg|ini|sh)|Makefile|Pipfile", re.IGNORECASE | re.DOTALL
)
# Large, written by programs, and about nothing but packages.
_NOT_READ = re.compile(r"(?:package-lock|npm-shrinkwrap|pnpm-lock|bun|yarn)\.\w+")
_RELATIVE = re.compile(r"(?<![\w.])(?:\.\./)+[\w@.+/-]*|(?<![\w./])\.\.(?![\w./])")
_TYPESCRIPT = re.compile(r"[tj]sconfig[\w.-]*\.json")
_MAXIMUM_FILES = 200
_MAXIMUM_PATHS = 100
# Inside the directory or outside of it.
_MAXIMUM_TARGETS = 10_000


def outside_references(tree: SourceTree, root: str, commands: list[str]) -> list[str]:
    """Paths in the repository, existing or not, outside of the directory `root`; `["."]` where nobody can tell.

    `commands` are run in `root`.
    """
    if any(tree.is_file(join(above, "nx.json")) for above in ancestors(root)[1:]):
        # Which packages of such a workspace a project uses is known to Nx alone.
        return ["."]
    found = dict.fromkeys(tree.find_targets_of_links(root))
    for command in commands:
        found |= dict.fromkeys(_paths_in(command, root))
    waiting = [name for name in tree.files_in(root) if _is_configuration(name)]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        for target in _paths_of_file(tree, path):
            if target not in found and not _is_inside(target, root):
                found[target] = None
            if target not in seen and _is_configuration(target) and tree.is_file(target):
                seen.add(target)
                waiting.append(target)
            if len(found) > _MAXIMUM_TARGETS or len(seen) > _MAXIMUM_FILES:
                return ["."]
    outside = [path for path in found if not _is_inside(path, root)]
    if len(outside) > _MAXIMUM_PATHS or any(_is_inside(root, path) for path in outside):
        return ["."]
    return outside


def _is_configuration(path: str) -> bool:
    name = posixpath.basename(path)
    return _CONFIGURATION.fullmatch(name) is not None and _NOT_READ.fullmatch(name) is None


def _paths_of_file(tree: SourceTree, path: str) -> list[str]:
    try:
        text = tree.read_text(path) or ""
    except StageFailure:
        # Too large for a configuration.
        return []
    paths = _paths_in(text, ancestors(path)[1])
    # Its names of packages may stand for any directory below it.
    is_mapped = _TYPESCRIPT.fullmatch(posixpath.basename(path)) and '"paths"' in text
    return [*paths, ancestors(path)[1]] if is_mapped else paths


def _paths_in(text: str, directory: str) -> list[str]:
    found: dict[str, None] = {}
    for match in _RELATIVE.finditer(text):
        path = posixpath.normpath(posixpath.join(directory, match[0]))
        # A lone `..` is mostly put together with others.
        found["." if match[0] == ".." else path] = None
    return [path for path in found if path != ".." and not path.startswith("../")]


def _is_inside(path: str, directory: str) -> bool:
    return directory == "." or path == directory or path.startswith(f"{directory}/")
