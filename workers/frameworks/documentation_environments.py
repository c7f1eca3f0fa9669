"""The packages of a documentation that a Python project names in its settings of hatch or tox."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from workers.frameworks.node_projects import as_mapping
from workers.frameworks.source_tree import SourceTree, join

SITE_GROUPS = ("docs", "doc", "documentation", "site", "website")
# What builds a site.
_BUILDS = re.compile(r"\b(?:mkdocs\s+build|sphinx-build|sphinx\.cmd\.build|jupyter-book\s+build)\b")
# A package of a registry, with extras, versions and markers.
_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]{0,100}(?:\[[\w.,\s-]{0,200}\])?[\w .,;<>=!~*()'\"-]{0,200}", re.ASCII)
_FILE = re.compile(
    r"-(?:-(?=requirement|constraint))?(r|c)(?:equirement|onstraint)?[=\s]{0,9}([\w./-]{1,200})", re.ASCII
)
_TOX_ROOT = re.compile(r"\{(?:tox_root|toxinidir)\}(?:\{/\}|/)?")
_MAXIMUM_PACKAGES = 100
_MAXIMUM_COMMANDS = 10_000


@dataclass(frozen=True, slots=True)
class DocumentationEnvironment:
    """`arguments`: for pip, quoted for a shell. `extras` and `groups` are the project's. `where`: for the log."""

    arguments: tuple[str, ...]
    has_project: bool
    extras: tuple[str, ...]
    groups: tuple[str, ...]
    where: str


def documentation_environment(
    tree: SourceTree, directory: str, read: Callable[[str], Mapping[str, Any]]
) -> DocumentationEnvironment | None:
    """The first environment that has a documentation's name, or else builds one. `read`: a TOML file by its path."""
    tools = as_mapping(read(join(directory, "pyproject.toml")).get("tool"))
    hatch, tox = as_mapping(tools.get("hatch")), as_mapping(tools.get("tox"))
    tables = (
        ("hatch.toml", _of_hatch, as_mapping(read(join(directory, "hatch.toml")).get("envs"))),
        ("pyproject.toml (tool.hatch)", _of_hatch, as_mapping(hatch.get("envs"))),
        ("tox.ini", _of_tox, _sections(tree.read_text(join(directory, "tox.ini")))),
        ("setup.cfg", _of_tox, _sections(tree.read_text(join(directory, "setup.cfg")))),
        ("pyproject.toml (tool.tox)", _of_tox, _sections(tox.get("legacy_tox_ini"))),
        ("pyproject.toml (tool.tox)", _of_tox, as_mapping(tox.get("env"))),
        ("tox.toml", _of_tox, as_mapping(read(join(directory, "tox.toml")).get("env"))),
    )
    for path, reader, table in tables:
        name = _chosen(table)
        found = reader(tree, directory, table, name, f"{path}, environment {name}") if name else None
        if found is not None:
            return found
    return None


def _of_hatch(
    tree: SourceTree, directory: str, table: Mapping[str, Any], name: str, where: str
) -> DocumentationEnvironment | None:
    # Each inherits from the default one, unless it names another.
    own = as_mapping(table[name])
    fields = {**as_mapping(table.get(str(own.get("template", "default")))), **own}
    return _environment(
        tree,
        directory,
        [*_texts(fields.get("dependencies")), *_texts(fields.get("extra-dependencies"))],
        has_project=fields.get("detached") is not True and fields.get("skip-install") is not True,
        extras=_texts(fields.get("features")),
        groups=_texts(fields.get("dependency-groups")),
        where=where,
    )


def _of_tox(
    tree: SourceTree, directory: str, table: Mapping[str, Any], name: str, where: str
) -> DocumentationEnvironment | None:
    fields = as_mapping(table[name])
    return _environment(
        tree,
        directory,
        [_TOX_ROOT.sub("", text).replace("{/}", "/") for text in _texts(fields.get("deps"))],
        has_project=str(fields.get("skip_install")).lower() != "true",
        extras=_texts(fields.get("extras")),
        groups=_texts(fields.get("dependency_groups")),
        where=where,
    )


def _environment(
    tree: SourceTree,
    directory: str,
    packages: list[str],
    *,
    has_project: bool,
    extras: list[str],
    groups: list[str],
    where: str,
) -> DocumentationEnvironment | None:
    arguments = [argument for text in packages[:_MAXIMUM_PACKAGES] for argument in _argument(tree, directory, text)]
    names = [[name for name in found if re.fullmatch(r"\w[\w.-]{0,60}", name, re.ASCII)] for found in (extras, groups)]
    if not arguments and not any(names):
        return None
    return DocumentationEnvironment(tuple(arguments), has_project, tuple(names[0]), tuple(names[1]), where)


def _argument(tree: SourceTree, directory: str, text: str) -> list[str]:
    """Nothing for what isn't a package of a registry or a file of the repository."""
    file = _FILE.fullmatch(text)
    if file is not None:
        is_inside = ".." not in file[2].split("/") and not file[2].startswith("/")
        return [f"-{file[1]} {file[2]}"] if is_inside and tree.is_file(join(directory, file[2])) else []
    return [shlex.quote(text)] if _REQUIREMENT.fullmatch(text) else []


def _chosen(table: Mapping[str, Any]) -> str | None:
    """The environment by its name, else by the commands that it runs."""
    named = next((name for name in SITE_GROUPS if name in table), None)
    if named is not None:
        return named
    for name, value in table.items():
        environment = as_mapping(value)
        text = str(environment.get("scripts") or environment.get("commands"))[:_MAXIMUM_COMMANDS]
        if _BUILDS.search(text) and "linkcheck" not in text:
            return name
    return None


def _sections(text: Any) -> dict[str, Any]:
    """The environments of tox's own format; empty where it can't be read."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text if isinstance(text, str) else "")
    except configparser.Error:
        return {}
    sections = (section for section in parser.sections() if section.startswith("testenv:"))
    return {section.removeprefix("testenv:"): dict(parser.items(section)) for section in sections}


def _texts(value: Any) -> list[str]:
    """The items of a list, or the lines of a text."""
    items = cast(
        "list[Any]", value.splitlines() if isinstance(value, str) else value if isinstance(value, list) else []
    )
    found = [item.partition(" #")[0].strip() for item in items if isinstance(item, str)]
    return [item for item in found if item and not item.startswith("#")]
