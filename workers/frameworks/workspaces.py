"""Which directories a package manager of Node installs together."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, cast

from workers.frameworks.source_tree import SourceTree, ancestors, join

_LIST_ITEM = re.compile(r"""(?m)^\s*-\s*["']?([^"'#\n]+?)["']?\s*(?:#.*)?$|^\s*packages:\s*\[([^\]]*)\]""")


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
        # Items of its other lists name packages, which are no directories of the project.
        for item, inline in _LIST_ITEM.findall(text):
            found += [item] if item else [part.strip(" \"'\n") for part in inline.split(",")]
        found = found or ["**"]
    return found or (["**"] if listed else [])


def _matches(pattern: str, place: str) -> bool:
    pattern = pattern.removeprefix("./").rstrip("/")
    if pattern.startswith("!"):
        return False
    if re.search(r"[{}\[\]()]", pattern):
        return True
    parts = [".*" if part == "**" else re.escape(part).replace(r"\*", "[^/]*") for part in pattern.split("/")]
    return re.fullmatch("/".join(parts).replace("/.*", "(?:/.*)?"), place) is not None
