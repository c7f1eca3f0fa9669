"""Which package manager and which Node a project needs, in exact versions. Pure.

A version that a project declares is taken as it is. Where it declares none, the format of its lockfile chooses the
newest line of versions that writes this format, and the tables below pin one version of that line: a build doesn't
change because somebody else published something.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from workers.frameworks.detection import Detection
from workers.frameworks.node_projects import declared_manager, unknown_manager_notice, wanted_manager_version
from workers.frameworks.python_versions import python_request
from workers.frameworks.requests import VERSION_VARIABLES, ToolRequest
from workers.frameworks.site_tools import site_tools
from workers.frameworks.source_tree import SourceTree

# Newest versions by 2026-11.
_NEWEST: Mapping[str, str] = {
    "pnpm": "10.34.8",
    "yarn": "1.22.22",
    "bun": "1.4.5",
    "poetry": "2.5.1",
    "pipenv": "2026.10.3",
}
# What pnpm writes as `lockfileVersion`, and what yarn 2 and later write as the version in `__metadata`.
_PNPM_BY_LOCKFILE: Mapping[str, str] = {"5": "7.33.7", "6": "8.15.9", "9": _NEWEST["pnpm"]}
_PNPM_LINES = (_NEWEST["pnpm"], "9.15.9", "8.15.9", "7.33.7")
_BERRY_BY_LOCKFILE: Mapping[int, str] = {4: "2.4.2", 5: "3.8.7", 6: "3.8.7", 7: "4.18.1", 8: "4.18.1"}
_NEWEST_BERRY = "4.18.1"
_YARN_LINES = (_NEWEST_BERRY, "3.8.7", "2.4.2", _NEWEST["yarn"])
# Besides the one that Cloudify's Node comes with, newest first.
_NPM_LINES = ("11.21.2", "10.9.4", "9.9.4", "8.19.4")
# The newest npm that each older line of Node runs, which is fetched with it.
NPM_OF_NODE: Mapping[str, str] = {"16": "8.19.4", "18": "10.9.4", "20": "10.9.4", "22": "10.9.4"}
NEWEST_NPM = _NPM_LINES[0]
# The Node lines besides the one that Cloudify comes with, newest first.
_NODES = ("26.10.0", "22.23.3", "20.20.2", "18.20.8", "16.20.2")

_EXACT = re.compile(r"\d{1,5}\.\d{1,5}\.\d{1,5}(?:-[0-9A-Za-z.-]{1,40})?")
_COMPARISON = re.compile(r"\s*(>=|<=|>|<|\^|~>?|=)?\s*v?(\d+|[xX*])(?:\.(\d+|[xX*]))?(?:\.(\d+|[xX*]))?[-+\w.]*")
_CODE_NAMES: Mapping[str, int] = {"gallium": 16, "hydrogen": 18, "iron": 20, "jod": 22, "krypton": 24}


def is_exact(version: str) -> bool:
    return _EXACT.fullmatch(version) is not None


def required_tools(
    tree: SourceTree,
    detection: Detection,
    node: str,
    npm: str,
    *,
    python: str = "",
    variables: Mapping[str, str] | None = None,
) -> tuple[list[ToolRequest], str | None]:
    """What a build fetches besides the toolchain's Node `node`, npm `npm` and Python `python`; and a line for the log,
    or None.

    `variables`: those of the project that choose a version.
    """
    requests: list[ToolRequest] = []
    notices: list[str | None] = []
    commands = f"{detection.install_command or ''} {detection.build_command or ''}"
    if detection.runtime == "node":
        request, notice = node_request(detection.node_version, node)
        requests += [request] if request else []
        notices.append(notice)
        if request is not None:
            npm = npm_of(request.version)
    manager, version, _ = declared_manager(tree, detection.root_directory)
    names = dict.fromkeys(re.findall(r"(?<![\w@/.-])(pnpm|yarn|bunx?|poetry|pipenv)(?![\w@/.-])", commands))
    for name in dict.fromkeys("bun" if found == "bunx" else found for found in names):
        declared = version if manager == name else ""
        wanted = wanted_manager_version(tree, detection.root_directory, name)
        lockfile = detection.lockfile if detection.package_manager == name else None
        request = manager_request(tree, name, declared, lockfile, wanted)
        requests += [request] if request else []
        if request is not None and declared:
            notices.append(_manager_notice(name, declared, request.version))
    if manager == "npm" and version and re.search(r"(?<![\w@/.-])np[mx](?![\w@/.-])", commands):
        chosen = _npm(version, npm)
        # Before Node, which brings an npm of its own.
        requests[:0] = [] if chosen == npm else [ToolRequest("npm", chosen)]
        notices.append(_manager_notice("npm", version, chosen))
    if detection.runtime == "node":
        used = detection.package_manager or "npm"
        notices.append(unknown_manager_notice(tree, detection.root_directory, used))
    if detection.runtime == "python" and python:
        wanted = (variables or {}).get(VERSION_VARIABLES["python"], "").strip() or detection.python_version
        request, notice = python_request(wanted, python)
        requests += [request] if request else []
        notices.append(notice)
    others, said = site_tools(tree, detection, variables or {})
    requests += others
    notices += said
    return requests, " ".join(notice for notice in notices if notice) or None


def npm_of(node: str) -> str:
    """The npm that is fetched with a Node of this version."""
    return NPM_OF_NODE.get(node.partition(".")[0], NEWEST_NPM)


def _npm(declared: str, available: str) -> str:
    if is_exact(declared):
        return declared
    return next((version for version in (available, *_NPM_LINES) if _satisfies(version, declared)), available)


def _manager_notice(manager: str, declared: str, used: str) -> str | None:
    if used == declared or (not is_exact(declared) and _satisfies(used, declared)):
        return None
    return f"The project asks for {manager} {declared}; {used} is used. Name an exact version to have that one."


def manager_request(
    tree: SourceTree, manager: str, declared: str, lockfile: str | None, wanted: str = ""
) -> ToolRequest | None:
    """None for the managers that every build has (npm, pip, uv).

    `declared`: of packageManager, else empty; `wanted`: of engines, else empty. Either may be a range.
    """
    if manager not in _NEWEST:
        return None
    exact = next((version for version in (declared, wanted) if is_exact(version)), "")
    if manager == "yarn":
        return _yarn(tree, exact, lockfile, declared)
    if manager == "pnpm" and not exact:
        exact = _pnpm(tree, lockfile, declared or wanted)
    return ToolRequest(manager, exact or _NEWEST[manager])


def _pnpm(tree: SourceTree, lockfile: str | None, wanted: str) -> str:
    """pnpm refuses a project whose `engines` don't fit it, so a range narrows what the lockfile allows."""
    match = re.search(r"(?m)^lockfileVersion:\s*['\"]?(\d+)", _beginning(tree, lockfile))
    of_lockfile = _PNPM_BY_LOCKFILE.get(match[1] if match else "", "")
    lines = [of_lockfile or _NEWEST["pnpm"], *_PNPM_LINES]
    return next((version for version in lines if wanted and _satisfies(version, wanted)), of_lockfile)


