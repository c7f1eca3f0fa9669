"""What a configuration file of a repository may say about its site."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.frameworks.node_projects import as_mapping
from workers.frameworks.site_files.routing import Routing

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,100}")
# What the platform sets itself, and what changes how programs are found and loaded, or where packages come from.
_WITHHELD = re.compile(
    r"PATH|HOME|IFS|ENV|BASH_ENV|SHELL|VIRTUAL_ENV|TMPDIR|(?:LD|DYLD|CLOUDIFY|UV|PIP|SSL|GIT|PYTHON)_\w*|PYTHON(?:PATH|HOME)"
    r"|\w*_?PROXY|\w*REGISTRY|\w*INDEX_URL|NODE_EXTRA_CA_CERTS|CLOUDIFY",
    re.IGNORECASE,
)
_MAXIMUM_VARIABLES = 50
_MAXIMUM_VALUE = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class SiteFile:
    """What one file says, with None for what it doesn't mention; an empty command means that none is run.

    `path` is relative to the repository's root. `names`: what the file calls each field, for the log. `base` is the
    directory of the site, relative to the repository's root; `output_directory` is relative to that.
    `address_variables` are variables in which the host gives the site's address.
    """

    path: str
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    base: str | None = None
    framework: str | None = None
    install_command: str | None = None
    build_command: str | None = None
    output_directory: str | None = None
    node_version: str | None = None
    python_version: str | None = None
    is_application: bool | None = None
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    address_variables: tuple[str, ...] = ()
    routing: Routing = field(default_factory=Routing)

    @property
    def says_how_to_build(self) -> bool:
        """Whether it decides anything about the build."""
        return any(
            value is not None
            for value in (
                *(self.base, self.framework, self.install_command, self.build_command, self.output_directory),
                *(self.node_version, self.python_version),
            )
        )


def text_of(value: Any) -> str | None:
    """A text without blanks around it; None for anything else."""
    return value.strip() if isinstance(value, str) else None


def given_text(value: Any) -> str | None:
    """As `text_of`, and None for an empty one."""
    return text_of(value) or None


def version_of(value: Any) -> str | None:
    """A version, also where it was written as a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    text = given_text(value)
    return text[:100].removeprefix("v") if text else None


def environment_of(value: Any) -> dict[str, str]:
    """Variables that do no harm in a build; at most 50."""
    found: dict[str, str] = {}
    for name, given in as_mapping(value).items():
        text = (
            str(given).lower() if isinstance(given, bool) else str(given) if isinstance(given, int | float) else given
        )
        is_fit = isinstance(text, str) and len(text) <= _MAXIMUM_VALUE and not _CONTROL.search(text)
        if is_fit and _NAME.fullmatch(name) and not _WITHHELD.fullmatch(name) and len(found) < _MAXIMUM_VARIABLES:
            found[name] = str(text)
    return found
