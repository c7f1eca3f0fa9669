"""`cloudify.toml`: the fields of a project's settings, kept in its repository."""

from __future__ import annotations

import re
from typing import Any, cast

from shared.errors import FailureCode, StageFailure
from shared.projects.project_input import CHECKS
from workers.frameworks.node_projects import as_mapping
from workers.frameworks.site_files.fields import SiteFile, environment_of
from workers.frameworks.site_files.formats import BrokenFile, read_toml
from workers.frameworks.site_files.routing import Routing, RoutingBuilder
from workers.frameworks.source_tree import SourceTree, join

NAME = "cloudify.toml"
# Name in the file → column of the project's settings.
_FIELDS = {
    "rootDirectory": "root_directory",
    "framework": "framework",
    "installCommand": "install_command",
    "buildCommand": "build_command",
    "outputDirectory": "output_directory",
    "nodeVersion": "node_version",
}
_OTHERS = frozenset({"isApplication", "environment", "redirects", "headers"})
_COMMANDS = frozenset({"install_command", "build_command"})


def read_cloudify(tree: SourceTree, directory: str) -> SiteFile | None:
    """Raises StageFailure CONFIGURATION_INVALID for a file with mistakes: it is meant for this platform."""
    path = join(directory, NAME)
    try:
        document = read_toml(tree, path)
    except BrokenFile as error:
        raise StageFailure(FailureCode.CONFIGURATION_INVALID, f"{error}. Correct the file and push again.") from error
    if document is None:
        return None
    unknown = [name for name in document if name not in _FIELDS and name not in _OTHERS]
    if unknown:
        raise _invalid(
            path, f"{unknown[0][:50]!r} is no field; the fields are {', '.join([*_FIELDS, *sorted(_OTHERS)])}"
        )
    values = {column: _field(path, document, name, column) for name, column in _FIELDS.items()}
    is_application = document.get("isApplication")
    if not (is_application is None or isinstance(is_application, bool)):
        raise _invalid(path, "isApplication must be true or false")
    base = values.pop("root_directory")
    return SiteFile(
        path,
        {column: name for name, column in _FIELDS.items()} | {"base": "rootDirectory"},
        base=None if base is None else join(directory, base),
        framework=values["framework"],
        install_command=values["install_command"],
        build_command=values["build_command"],
        output_directory=values["output_directory"],
        node_version=values["node_version"],
        is_application=is_application,
        environment=environment_of(document.get("environment")),
        routing=_routing(path, document),
    )


def _field(path: str, document: dict[str, Any], name: str, column: str) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and column == "node_version":
        value = str(value)
    if not isinstance(value, str):
        raise _invalid(path, f"{name} must be a text in quotation marks")
    value = value.strip()
    if not value and column in _COMMANDS:
        return ""
    problem = CHECKS[column][1](value)
    if problem is not None:
        raise _invalid(path, f"{name} {problem}")
    return value


def _routing(path: str, document: dict[str, Any]) -> Routing:
    builder = RoutingBuilder()
    for rule in _tables(path, document, "redirects"):
        builder.add_redirect(
            rule.get("from"), rule.get("to"), rule.get("status", 301), is_forced=rule.get("force") is True
        )
    for rule in _tables(path, document, "headers"):
        builder.add_headers(rule.get("for"), as_mapping(rule.get("values")))
    return builder.build()


def _tables(path: str, document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = document.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in cast("list[Any]", value)):
        raise _invalid(path, f"{name} must be tables, each under [[{name}]]")
    return cast("list[dict[str, Any]]", value)


def _invalid(path: str, problem: str) -> StageFailure:
    problem = re.sub(r"\s+", " ", problem).rstrip(".")
    return StageFailure(FailureCode.CONFIGURATION_INVALID, f"{path}: {problem}. Correct the file and push again.")