def _yarn(tree: SourceTree, exact: str, lockfile: str | None, wanted: str) -> ToolRequest:
    of_lockfile = _yarn_of_lockfile(tree, lockfile)
    lines = (of_lockfile.version, *_YARN_LINES)
    version = exact or next((line for line in lines if wanted and _satisfies(line, wanted)), "")
    major = re.match(r"[\^~=v\s]*(\d{1,5})", wanted)
    if not version and major and int(major[1]) > 1 and of_lockfile.name == "yarn":
        # The install command is that of the later versions.
        version = _NEWEST_BERRY
    return ToolRequest("yarn" if version.startswith(("0.", "1.")) else "berry", version) if version else of_lockfile


def _yarn_of_lockfile(tree: SourceTree, lockfile: str | None) -> ToolRequest:
    match = re.search(r"(?m)^__metadata:\s*\n\s+version:\s*['\"]?(\d+)", _beginning(tree, lockfile))
    if match:
        return ToolRequest("berry", _BERRY_BY_LOCKFILE.get(int(match[1]), _NEWEST_BERRY))
    return ToolRequest("yarn", _NEWEST["yarn"])


def _beginning(tree: SourceTree, path: str | None) -> str:
    return ((tree.read_lockfile(path) if path else None) or "")[:4096]


