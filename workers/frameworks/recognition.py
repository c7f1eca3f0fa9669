"""Chooses the row of the catalogue that a project fits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from shared.errors import FailureCode, StageFailure
from workers.frameworks import catalogue
from workers.frameworks.candidates import candidate_directories
from workers.frameworks.framework import Framework
from workers.frameworks.node_projects import installed_dependencies_of, scripts_of
from workers.frameworks.source_tree import SourceTree, ancestors, join
from workers.frameworks.workspaces import is_workspace_root

_SITE = r"(?:docs?|site|website|web|www|pages|demo|static|prod|production|app|client|frontend|storybook)"
# Of a package.json without a `build` script: one that says that it builds the site.
_SITE_SCRIPT = re.compile(rf"{_SITE}[:_-](?:build|generate)|(?:build|generate|export)[:_-]{_SITE}|generate|export")
# What GitHub Pages' Jekyll reads, besides its configuration.
_JEKYLL_PARTS = ("_layouts", "_posts", "_includes", "_sass", "_data")
_JEKYLL_GEM = re.compile(r"(?m)^\s*gem\s+['\"](?:jekyll|github-pages|just-the-docs)\b")

_PYTHON_DECLARATIONS = ("pyproject.toml", "requirements.txt", "docs/requirements.txt", "requirements-docs.txt")
_ZENSICAL = re.compile(r"(?m)^\s*[\"']?zensical\b")
_MKDOCS = re.compile(r"(?m)^\s*[\"']?mkdocs(?:-material)?\s*(?:[\[<>=~!;@\"',]|$)")


@dataclass(frozen=True, slots=True)
class Recognised:
    """`script`: the one in package.json that builds the site, where it isn't among those of the framework's row."""

    framework: Framework
    reason: str
    script: str | None = None


def choose_framework(
    tree: SourceTree,
    directory: str,
    package: dict[str, Any] | None,
    *,
    has_build_command: bool,
    has_output_directory: bool,
) -> Recognised:
    """Raises StageFailure PROJECT_NOT_RECOGNISED."""
    dependencies = installed_dependencies_of(package or {})
    for framework in catalogue.FRAMEWORKS:
        found = next((name for name in framework.dependencies if name in dependencies), None)
        if (
            found
            and _has_company(tree, directory, framework)
            and not _is_of_members(tree, directory, framework, package)
        ):
            return Recognised(framework, f"Framework {framework.label}: package.json depends on {found}.")
        found = find_file(tree, directory, framework)
        if found and framework.name == "mkdocs" and _builds_with_zensical(tree, directory):
            reason = f"Framework Zensical: found {join(directory, found)}, and the project depends on zensical."
            return Recognised(catalogue.BY_NAME["zensical"], reason)
        if found and _is_jekyll_or_other(tree, directory, framework, package):
            return Recognised(framework, f"Framework {framework.label}: found {join(directory, found)}.")
    scripts = scripts_of(package or {})
    script = "build" if "build" in scripts else lone_site_script(scripts)
    if script is not None:
        return _of_script(directory, script, scripts[script])
    if has_build_command:
        framework = catalogue.NODE if package is not None else catalogue.OTHER
        return Recognised(framework, "No known framework; the build command is the project's own.")
    if tree.is_file(join(directory, "index.html")) or has_output_directory:
        return Recognised(catalogue.STATIC, "Plain static files: nothing to build.")
    if tree.is_file(join(directory, "public/index.html")):
        found = join(directory, "public/index.html")
        return Recognised(catalogue.STATIC, f"Plain static files: found {found}; nothing to build.")
    raise _unrecognised(tree, directory)


def find_file(tree: SourceTree, directory: str, framework: Framework) -> str | None:
    """The file, relative to the directory, by which the framework is recognised."""
    found = next((name for name in framework.files if tree.is_file(join(directory, name))), None)
    if found is None:
        for name in framework.marked_files:
            if re.search(framework.mark, tree.read_start(join(directory, name)) or ""):
                found = name
                break
    return found if found and _has_company(tree, directory, framework) else None


def lone_site_script(scripts: dict[str, str]) -> str | None:
    """The only script that says that it builds a site, such as `docs:build`; None where several do."""
    named = [name for name in scripts if _SITE_SCRIPT.fullmatch(name)]
    return named[0] if len(named) == 1 else None


def _of_script(directory: str, name: str, text: str) -> Recognised:
    """By what the script runs: a member of a workspace may have its framework from the workspace's root."""
    for framework in catalogue.NODE_FRAMEWORKS:
        command = framework.command or ""
        if re.search(rf"(?<![\w/-]){re.escape(command)}(?![\w-])", text):
            return Recognised(
                framework, f"Framework {framework.label}: the script {name} of package.json runs `{command}`.", name
            )
    where = join(directory, "package.json")
    reason = f"No known framework; {where} has a {name} script."
    return Recognised(catalogue.NODE, reason, name)


