"""Versions for Python packages that take theirs from git's history, which installs and builds don't have."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from workers.frameworks.node_projects import as_mapping
from workers.frameworks.source_tree import SourceTree, join

# Higher than what others ask of it: plugins of pytest want pytest >= 7.
VERSION = "999.0.0"
_SETUPTOOLS_SCM = re.compile(r"\b(?:setuptools[-_]scm|vcs[-_]versioning|hatch[-_]vcs|flit[-_]scm)\b", re.IGNORECASE)
# What names the program in the project's files, and the variable that it reads.
_OTHERS = (
    (re.compile(r"\bpbr\b", re.IGNORECASE), "PBR_VERSION"),
    (re.compile(r"\bpoetry-dynamic-versioning\b", re.IGNORECASE), "POETRY_DYNAMIC_VERSIONING_BYPASS"),
    (re.compile(r"\buv-dynamic-versioning\b", re.IGNORECASE), "UV_DYNAMIC_VERSIONING_BYPASS"),
)
_NAME = re.compile(r"(?m)^\s*name\s*=\s*[\"']?([A-Za-z0-9][A-Za-z0-9._-]{0,99})")


def history_versions(tree: SourceTree, directory: str) -> dict[str, str]:
    """Variable → VERSION for the package in the directory; empty where its version is written in its files."""
    project = _parse(tree.read_start(join(directory, "pyproject.toml")) or "")
    requires = as_mapping(project.get("build-system")).get("requires")
    needed = "\n".join(str(each) for each in requires) if isinstance(requires, list) else ""
    older = [tree.read_start(join(directory, name)) or "" for name in ("setup.cfg", "setup.py")]
    told = "\n".join([needed, *older])
    found = {variable: VERSION for pattern, variable in _OTHERS if pattern.search(told)}
    pdm = as_mapping(as_mapping(as_mapping(project.get("tool")).get("pdm")).get("version"))
    if pdm.get("source") == "scm":
        found["PDM_BUILD_SCM_VERSION"] = VERSION
    if _SETUPTOOLS_SCM.search(told):
        name = as_mapping(project.get("project")).get("name")
        match = _NAME.search("\n".join(older))
        name = name if isinstance(name, str) else match[1] if match else None
        if name:
            # Only for this package: the variable for all would rename dependencies that are built here.
            distribution = re.sub(r"[-_.]+", "_", name).upper()
            if re.fullmatch(r"[A-Z0-9_]{1,100}", distribution, re.ASCII):
                found[f"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_{distribution}"] = VERSION
    return found


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return {}
