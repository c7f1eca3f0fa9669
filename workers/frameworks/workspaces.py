"""Which directories a package manager of Node installs together."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, cast

from shared.errors import FailureCode, StageFailure
from workers.frameworks.source_tree import SourceTree, ancestors, join

_PACKAGES = re.compile(r"(?m)^[ \t]*packages:\s*\[")
_MAXIMUM_PATTERNS = 5_000
_MAXIMUM_PATTERN = 500


def is_workspace_root(tree: SourceTree, directory: str) -> bool:
    return bool(_members(tree, directory))


def has_member(tree: SourceTree, workspace: str, directory: str) -> bool:
    """Whether the workspace's root `workspace` counts the directory below it among its members; in doubt it does."""
    place = PurePosixPath(directory).relative_to(workspace).as_posix()
    return any(_matches(pattern, place) for pattern in _members(tree, workspace))


def installed_with(tree: SourceTree, directory: str) -> str:
    """Where an install that is started in `directory` happens: at the root of the workspace that it is a member of.

    A lockfile of its own changes nothing about that, whatever the log of the package manager says.
    """
    above = [above for above in ancestors(directory)[1:] if has_member(tree, above, directory)]
    return above[-1] if above else directory


def is_apart_from_pnpm_workspace(tree: SourceTree, directory: str) -> bool:
    """Whether the directory lies below a workspace of pnpm and is none of its members."""
    above = [above for above in ancestors(directory)[1:] if tree.is_file(join(above, "pnpm-workspace.yaml"))]
    return bool(above) and not any(has_member(tree, workspace, directory) for workspace in above)


def _members(tree: SourceTree, directory: str) -> list[str]:
    """Patterns of paths below the directory."""
    listed = (tree.read_object(join(directory, "package.json")) or {}).get("workspaces")
    if isinstance(listed, dict):
        listed = cast("dict[str, Any]", listed).get("packages") or listed
    found = [item for item in cast("list[Any]", listed) if isinstance(item, str)] if isinstance(listed, list) else []
    text = tree.read_text(join(directory, "pnpm-workspace.yaml"))
    if text is not None:
        found = (found + _listed(text)) or ["**"]
    if len(found) > _MAXIMUM_PATTERNS or any(len(pattern) > _MAXIMUM_PATTERN for pattern in found):
        raise StageFailure(
            FailureCode.CONFIGURATION_INVALID,
            f"The workspace in {directory} lists more than {_MAXIMUM_PATTERNS} packages, or one in more than"
            f" {_MAXIMUM_PATTERN} characters. Name them by fewer patterns, such as `packages/*`, and push again.",
        )
    return found or (["**"] if listed else [])


def _listed(text: str) -> list[str]:
    """The items of every list in pnpm-workspace.yaml; those of other lists name no directories of the project."""
    found: list[str] = []
    for line in text.splitlines():
        item = line.strip()
        if item.startswith("-"):
            found.append(_unquoted(item[1:].strip()))
    inline = _PACKAGES.search(text)
    if inline is not None:
        found += [_unquoted(part.strip()) for part in text[inline.end() :].partition("]")[0].split(",")]
    return [item for item in found if item]


def _unquoted(item: str) -> str:
    """A YAML scalar without its quotes, or without the comment behind it."""
    quote = item[:1]
    return item[1:].partition(quote)[0] if quote in ("'", '"') else item.partition("#")[0].strip()


def _matches(pattern: str, place: str) -> bool:
    """Whether a pattern of directories fits, in time proportional to the product of their lengths."""
    pattern = pattern.removeprefix("./").rstrip("/")
    if pattern.startswith("!"):
        return False
    if any(character in "{}[]()" for character in pattern):
        return True
    names = place.split("/")
    # How many of the names the part of the pattern up to here may have taken.
    taken = {0}
    for part in pattern.split("/"):
        if part == "**":
            taken = set(range(min(taken), len(names) + 1))
        else:
            taken = {count + 1 for count in taken if count < len(names) and _fits(part, names[count])}
        if not taken:
            return False
    return len(names) in taken


def _fits(part: str, name: str) -> bool:
    """Whether a name fits a pattern in which `*` stands for any characters; each piece is looked for once."""
    first, *pieces = part.split("*")
    if not pieces:
        return name == first
    last = pieces.pop()
    if not (name.startswith(first) and name.endswith(last) and len(name) >= len(first) + len(last)):
        return False
    position, end = len(first), len(name) - len(last)
    for piece in pieces:
        position = name.find(piece, position, end)
        if position < 0:
            return False
        position += len(piece)
    return True