def node_request(wanted: str | None, available: str) -> tuple[ToolRequest | None, str | None]:
    """The Node to fetch, None for the `available` one, and a line for the log when none fits."""
    if wanted is None or _satisfies(available, wanted):
        return None, None
    for version in _NODES:
        if _satisfies(version, wanted):
            return ToolRequest("node", version), None
    # Of an exact version's line, another one will do; the wish for a line that doesn't exist can't be met.
    major = re.match(r"[\s^~=v]*(\d+)", wanted)
    for version in (available, *_NODES):
        if major is not None and version.startswith(f"{major[1]}."):
            request = None if version == available else ToolRequest("node", version)
            return request, f"The project asks for Node {wanted}; {version} is the one of that line that there is."
    oldest, named = _NODES[-1], [int(number) for number in re.findall(r"(?<![\d.])\d{1,5}", wanted)]
    if named and max(named) <= _parts(oldest)[0]:
        # What ran on Node 14 has a better chance on 16 than on the newest one.
        return ToolRequest("node", oldest), f"The project asks for Node {wanted}; {oldest} is the oldest that there is."
    lines = ", ".join(str(line) for line in sorted({_parts(v)[0] for v in (available, *_NODES)}, reverse=True))
    return None, f"The project asks for Node {wanted}; there are {lines}, and {available} is used."


def _satisfies(version: str, wanted: str) -> bool:
    """Whether the version lies in a range as npm writes them, or is the line that .nvmrc names (`lts/iron`)."""
    text = wanted.strip().lower()
    if text in ("", "*", "node", "stable", "latest", "current", "lts/*", "lts", "lts/-0"):
        return True
    if text.startswith("lts/"):
        return _parts(version)[0] == _CODE_NAMES.get(text.removeprefix("lts/"), -1)
    return any(_satisfies_all(version, alternative) for alternative in text.split("||"))


def _satisfies_all(version: str, text: str) -> bool:
    both = re.fullmatch(r"\s*v?(\S+)\s+-\s+v?(\S+)\s*", text)
    if both:
        text = f">={both[1]} <={both[2]}"
    comparisons = list(_COMPARISON.finditer(text))
    is_understood = comparisons and not re.sub(r"\s", "", _COMPARISON.sub("", text))
    return bool(is_understood) and all(_compare(version, match) for match in comparisons)


def _compare(version: str, match: re.Match[str]) -> bool:
    operator = match[1] or "="
    given = [int(part) for part in match.groups()[1:] if part is not None and part.isdigit()]
    if not given:
        return True
    have = _parts(version)
    low = (*given, 0, 0)[:3]
    # The first version above what a partial one covers: 20 → 21.0.0, 20.3 → 20.4.0, 20.3.1 → 20.3.2.
    above = (*given[:-1], given[-1] + 1, 0, 0)[:3]
    if operator == "^":
        above = (given[0] + 1, 0, 0) if given[0] else above
    elif operator in ("~", "~>") and len(given) == 3:
        above = (given[0], given[1] + 1, 0)
    match operator:
        case ">=":
            return have >= low
        case ">":
            return have >= above
        case "<":
            return have < low
        case "<=":
            return have < above
        case _:
            return low <= have < above


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("-")[0].split("."))
