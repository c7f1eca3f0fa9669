"""Whether a documentation needs the package that its own repository is: its theme, its plugin, or what it documents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from workers.frameworks.node_projects import as_mapping
from workers.frameworks.source_tree import SourceTree, join

_MAXIMUM_NAMES = 500
# Of mkdocs.yml: the theme, the items of its lists, and objects of Python.
_YAML_NAMES = re.compile(
    r"(?m)^[ \t]{0,20}(?:theme:|name:|-)[ \t]{1,20}['\"]?([A-Za-z_][\w-]{0,100})|!!python/name:([A-Za-z_]\w{0,100})",
    re.ASCII,
)
# Of conf.py: imports, the version of an installed package, and extensions.
_PYTHON_NAMES = re.compile(
    r"(?m)^\s{0,20}(?:import|from)\s{1,9}([A-Za-z_]\w{0,100})|\bversion\(\s{0,9}['\"]([\w.-]{1,100})['\"]", re.ASCII
)
# Sphinx imports what these describe.
_IMPORTING = re.compile(r"sphinx\.ext\.auto(?:doc|summary)|sphinx_click|sphinx_autodoc|autodoc2|sphinxarg")
_EXTRA_OF_PLUGIN = re.compile(r"mkdocs-([a-z0-9-]{1,100}?)(?:-plugin)?(?:[\s<>=!~;\[].*)?", re.DOTALL)
_ITSELF = re.compile(r"(?m)^\s{0,9}(?:-e\s{0,9}|--editable[= ])?(?:file:)?\.{1,2}(?:[/\[\s]|$)")


def names_itself(requirements: str) -> bool:
    """Whether a requirements file installs the project that it is part of."""
    return _ITSELF.search(requirements) is not None


def installs_project(command: str) -> bool:
    """Whether a command of pip installs the directory in which it runs."""
    return re.search(r"(?:^|\s)'?\.(?:\[[^\]]{0,500}\])?'?(?:\s|$)", command) is not None


def is_package(tree: SourceTree, directory: str, project: Mapping[str, Any]) -> bool:
    return "build-system" in project or "project" in project or tree.is_file(join(directory, "setup.py"))


def needed_package(
    tree: SourceTree, directory: str, project: Mapping[str, Any], configurations: tuple[str, ...]
) -> str | None:
    """What pip is given to install the project in `directory`, with the extras that have its plugins; None where the
    site doesn't need it. `project`: pyproject.toml. `configurations`: the paths of the generator's own files."""
    if not is_package(tree, directory, project):
        return None
    path = next((path for path in configurations if tree.is_file(path)), None)
    text = (tree.read_text(path) if path else None) or ""
    if path is None or (path.endswith(".py") and "sys.path" in text):
        # It imports the sources.
        return None
    pattern = _PYTHON_NAMES if path.endswith(".py") else _YAML_NAMES
    names = list(dict.fromkeys(one or other for one, other in pattern.findall(text)[:_MAXIMUM_NAMES]))
    metadata = as_mapping(project.get("project"))
    if not any(_is_of_project(tree, directory, metadata, name) for name in names) and not (
        path.endswith(".py") and _IMPORTING.search(text)
    ):
        return None
    extras = [
        extra
        for extra, packages in as_mapping(metadata.get("optional-dependencies")).items()
        if isinstance(packages, list) and re.fullmatch(r"\w[\w.-]{0,60}", extra) and _has_plugin(packages, names)
    ]
    return f"'.[{','.join(extras)}]'" if extras else "."


def _is_of_project(tree: SourceTree, directory: str, metadata: Mapping[str, Any], name: str) -> bool:
    if name.lower().replace("_", "-") == str(metadata.get("name")).lower().replace("_", "-"):
        return True
    if any(tree.is_file(join(directory, f"{place}{name}/__init__.py")) for place in ("", "src/")):
        return True
    groups = as_mapping(metadata.get("entry-points"))
    return any(name in as_mapping(group) for kind, group in groups.items() if kind.startswith(("mkdocs", "markdown")))


def _has_plugin(packages: list[Any], names: list[str]) -> bool:
    found = (_EXTRA_OF_PLUGIN.fullmatch(package.strip().lower()) for package in packages if isinstance(package, str))
    return any(match is not None and match[1] in names for match in found)
