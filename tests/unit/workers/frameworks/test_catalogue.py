"""The catalogue's commands are ones that the platform runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.projects.commands import find_command_problem
from tests.support.repositories import write_site
from workers.frameworks import catalogue
from workers.frameworks.detection import Overrides, detect
from workers.frameworks.framework import Framework

_PYTHON_ROWS = tuple(row for row in catalogue.FRAMEWORKS if row.runtime == "python")


@pytest.mark.parametrize("framework", catalogue.FRAMEWORKS, ids=lambda row: row.name)
def test_the_command_of_every_row_is_allowed(framework: Framework) -> None:
    assert framework.command is None or find_command_problem(framework.command) is None


@pytest.mark.parametrize("framework", _PYTHON_ROWS, ids=lambda row: row.name)
def test_the_commands_of_a_documentation_are_allowed(framework: Framework, tmp_path: Path) -> None:
    """As detected, with what the row's files say where to build."""
    place = "docs" if any(name.startswith("docs/") for name in framework.files) else "."
    write_site(
        tmp_path, {f"{place}/{name.removeprefix('docs/')}": "" for name in (*framework.files, *framework.only_with)}
    )
    found = detect(tmp_path, Path(), Overrides(framework=framework.name))
    commands = [command for command in (found.install_command, found.build_command) if command]
    assert len(commands) == 2
    assert [find_command_problem(command) for command in commands] == [None, None]
