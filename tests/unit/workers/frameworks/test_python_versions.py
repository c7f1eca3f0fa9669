"""Which Python a project gets, and which requirements a documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.repositories import write_site
from workers.frameworks.detection import Detection, Overrides, detect
from workers.frameworks.python_versions import fits, python_request
from workers.frameworks.source_tree import SourceTree
from workers.frameworks.tool_versions import required_tools

Site = Mapping[str, str | bytes]


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        # What is there does, in whatever patch.
        (None, None),
        ("3.11", None),
        ("3.11.4", None),
        (">=3.9", None),
        (">=3.9,<4", None),
        ("^3.8", None),
        ("~=3.10", None),
        (">=3.11.8", None),
        ("!=3.11.2,>=3.10", None),
        ("3", None),
        ("==3.*", None),
        ("*", None),
        ("pypy3.9", None),
        # Another one is fetched, the most usual of those that fit.
        ("3.12", "3.12.16"),
        ("3.12.1", "3.12.16"),
        ("python-3.13.0", "3.13.18"),
        (">=3.12", "3.13.18"),
        (">=3.14", "3.14.10"),
        (">3.11", "3.13.18"),
        ("<3.11", "3.10.22"),
        ("<3.10", "3.9.25"),
        ("~=3.10.2", "3.10.22"),
        (">=3.12,<3.13", "3.12.16"),
        (">=3.8, <3.10 || >=3.12,<3.13", "3.12.16"),
    ],
)
def test_the_python_of_a_project(wanted: str | None, version: str | None) -> None:
    request, notice = python_request(wanted, "3.11.7")
    assert (request.version if request else None, notice) == (version, None)


def test_a_line_that_nobody_has_is_named() -> None:
    request, notice = python_request("2.7", "3.11.7")
    assert request is None
    assert notice is not None
    assert "Python 2.7; there are 3.15, 3.14, 3.13" in notice
    assert fits("3.99", "3.11.7") is False


@pytest.mark.parametrize(
    ("site", "variables", "version"),
    [
        ({}, {}, None),
        ({".python-version": "3.12\n"}, {}, "3.12.16"),
        ({"runtime.txt": "python-3.13.1\n"}, {}, "3.13.18"),
        ({"runtime.txt": "3.10"}, {}, "3.10.22"),
        ({"runtime.txt": "nodejs-22\n"}, {}, None),
        ({"pyproject.toml": "[project]\nrequires-python = '>=3.12'"}, {}, "3.13.18"),
        ({"pyproject.toml": "[tool.poetry.dependencies]\npython = '^3.12'"}, {}, "3.13.18"),
        ({".python-version": "3.12"}, {"PYTHON_VERSION": "3.13"}, "3.13.18"),
        # It names a version or nothing.
        ({}, {"PYTHON_VERSION": "../../bin"}, None),
        ({}, {"PYTHON_VERSION": "--mirror=https://evil.invalid"}, None),
    ],
)
def test_where_a_python_is_named(tmp_path: Path, site: Site, variables: dict[str, str], version: str | None) -> None:
    write_site(tmp_path, {"mkdocs.yml": "", **site})
    detection = detect(tmp_path, Path(), Overrides())
    requests, _ = required_tools(
        SourceTree(tmp_path), detection, "24.1.0", "11.6.0", python="3.11.7", variables=variables
    )
    assert [request.version for request in requests if request.name == "python"] == ([version] if version else [])


def detected(root: Path, site: Site) -> Detection:
    write_site(root, site)
    return detect(root, Path(), Overrides())


@pytest.mark.parametrize(
    ("site", "command"),
    [
        ({}, "uv pip install 'mkdocs<2'"),
        ({"requirements.txt": "mkdocs==1.6.1"}, "uv pip install -r requirements.txt"),
        # A theme or plugin depends on it.
        ({"requirements.txt": "mkdocs-material"}, "uv pip install -r requirements.txt"),
        ({"requirements.txt": "pygments"}, "uv pip install -r requirements.txt 'mkdocs<2'"),
        ({"requirements.txt": "-r docs.txt"}, "uv pip install -r requirements.txt"),
        ({"requirements.txt": "django", "docs/requirements.txt": "mkdocs"}, "uv pip install -r docs/requirements.txt"),
        ({"requirements.txt": "mkdocs", "docs/requirements.txt": "# none\n"}, "uv pip install -r requirements.txt"),
        (
            {"requirements.txt": "django", "docs/requirements.txt": "pygments"},
            "uv pip install -r docs/requirements.txt 'mkdocs<2'",
        ),
        (
            {"docs/requirements.txt": "pygments==2 --hash=sha256:00"},
            "uv pip install --require-hashes -r docs/requirements.txt",
        ),
        (
            {"uv.lock": 'name = "django"', "pyproject.toml": "[project]\nname='a'\n"},
            "uv sync --locked && uv pip install 'mkdocs<2'",
        ),
        ({"uv.lock": 'name = "mkdocs"', "pyproject.toml": "[project]\nname='a'\n"}, "uv sync --locked"),
        (
            {
                "uv.lock": 'name = "mkdocs"',
                "pyproject.toml": "[dependency-groups]\ndocs=['mkdocs']",
                "docs/requirements.txt": "x",
            },
            "uv sync --locked --group docs",
        ),
    ],
)
def test_the_packages_of_a_documentation(tmp_path: Path, site: Site, command: str) -> None:
    assert detected(tmp_path, {"mkdocs.yml": "", **site}).install_command == command


def test_other_python_projects_prefer_their_own_requirements(tmp_path: Path) -> None:
    write_site(tmp_path, {"requirements.txt": "django", "docs/requirements.txt": "mkdocs"})
    detection = detect(tmp_path, Path(), Overrides(build_command="python build.py", output_directory="dist"))
    assert detection.install_command == "uv pip install -r requirements.txt"
