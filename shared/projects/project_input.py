"""Validates a project's settings: one function for each field, which returns the problem or None."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from shared.deployments.deployment_input import is_branch_name
from shared.deployments.state import SiteRuntime
from shared.projects.commands import find_command_problem
from shared.settings import SitePodSettings
from shared.text.slugs import slug_of
from shared.text.written import find_name_problem, is_written_text

_SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_NODE_VERSION = re.compile(r"(v?\d{1,3}(\.\d{1,4}){0,2}|v?\d{1,3}\.x|lts(/[a-z*-]{1,20})?|\d{1,3}\.\d{1,4}\.x)")

MAXIMUM_SLUG = 40

# Host labels of the platform itself, and labels that visitors could mistake for it.
RESERVED_SLUGS = frozenset([
    "account", "admin", "api", "app", "assets", "auth", "billing", "blog", "cdn", "cloudify", "console", "dashboard",
    "docs", "ftp", "git", "health", "help", "imap", "internal", "localhost", "login", "mail", "metrics", "ns1", "ns2",
    "pop", "preview", "registry", "root", "sites", "smtp", "ssh", "static", "status", "support", "system", "webmail",
    "wpad", "www",
])  # fmt: skip


def slug_from(name: str) -> str:
    """`Café Straße!` → `cafe-strasse`; `project` if no character of the name can be used."""
    return slug_of(name)[:MAXIMUM_SLUG].strip("-") or "project"


def numbered_slug(slug: str, number: int) -> str:
    """`site`, 2 → `site-2`, cut to the maximum length of a slug."""
    suffix = f"-{number}"
    return slug[: MAXIMUM_SLUG - len(suffix)].rstrip("-") + suffix


def slug_problem(slug: str) -> str | None:
    if not _SLUG.fullmatch(slug):
        return "must be 1 to 40 lower-case letters, digits and hyphens, and neither start nor end with a hyphen"
    if slug in RESERVED_SLUGS:
        return f"{slug} is reserved for the platform; choose another"
    return None


def name_problem(name: str) -> str | None:
    return find_name_problem(name, maximum=100)


def branch_problem(branch: str) -> str | None:
    return None if is_branch_name(branch) else "is not a branch name that git accepts"


def directory_problem(directory: str) -> str | None:
    """Checks a path inside the repository; `.` is its root."""
    if not 1 <= len(directory) <= 500:
        return "must have from 1 to 500 characters; use . for the root of the repository"
    if not is_written_text(directory) or "\\" in directory:
        return "can't hold control characters or backslashes"
    if directory.startswith(("/", "~")) or ".." in directory.split("/"):
        return "must lie inside the repository: relative and without .."
    return None


def node_version_problem(version: str) -> str | None:
    return None if _NODE_VERSION.fullmatch(version) else "must be a version like 22, 22.x, 22.11.0 or lts"


def framework_problem(framework: str) -> str | None:
    fits = re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,49}", framework)
    return None if fits else "must be the name of a framework in lower case, like vite or mkdocs"


def build_network_problem(network: str) -> str | None:
    return None if network in ("none", "filtered") else "must be none or filtered, or null for the platform's default"


# Column → (name in JSON, check).
CHECKS: Mapping[str, tuple[str, Callable[[str], str | None]]] = {
    "name": ("name", name_problem),
    "slug": ("slug", slug_problem),
    "repository_branch": ("repositoryBranch", branch_problem),
    "root_directory": ("rootDirectory", directory_problem),
    "framework": ("framework", framework_problem),
    "install_command": ("installCommand", find_command_problem),
    "build_command": ("buildCommand", find_command_problem),
    "output_directory": ("outputDirectory", directory_problem),
    "node_version": ("nodeVersion", node_version_problem),
    "build_network": ("buildNetwork", build_network_problem),
}


def field_problems(values: Mapping[str, object]) -> dict[str, str]:
    """Returns all problems by the field's name in JSON. Values that are not strings are skipped."""
    problems: dict[str, str] = {}
    for column, (field, check) in CHECKS.items():
        value = values.get(column)
        if isinstance(value, str) and (problem := check(value)) is not None:
            problems[field] = problem
    return problems


def runtime_problems(values: Mapping[str, object], offered: SitePodSettings) -> dict[str, str]:
    """Problems of `runtime` and `replicas`, by their names in JSON."""
    problems: dict[str, str] = {}
    runtime, replicas = values.get("runtime"), values.get("replicas")
    names = [str(each) for each in SiteRuntime]
    if isinstance(runtime, str) and runtime not in names:
        problems["runtime"] = f"must be one of {', '.join(names)}"
    elif runtime == SiteRuntime.PODS and not offered.is_offered:
        problems["runtime"] = "pods is not offered here: the platform has no cluster for sites; use files"
    if isinstance(replicas, int) and not 1 <= replicas <= offered.maximum_replicas:
        problems["replicas"] = f"must be from 1 to {offered.maximum_replicas}"
    return problems
