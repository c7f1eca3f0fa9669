"""`.readthedocs.yaml`: which documentation generator builds which directory, and what it needs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, cast

from workers.frameworks.node_projects import as_mapping
from workers.frameworks.site_files.fields import SiteFile, given_text, version_of
from workers.frameworks.site_files.formats import read_yaml
from workers.frameworks.source_tree import SourceTree, join

_NAMES = (".readthedocs.yaml", ".readthedocs.yml", "readthedocs.yaml", "readthedocs.yml")
_FIELDS: Mapping[str, str] = {
    "framework": "sphinx.configuration",
    "build_command": "build.commands",
    "output_directory": "build.commands",
    "install_command": "python.install",
    "python_version": "build.tools.python",
    "node_version": "build.tools.nodejs",
}
_BUILDERS = {"html": "html", "dirhtml": "dirhtml", "htmldir": "dirhtml", "singlehtml": "singlehtml"}
# The directory in which its hosts expect what a project's own commands write; below it, `html` is the site.
_OUTPUT_VARIABLE = re.compile(r"\$\{?READTHEDOCS_OUTPUT\}?")
_OUTPUT = "_readthedocs"
_NEWEST_PYTHON = ">=3.13"
_SAFE = re.compile(r"[\w./@+-][\w ./@+-]{0,300}")
# It brings tools along, which are here already.
_TOOL_SET_UP = re.compile(r"asdf\s.*")


def read_the_docs(tree: SourceTree, directory: str) -> SiteFile | None:
    """None if there is no such file, or it names no generator."""
    path = next((join(directory, name) for name in _NAMES if tree.is_file(join(directory, name))), None)
    document = read_yaml(tree, path) if path else None
    if path is None or not document:
        return None
    build, tools = as_mapping(document.get("build")), as_mapping(as_mapping(document.get("build")).get("tools"))
    commands = [command for command in map(given_text, _list(build.get("commands"))) if command]
    fields = _of_commands(commands) if commands else _of_generator(tree, directory, document)
    if fields is None:
        return None
    names = dict(_FIELDS)
    if fields.get("framework") == "mkdocs":
        names |= {"framework": "mkdocs.configuration"}
    if not commands:
        names |= dict.fromkeys(("build_command", "output_directory"), names["framework"])
    return SiteFile(
        path,
        names,
        **fields,
        python_version=_python(tools.get("python") or as_mapping(document.get("python")).get("version")),
        node_version=_version(tools.get("nodejs")),
        address_variables=("READTHEDOCS_CANONICAL_URL",),
    )


def _of_commands(commands: list[str]) -> dict[str, Any]:
    kept = [command for command in commands if not _TOOL_SET_UP.fullmatch(command)]
    command = _OUTPUT_VARIABLE.sub(_OUTPUT, " && ".join(kept))
    return {"build_command": command, "output_directory": f"{_OUTPUT}/html" if _OUTPUT in command else None}


def _of_generator(tree: SourceTree, directory: str, document: dict[str, Any]) -> dict[str, Any] | None:
    sphinx, mkdocs = document.get("sphinx"), document.get("mkdocs")
    if isinstance(sphinx, dict):
        given = as_mapping(cast("Any", sphinx))
        configuration = given_text(given.get("configuration"))
        builder = _BUILDERS.get(given_text(given.get("builder")) or "html", "html")
        if configuration is None or not _is_usable(tree, directory, configuration):
            return None
        source = shlex.quote(PurePosixPath(configuration).parent.as_posix())
        fields: dict[str, Any] = {
            "framework": "sphinx",
            "build_command": f"sphinx-build -b {builder} {source} _build/html",
            "output_directory": "_build/html",
        }
    elif isinstance(mkdocs, dict):
        configuration = given_text(as_mapping(cast("Any", mkdocs)).get("configuration")) or "mkdocs.yml"
        if not _is_usable(tree, directory, configuration):
            return None
        fields = {"framework": "mkdocs"}
        if configuration not in ("mkdocs.yml", "mkdocs.yaml"):
            # The directory that the configuration names, and its default, are relative to the configuration.
            match = re.search(
                r"(?m)^site_dir:\s*['\"]?([^'\"\s#]+)", tree.read_start(join(directory, configuration)) or ""
            )
            place = PurePosixPath(configuration).parent / (match[1] if match else "site")
            fields |= {
                "build_command": f"mkdocs build --config-file {shlex.quote(configuration)}",
                "output_directory": place.as_posix(),
            }
    else:
        return None
    packages = _packages(tree, directory, document)
    if packages:
        generator = "sphinx" if fields["framework"] == "sphinx" else "'mkdocs<2'"
        fields["install_command"] = f"uv pip install {generator} {' '.join(packages)}"
    return fields


def _packages(tree: SourceTree, directory: str, document: dict[str, Any]) -> list[str]:
    """Arguments of pip for `python.install`; empty where a part of it can't be installed this way."""
    found: list[str] = []
    for item in _list(as_mapping(document.get("python")).get("install")):
        entry = as_mapping(item)
        requirements, path = given_text(entry.get("requirements")), given_text(entry.get("path"))
        if requirements and _is_usable(tree, directory, requirements):
            found.append(f"-r {shlex.quote(requirements)}")
        elif path and entry.get("method", "pip") == "pip" and _SAFE.fullmatch(path):
            extras = [extra for extra in map(given_text, _list(entry.get("extra_requirements"))) if extra]
            place = path if path.startswith(".") else f"./{path}"
            found.append(shlex.quote(f"{place}[{','.join(extras)}]" if extras else place))
        else:
            return []
    return found


def _is_usable(tree: SourceTree, directory: str, path: str) -> bool:
    return bool(_SAFE.fullmatch(path)) and tree.is_file(join(directory, path))


def _python(value: Any) -> str | None:
    """Without a line, the newest Python is meant; packages mostly have wheels for this line."""
    return _NEWEST_PYTHON if version_of(value) in ("3", "latest") else _version(value)


def _version(value: Any) -> str | None:
    """`latest` and the like mean the default."""
    version = version_of(value)
    return version if version and re.match(r"\d", version) else None


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
