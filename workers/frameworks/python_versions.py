"""Which Python a project needs. Pure.

Versions are compared by their line (3.12): a patch of it is as good as another, and the newest one is pinned below.
"""

from __future__ import annotations

import re

from workers.frameworks.requests import ToolRequest

# By 2026-11; those first for which nearly all packages have wheels.
_LINES = ("3.13.18", "3.12.16", "3.14.10", "3.11.18", "3.10.22", "3.9.25", "3.8.20", "3.15.2")
_COMPARISON = re.compile(
    r"(===?|>=|<=|~=|!=|<|>|\^|~)?\s{0,9}(?:python|cpython)?-?v?(\d{1,3})(?:\.(\d{1,3}|\*))?(?:\.(\d{1,3}|\*))?",
    re.ASCII,
)


def python_request(wanted: str | None, available: str) -> tuple[ToolRequest | None, str | None]:
    """The Python to fetch, None for the `available` one, and a line for the log when none fits."""
    if wanted is None or fits(wanted, available):
        return None, None
    version = next((line for line in _LINES if fits(wanted, line)), None)
    if version is None:
        lines = ", ".join(sorted({_line(line) for line in (*_LINES, available)}, key=_key, reverse=True))
        return None, f"The project asks for Python {wanted}; there are {lines}, and {available} is used."
    return ToolRequest("python", version), None


def fits(wanted: str, version: str) -> bool:
    """Whether the version's line is one that is wanted: by a version (3.12, python-3.12.1) or a specifier. An invalid
    text asks for nothing.
    """
    have = _key(version)
    if re.match(r"\s{0,9}(?:pypy|graal|miniconda|mambaforge|anaconda|system)", wanted):
        return True
    alternatives = [_COMPARISON.findall(text) for text in wanted.split("||")[:10]]
    return not any(alternatives) or any(
        found and all(_compare(have, *comparison) for comparison in found) for found in alternatives
    )


def _compare(have: tuple[int, int], operator: str, major: str, minor: str, patch: str) -> bool:
    if not minor.isdecimal():
        low = (int(major), 0)
        return have >= low if operator in (">=", ">") else have < low if operator == "<" else have[0] == low[0]
    named, has_patch = (int(major), int(minor)), patch.isdecimal() and int(patch) > 0
    match operator:
        case ">=":
            return have >= named
        case ">":
            return have >= named if has_patch else have > named
        case "<":
            return have <= named if has_patch else have < named
        case "<=":
            return have <= named
        case "^":
            return have >= named and have[0] == named[0]
        case "~=":
            return have == named if patch else have >= named and have[0] == named[0]
        case "!=":
            # A version that is left out is mostly one patch of a line.
            return have != named or patch.isdecimal()
        case _:
            return have == named


def _line(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _key(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
