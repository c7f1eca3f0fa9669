"""A program of a version that a project asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Variables of a project, or of its files, that choose a version.
VERSION_VARIABLES: Mapping[str, str] = {
    "hugo": "HUGO_VERSION",
    "go": "GO_VERSION",
    "sass": "DART_SASS_VERSION",
    "deno": "DENO_VERSION",
    "python": "PYTHON_VERSION",
}


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """`name`: npm, pnpm, yarn, berry (yarn from 2 on), bun, poetry, pipenv, node, python, hugo, go, sass or deno.

    `version` is exact: digits and dots, with a suffix for some package managers.
    """

    name: str
    version: str
