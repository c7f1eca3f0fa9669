"""Lockfiles that name the registry they were made with: made when they are needed, with this machine's."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

from workers.frameworks.source_tree import SourceTree
from workers.frameworks.tool_versions import manager_request

_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "PIP_INDEX_URL", "UV_INDEX_URL")
_ATTEMPTS = 3


def index_url() -> str:
    """Where this machine looks for Python packages."""
    named = next((os.environ[name] for name in _INDEX_VARIABLES if os.environ.get(name)), "")
    if named:
        return named
    program = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True
    )
    default = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return asked.stdout.strip() or default.stdout.strip()


def name_index(manager: str, directory: Path) -> None:
    """Names the registry in the project itself: poetry would ask PyPI for what not every mirror of it has, and pipenv
    would write PyPI's own address."""
    if manager == "poetry":
        source = f'\n[[tool.poetry.source]]\nname = "index"\nurl = "{index_url()}"\npriority = "primary"\n'
        _append(directory / "pyproject.toml", source)
    if manager == "pipenv":
        _append(directory / "Pipfile", f'\n[[source]]\nname = "index"\nurl = "{index_url()}"\nverify_ssl = true\n')


def lock(manager: str, directory: Path) -> None:
    """Makes the lockfile of a project of uv, poetry or pipenv, with the version of the manager that builds use."""
    name_index(manager, directory)
    uv, python = str(Path(sys.executable).with_name("uv")), ("--python", sys.executable)
    request = manager_request(SourceTree(directory), manager, "", None)
    if request is None:
        command = [uv, "lock", "--quiet", *python]
    else:
        command = [uv, "tool", "run", "--quiet", *python, f"{manager}@{request.version}", "lock"]
    # Pipenv makes a virtual environment to lock with: not in the repository, nor in the home directory.
    elsewhere = {"PIPENV_VENV_IN_PROJECT": "0", "WORKON_HOME": str(directory.parent / "environments")}
    environment = {**os.environ, **elsewhere}
    # The registry may fail for a moment.
    tries = (
        subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
        for _ in range(_ATTEMPTS)
    )
    failures = list(itertools.takewhile(lambda done: done.returncode != 0, tries))
    assert len(failures) < _ATTEMPTS, f"{' '.join(command)}: {failures[-1].stdout}{failures[-1].stderr}"


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)
