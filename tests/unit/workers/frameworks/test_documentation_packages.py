"""Packages of a documentation that are named outside of its requirements, and the repository's own one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from workers.frameworks.choices import Overrides
from workers.frameworks.detection import Detection, detect

HATCH = """[build-system]
requires = ["hatchling"]
[project]
name = "tool"
[tool.hatch.envs.docs]
dependencies = ["mkdocs-click>=1", "pymdown-extensions", "-e ../elsewhere", "x; rm -rf /"]
"""
TOX = """[tox]
envlist = py
[testenv:docs]
deps =
    sphinx>=7
    -r{toxinidir}/docs/more.txt
    -r../outside.txt
commands = sphinx-build docs out
skip_install = true
"""
THEME = """[build-system]
requires = ["hatchling"]
[project]
name = "mkdocs-theme"
[project.entry-points."mkdocs.themes"]
own-theme = "theme.templates"
"""


def detected(directory: Path, files: Mapping[str, str]) -> Detection:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return detect(directory, Path(), Overrides())


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"mkdocs.yml": "site_name: x\n", "pyproject.toml": HATCH}, ["'mkdocs-click>=1'", "pymdown-extensions", " . "]),
        (
            {"docs/conf.py": "", "tox.ini": TOX, "docs/more.txt": "furo\n", "setup.py": ""},
            ["'sphinx>=7'", "-r docs/more.txt"],
        ),
        # Another name: the environment that builds the site.
        (
            {
                "mkdocs.yml": "",
                "pyproject.toml": "",
                "tox.toml": '[env.web]\ncommands = [["mkdocs build"]]\ndeps = ["a"]\n',
            },
            [" a "],
        ),
    ],
)
def test_packages_of_an_environment_are_installed(tmp_path: Path, files: dict[str, str], words: list[str]) -> None:
    detection = detected(tmp_path, files)
    command = f"{detection.install_command} "
    assert [word for word in words if word not in command] == []
    assert not [word for word in ("elsewhere", "rm -rf", "outside") if word in command]
    assert any("names packages of the documentation" in reason for reason in detection.reasons)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("tox.ini", "[testenv:docs"),
        ("tox.ini", "[testenv:docs]\ndeps = ${x\n"),
        ("tox.ini", "\x00"),
        ("tox.toml", "[env.docs"),
        ("hatch.toml", "[" * 5000),
    ],
)
def test_a_damaged_environment_is_left_out(tmp_path: Path, name: str, broken: str) -> None:
    detection = detected(tmp_path, {"mkdocs.yml": "", "requirements.txt": "mkdocs\n", name: broken})
    assert detection.install_command == "uv pip install -r requirements.txt"


def test_a_theme_of_the_repository_s_own_is_installed(tmp_path: Path) -> None:
    files = {"mkdocs.yml": "theme:\n  name: own-theme\n", "pyproject.toml": THEME, "requirements.txt": "mkdocs\n"}
    detection = detected(tmp_path, files)
    assert detection.install_command == "uv pip install -r requirements.txt && uv pip install ."


def test_a_package_that_the_site_does_not_need_is_not_installed(tmp_path: Path) -> None:
    files = {"mkdocs.yml": "theme:\n  name: readthedocs\n", "pyproject.toml": THEME, "requirements.txt": "mkdocs\n"}
    assert detected(tmp_path, files).install_command == "uv pip install -r requirements.txt"
    other = {"requirements.txt": "mkdocs\n-e .\n", "mkdocs.yml": "theme:\n  name: own-theme\n"}
    assert detected(tmp_path, other).install_command == "uv pip install -r requirements.txt"
