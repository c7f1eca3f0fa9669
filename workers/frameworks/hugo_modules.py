"""Hugo modules: themes and content that Go fetches. The install does, because most builds have no network."""

from __future__ import annotations

import re

from workers.frameworks.source_tree import SourceTree, join

_CONFIGURATION = tuple(
    f"{folder}{name}.{kind}"
    for folder in ("", "config/_default/")
    for name in ("hugo", "config", "module")
    for kind in ("toml", "yaml", "yml", "json")
)
_IMPORTS = re.compile(r"\bimports\b")
_COMMAND = "hugo mod vendor"


def uses_hugo_modules(tree: SourceTree, directory: str) -> bool:
    """Whether the site has modules that aren't in the repository."""
    if not tree.is_file(join(directory, "go.mod")) or tree.is_directory(join(directory, "_vendor")):
        return False
    return any(_IMPORTS.search(tree.read_text(join(directory, name)) or "") for name in _CONFIGURATION)


def with_hugo_modules(
    tree: SourceTree, directory: str, install_directory: str, command: str | None, reasons: list[str]
) -> str | None:
    """The install command, which copies modules into _vendor as well, where there are any."""
    # Hugo finds its configuration in the directory where it runs.
    if directory != install_directory or not uses_hugo_modules(tree, directory):
        return command
    reasons.append(f"Hugo modules: {join(directory, 'go.mod')} names some, so the install runs `{_COMMAND}`.")
    return f"{command} && {_COMMAND}" if command else _COMMAND