def _is_of_members(tree: SourceTree, directory: str, framework: Framework, package: dict[str, Any] | None) -> bool:
    """Whether a workspace's root has the framework for its members: it holds neither pages nor a configuration of it,
    no script runs it, and a directory below may be a site."""
    scripts = scripts_of(package or {})
    command = framework.command or ""
    if not is_workspace_root(tree, directory) or not scripts.keys().isdisjoint(framework.scripts):
        return False
    if any(command in text for text in scripts.values()):
        return False
    configurations = [f"{framework.name}.config.{suffix}" for suffix in ("js", "mjs", "cjs", "ts", "mts", "cts")]
    files = (*framework.files, *framework.output_files, *configurations, "index.html")
    folders = ("src", "pages", "app", "content", framework.site_folder or "src")
    is_site = any(tree.is_file(join(directory, name)) for name in files) or any(
        tree.is_directory(join(directory, name)) for name in folders
    )
    # Last, as it reads the most.
    return not is_site and bool(candidate_directories(tree, directory))


def _builds_with_zensical(tree: SourceTree, directory: str) -> bool:
    """Zensical reads MkDocs' configuration as well."""
    places = [join(above, name) for above in ancestors(directory) for name in _PYTHON_DECLARATIONS]
    declared = "\n".join(tree.read_start(place) or "" for place in places)
    return bool(_ZENSICAL.search(declared)) and not _MKDOCS.search(declared)


def _has_company(tree: SourceTree, directory: str, framework: Framework) -> bool:
    needed = [join(directory, name) for name in framework.only_with]
    return not needed or any(tree.is_file(path) or tree.is_directory(path) for path in needed)


def _is_jekyll_or_other(tree: SourceTree, directory: str, framework: Framework, package: dict[str, Any] | None) -> bool:
    return framework.name != "jekyll" or _is_jekyll(tree, directory, package)


def _is_jekyll(tree: SourceTree, directory: str, package: dict[str, Any] | None) -> bool:
    """Whether a `_config.yml` is Jekyll's: other generators have a file of this name as well, and old repositories keep
    theirs. Plain pages next to it need no Jekyll."""
    if tree.is_file(join(directory, ".nojekyll")):
        return False
    if _JEKYLL_GEM.search(tree.read_text(join(directory, "Gemfile")) or ""):
        return True
    if "build" in scripts_of(package or {}):
        return False
    if any(tree.is_directory(join(directory, name)) for name in _JEKYLL_PARTS):
        return True
    index = tree.read_start(join(directory, "index.html"))
    # Jekyll passes a page without front matter on as it is.
    return index is None or index.startswith("---")


def _unrecognised(tree: SourceTree, directory: str) -> StageFailure:
    place = "the repository" if directory == "." else f"the directory {directory}"
    candidates = candidate_directories(tree, directory)
    elsewhere = f" (perhaps to {' or '.join(candidates)})" if candidates else ""
    return StageFailure(
        FailureCode.PROJECT_NOT_RECOGNISED,
        f"Nothing in {place} says how to build it. Add an index.html, or a package.json with a `build` script, or the"
        " configuration of a known framework (such as mkdocs.yml or hugo.toml); or set the build command and the output"
        f" directory in the project's settings. If the site is in a subdirectory, set the root directory{elsewhere}.",
    )
