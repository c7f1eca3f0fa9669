"""Where the files of a directory lead outside of it by relative paths, at any depth. Reads the tree, runs nothing.

A file `depth` directories below the directory leaves it by more than `depth` times `../`, which is looked for as bytes
before anything else: nearly no file has it.
"""

from __future__ import annotations

import posixpath
import re

from shared.text.storable import storable
from workers.frameworks.source_tree import SourceTree

_CODE = ("js", "jsx", "ts", "tsx", "mjs", "cjs", "mts", "cts")
# What builds read as text and what may name other files in it.
_SUFFIXES = frozenset(
    [
        *(*_CODE, "vue", "svelte", "astro", "md", "mdx", "markdown", "css", "scss", "sass", "less", "styl", "pcss"),
        *("html", "htm", "json", "json5", "yml", "yaml", "toml", "py", "rst", "njk", "liquid", "hbs", "ejs", "pug"),
        *("j2", "jinja", "txt", "sh", "graphql", "gql", "coffee", "xml", "org", "adoc"),
    ]
)
# About nothing but packages.
_WRITTEN_BY_PROGRAMS = re.compile(r"(?:package-lock|npm-shrinkwrap|pnpm-lock|bun|yarn)\.\w+")
_MAXIMUM_FILES = 20_000
_LONGEST = 1000
# Directories that are led to, and paths in one file.
_MAXIMUM_FOUND = 1000
_MAXIMUM_TARGETS = 10_000


def source_references(tree: SourceTree, directory: str) -> list[str]:
    """Existing paths in the repository, outside of the directory; `["."]` where nobody can tell.

    A file that is led to stands for its whole directory, and what that leads to counts as well.
    """
    found: dict[str, None] = {}
    waiting, seen, count = [directory], {directory}, 0
    while waiting:
        place = waiting.pop()
        for path, content in tree.read_below(place, _SUFFIXES):
            if _WRITTEN_BY_PROGRAMS.fullmatch(posixpath.basename(path)):
                continue
            count += 1
            if count > _MAXIMUM_FILES:
                return ["."]
            for target in _leading_out(path, content, place):
                outside = _whole(tree, target, directory)
                if outside == ".":
                    return ["."]
                if outside is None:
                    continue
                if not any(_is_inside(outside, known) for known in (directory, *found)):
                    found[outside] = None
                if len(found) > _MAXIMUM_FOUND:
                    return ["."]
                if outside not in seen and tree.is_directory(outside):
                    seen.add(outside)
                    waiting.append(outside)
    return list(found)


def _leading_out(path: str, content: bytes, place: str) -> dict[str, None]:
    depth = path.count("/") + 1 if place == "." else path.count("/") - place.count("/")
    if b"../" * depth not in content:
        return {}
    found: dict[str, None] = {}
    for match in re.finditer(
        rb"(?<![\w.])(?:\.\./){%d,}[^\s\"'`()<>\[\]{}|;,?#!*$:\\]{0,%d}" % (depth, _LONGEST), content
    ):
        text = storable(match[0].decode("utf-8", "replace"))
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), text))
        # Above the repository there is nothing: such a path is an address, or prose.
        if target != ".." and not target.startswith("../"):
            found[target] = None
        if len(found) > _MAXIMUM_TARGETS:
            return {".": None}
    return found


def _whole(tree: SourceTree, target: str, directory: str) -> str | None:
    """The directory that the target stands for; the target itself where that directory would hold everything."""
    if _is_inside(directory, target):
        return "."
    if tree.is_directory(target):
        return target
    parent = posixpath.dirname(target) or "."
    if not _is_inside(directory, parent):
        return parent if tree.is_directory(parent) else None
    # Next to the directory or above it: code there may lead to anything around.
    names = (target, *(f"{target}.{suffix}" for suffix in _CODE))
    name = next((name for name in names if tree.is_file(name)), None)
    return "." if name is not None and name.rpartition(".")[2] in _CODE else name


def _is_inside(path: str, directory: str) -> bool:
    return directory == "." or path == directory or path.startswith(f"{directory}/")
