"""The command works without the packages of the platform, and says what to install where it needs them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]

# Imports fail as if the packages weren't installed; httpx takes zstandard only where it is.
WITHOUT = """
import importlib, importlib.util, pkgutil, sys
for name in {names!r}:
    sys.modules[name] = None
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {names!r} else real(name, package)
"""
IMPORT_ALL = """
for package in ("api.cli", "api.client"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
"""
RUN = """
from api.cli.main import main
sys.argv = ["cloudify", *{arguments!r}]
main()
"""


def packages_of_extras() -> list[str]:
    """The names that the distributions of the extras `server` and `embedded` are imported by."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^A-Za-z0-9_-]", requirement)[0] for requirement in project["dependencies"]}
    base = {name.lower() for name in names} | {"anyio", "httpcore"}  # httpx brings these two
    extras = {
        re.split(r"[^A-Za-z0-9_-]", requirement)[0].lower()
        for extra in ("server", "embedded")
        for requirement in project["optional-dependencies"][extra]
    }
    return sorted(
        package
        for package, distributions in metadata.packages_distributions().items()
        if {name.lower() for name in distributions} & (extras - base)
    )


def run(program: str, **values: object) -> subprocess.CompletedProcess[str]:
    source = (WITHOUT + program).format(names=packages_of_extras(), **values)
    return subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_every_module_of_the_command_is_imported_without_the_platforms_packages() -> None:
    assert {"litestar", "dramatiq", "psycopg", "redis"} <= set(packages_of_extras())
    done = run(IMPORT_ALL)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["up", "api", "worker build", "reconciler", "migrate", "admin set-plan a@b FREE"])
def test_a_command_of_the_platform_names_the_extra_to_install(command: str) -> None:
    done = run(RUN, arguments=command.split())
    assert done.returncode == 1
    assert "pip install 'cloudify[server]'" in done.stderr


@pytest.mark.parametrize("command", ["up", "migrate", "admin"])
def test_help_needs_no_extra(command: str) -> None:
    assert run(RUN, arguments=[command, "--help"]).returncode == 0
