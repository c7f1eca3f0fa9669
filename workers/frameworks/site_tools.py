"""Which programs besides package managers and Node a site is built with: Hugo, Go, Dart Sass, Deno. Pure.

What a tenant writes as a version is taken only if it is digits and dots: it becomes part of a command that fetches it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from workers.frameworks.detection import Detection
from workers.frameworks.hugo_modules import uses_hugo_modules
from workers.frameworks.node_projects import dependencies_of, scripts_of
from workers.frameworks.requests import VERSION_VARIABLES, ToolRequest
from workers.frameworks.source_tree import SourceTree, ancestors, join

# Newest versions by 2026-11.
_NEWEST: Mapping[str, str] = {"hugo": "0.168.0", "go": "1.27.3", "sass": "1.108.2", "deno": "2.9.8"}
# The oldest ones that are packages of the registries.
_OLDEST: Mapping[str, tuple[int, ...]] = {"hugo": (0, 124, 0), "go": (1, 21, 13), "sass": (1, 54, 0), "deno": (2, 0, 0)}
_LABELS: Mapping[str, str] = {"hugo": "Hugo", "go": "Go", "sass": "Dart Sass", "deno": "Deno"}
# As other hosts have it: extended_0.152.2, v0.152.2, 0.152.2+extended.
_VERSION = re.compile(
    r"(?:extended_)?v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:[+_/-](?:extended|withdeploy)){0,2}",
    re.ASCII | re.IGNORECASE,
)
_VERSION_FILES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "hugo": ((".tool-versions", r"(?m)^(?:go)?hugo[ \t]+(\S{1,40})"), (".hvm", r"^\s{0,9}(\S{1,40})")),
    "go": ((".tool-versions", r"(?m)^(?:go|golang)[ \t]+(\S{1,40})"),),
    "deno": ((".tool-versions", r"(?m)^deno[ \t]+(\S{1,40})"), (".dvmrc", r"^\s{0,9}(\S{1,40})")),
    "sass": (),
}
# Packages of npm that bring Hugo themselves.
_HUGO_PACKAGES = frozenset({"hugo-bin", "hugo-extended", "hugo-installer"})
_LOOKED_THROUGH = 300


def site_tools(
    tree: SourceTree, detection: Detection, variables: Mapping[str, str]
) -> tuple[list[ToolRequest], list[str]]:
    """The tools, and lines for the log. `variables`: of the project, by the names in VERSION_VARIABLES."""
    names = _names(tree, detection, variables)
    requests: list[ToolRequest] = []
    notices: list[str] = []
    for name in names:
        wanted, source = _wanted(tree, detection, variables, name)
        version, notice = _version(name, wanted, source)
        requests.append(ToolRequest(name, version))
        notices += [notice] if notice else []
    return requests, notices


def _names(tree: SourceTree, detection: Detection, variables: Mapping[str, str]) -> list[str]:
    directory = detection.root_directory
    package = tree.read_object(join(directory, "package.json")) or {}
    built = [text for name, text in scripts_of(package).items() if "build" in name or "hugo" in name]
    commands = " ".join([detection.install_command or "", detection.build_command or "", *built])
    names: list[str] = []
    runs_hugo = _runs(commands, "hugo") or detection.framework == "hugo"
    if runs_hugo and not (_HUGO_PACKAGES & dependencies_of(package).keys()) and not _pins_hugo(tree, detection):
        names.append("hugo")
    if runs_hugo:
        has_modules = uses_hugo_modules(tree, directory)
        names += ["go"] if has_modules else []
        has_version = VERSION_VARIABLES["sass"] in {**variables, **detection.environment}
        # The templates of a module are not here to be looked through.
        names += ["sass"] if has_version or has_modules or _mentions_dart_sass(tree, directory) else []
    if _runs(commands, "deno"):
        names.append("deno")
    return names


def _runs(commands: str, program: str) -> bool:
    return re.search(rf"(?<![\w@/.:-]){program}(?![\w@/.:-])", commands) is not None


def _pins_hugo(tree: SourceTree, detection: Detection) -> bool:
    """Whether Python's packages of the project bring Hugo along."""
    if detection.runtime != "python" or not detection.lockfile:
        return False
    text = tree.read_lockfile(detection.lockfile) or ""
    return re.search(r"(?m)^(?:hugo\b|name = \"hugo\")", text) is not None


def _mentions_dart_sass(tree: SourceTree, directory: str) -> bool:
    files = [path for place in ("layouts", "themes", "assets") for path in tree.find_below(join(directory, place))]
    pages = [path for path in files if path.endswith((".html", ".xml", ".toml", ".yaml"))]
    return any("dartsass" in (tree.read_start(path) or "").lower() for path in pages[:_LOOKED_THROUGH])


def _wanted(tree: SourceTree, detection: Detection, variables: Mapping[str, str], name: str) -> tuple[str | None, str]:
    variable = VERSION_VARIABLES[name]
    for given in (variables, detection.environment):
        if given.get(variable, "").strip():
            return given[variable].strip(), f"the variable {variable}"
    for above in ancestors(detection.root_directory):
        for file, pattern in _VERSION_FILES[name]:
            match = re.search(pattern, tree.read_text(join(above, file)) or "")
            if match:
                return match[1], join(above, file)
    return None, ""


def _version(name: str, wanted: str | None, source: str) -> tuple[str, str | None]:
    newest, label = _NEWEST[name], _LABELS[name]
    if wanted is None or wanted.lower() in ("latest", "stable", "lts"):
        return newest, f"{label} {newest}: set the variable {VERSION_VARIABLES[name]} to have another version."
    match = _VERSION.fullmatch(wanted)
    if match is None:
        return newest, f"{source} asks for an invalid version of {label}, so {newest} is used."
    parts = tuple(int(part or 0) for part in match.groups())
    if parts < _OLDEST[name]:
        oldest = ".".join(str(part) for part in _OLDEST[name])
        return oldest, f"{source} asks for {label} {'.'.join(map(str, parts))}; {oldest} is the oldest that there is."
    version = ".".join(str(part) for part in parts)
    return version, f"{label} {version}: {source}."
