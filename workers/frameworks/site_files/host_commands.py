"""Commands that were written for another host, made into ones that work here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared.projects.commands import find_command_problem

# Done by this platform before any command runs.
_CLONING = re.compile(r"git\s+(?:submodule\b|fetch\b|lfs\s|config\b).*")
_PLAIN_NODE_INSTALL = re.compile(
    r"(?:npm (?:i|install|ci)|yarn(?: install)?|pnpm (?:i|install)|bun (?:i|install))((?:\s+--?[a-z][\w-]*(?:=\S+)?)*)"
)
_MANAGER_SET_UP = re.compile(r"npm (?:i|install|add) (?:-g|--global) .*|corepack .*")
_PYTHON_INSTALL = re.compile(
    r"(?:python3? -m )?pip3? install .*|uv (?:sync|pip install|venv)\b.*|poetry install\b.*|pipenv (?:install|sync)\b.*"
)
_PIP_ITSELF = re.compile(r"(?:python3? -m )?pip3? install (?:-U |--upgrade )?(?:pip|uv|poetry|setuptools|wheel| )+")


@dataclass(frozen=True, slots=True)
class HostCommand:
    """A build command without the parts that install, which have no network here but in the install stage.

    `installs` are those parts, as far as the platform doesn't do the same by itself.
    """

    build: str
    installs: tuple[str, ...]
    problem: str | None = None


def adapted(command: str) -> HostCommand:
    """`problem` says why the command can't be used; None if it can."""
    problem = find_command_problem(command) if command else None
    parts = [part.strip() for part in re.split(r"\s*&&\s*", command)]
    if problem is not None and any(_CLONING.fullmatch(part) for part in parts):
        parts = [part for part in parts if not _CLONING.fullmatch(part)]
        problem = find_command_problem(" && ".join(parts)) if parts else None
    if problem is not None:
        return HostCommand("", (), problem)
    installs: list[str] = []
    while parts and is_install(parts[0]):
        if _PYTHON_INSTALL.fullmatch(parts[0]) and not _PIP_ITSELF.fullmatch(parts[0]):
            installs.append(parts[0])
        parts.pop(0)
    return HostCommand(" && ".join(part for part in parts if part), tuple(installs))


def is_install(part: str) -> bool:
    return any(pattern.fullmatch(part) for pattern in (_PLAIN_NODE_INSTALL, _MANAGER_SET_UP, _PYTHON_INSTALL))
