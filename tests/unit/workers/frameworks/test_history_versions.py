"""Python packages whose version is in git's history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from workers.frameworks.choices import Overrides
from workers.frameworks.detection import detect
from workers.frameworks.history_versions import VERSION, history_versions
from workers.frameworks.source_tree import SourceTree


def tree_of(directory: Path, files: Mapping[str, str]) -> SourceTree:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return SourceTree(directory)


def pyproject(*requires: str, name: str = "My.Project_x") -> dict[str, str]:
    return {"pyproject.toml": f'[build-system]\nrequires = {list(requires)!r}\n[project]\nname = "{name}"\n'}


@pytest.mark.parametrize(
    ("files", "variables"),
    [
        (
            pyproject("setuptools>=77", "setuptools-scm[toml]>=6.2.3"),
            ["SETUPTOOLS_SCM_PRETEND_VERSION_FOR_MY_PROJECT_X"],
        ),
        (pyproject("hatchling", "hatch-vcs"), ["SETUPTOOLS_SCM_PRETEND_VERSION_FOR_MY_PROJECT_X"]),
        ({"pyproject.toml": '[tool.pdm.version]\nsource = "scm"\n'}, ["PDM_BUILD_SCM_VERSION"]),
        # Its version is in a file.
        ({"pyproject.toml": '[tool.pdm.version]\nsource = "file"\npath = "a.py"\n'}, []),
        (pyproject("pdm-backend"), []),
        (pyproject("poetry-core", "poetry-dynamic-versioning>=1"), ["POETRY_DYNAMIC_VERSIONING_BYPASS"]),
        (pyproject("hatchling", "uv-dynamic-versioning"), ["UV_DYNAMIC_VERSIONING_BYPASS"]),
        (
            {"setup.cfg": "[metadata]\nname = older-one\n[options]\nsetup_requires = setuptools_scm\n"},
            ["SETUPTOOLS_SCM_PRETEND_VERSION_FOR_OLDER_ONE"],
        ),
        ({"setup.py": "setup(setup_requires=['pbr'], pbr=True)"}, ["PBR_VERSION"]),
        (pyproject("setuptools"), []),
        ({"pyproject.toml": "[build-system"}, []),
        ({"pyproject.toml": '[build-system]\nrequires = ["setuptools-scm"]\n[project]\nname = 3\n'}, []),
    ],
)
def test_the_variable_of_each_program(tmp_path: Path, files: dict[str, str], variables: list[str]) -> None:
    assert history_versions(tree_of(tmp_path, files), ".") == dict.fromkeys(variables, VERSION)


def test_builds_are_given_the_version_and_the_log_says_so(tmp_path: Path) -> None:
    files = {**pyproject("setuptools-scm", name="site"), "docs/conf.py": "", "docs/requirements.txt": "sphinx\n"}
    tree_of(tmp_path, files)
    detection = detect(tmp_path, Path(), Overrides())
    assert detection.environment == {"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_SITE": VERSION}
    assert any("takes its version from git's history" in reason for reason in detection.reasons)


def test_the_python_of_the_documentation_s_group_counts(tmp_path: Path) -> None:
    files = {
        "mkdocs.yml": "site_name: x\n",
        "uv.lock": "",
        "pyproject.toml": (
            '[project]\nname = "x"\nrequires-python = ">=3.8"\n[dependency-groups]\ndocs = ["mkdocs"]\n'
            '[tool.uv.dependency-groups]\ndocs = {requires-python = ">=3.12"}\n'
        ),
    }
    tree_of(tmp_path, files)
    assert detect(tmp_path, Path(), Overrides()).python_version == ">=3.12, >=3.8"
