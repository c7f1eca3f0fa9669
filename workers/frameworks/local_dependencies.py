"""What makes an install read files of the repository that its key doesn't name.

A deployment that finds dependencies by such a key gets those of another commit: the site is wrong and nothing says so.
Therefore only commands, requirements and settings pass that are known to read nothing else; an unknown one counts as a
reader. Texts and decoded JSON only; nothing is opened here.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from workers.frameworks.node_projects import as_mapping

# Program and subcommands that install what lockfile and package.json say, or packages of the registry.
_NODE_INSTALLS: Mapping[str, frozenset[str]] = {
    "npm": frozenset({"ci", "clean-install", "install", "i", "add"}),
    "pnpm": frozenset({"install", "i", "add"}),
    "yarn": frozenset({"install", "add"}),
    "bun": frozenset({"install", "i", "add"}),
}
# A switch without a value, or with one that is no path.
_SWITCH = re.compile(r"--[a-z][a-z-]*|--(?:include|omit|only|production|loglevel|reporter|linker)=\w+|-[DEPdq]")
_ELSEWHERE = frozenset({"--prefix", "--cwd", "--dir", "--directory", "--project", "--global", "--editable"})
_ARCHIVE = re.compile(r"\.(?:tgz|tar|tar\.\w+|whl|zip)$", re.IGNORECASE)
_NPM_PACKAGE = re.compile(r"(?:@[\w-][\w.-]*/)?\w[\w.-]*(?:@[\w.^~-]+)?")
_PYTHON_PACKAGE = re.compile(r"\w[\w.-]*(?:\[[\w,.-]*\])?(?:[<>=!~]=?[\w.*,<>=!~]+)?")

_REGISTRY_OPTION = re.compile(
    r"(?:-i|--index-url|--extra-index-url)[ =]https?://\S+|--trusted-host[ =]\S+|--(?:no|only)-binary[ =]\S+"
    r"|--pre|--prefer-binary|--require-hashes|--no-index"
)
_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\]\s*)?"
    r"(?:@\s*(?:git\+)?(?:https?|ssh)://\S.*|(?:[(<>=!~;]|--hash).*)?"
)
_REMOTE = re.compile(r"(?:git\+)?(?:https?|ssh)://\S.*")

_LOCAL_VERSION = re.compile(r"\.|/|~/|(?:file|link|portal|exec):")
# The directory of the patches is part of the key (see dependency_key).
_KNOWN_PATCH = re.compile(r"patch:[^#]*#(?:~/\.yarn/patches/|(?:optional!|~)?builtin<)")
# Its own install script reads the schema that lies in the project.
_READERS = frozenset({"@prisma/client"})

_PATH = re.compile(r"""[=\s"'\[:]\.{1,2}/""")
_INJECTED = re.compile(r"inject-?workspace-?packages\s*[=:]\s*true|\binjected:\s*true", re.IGNORECASE)
_PATCH_ENTRY = re.compile(r""":\s*["']?([^\s"':]+\.patch)\b""")


def is_plain_install(command: str, manager: str | None, requirements: str | None) -> bool:
    """Whether the command installs by `manager` what the key names, or packages of a registry, and does nothing else.

    `requirements`: the requirements file, by its name in the directory where the command runs.
    """
    try:
        parts = [shlex.split(part) for part in command.split("&&")]
    except ValueError:
        return False
    return all(_is_plain(words, manager, requirements) for words in parts)


def _is_plain(words: list[str], manager: str | None, requirements: str | None) -> bool:
    program, *rest = words or [""]
    if program == "corepack":
        return rest == ["enable"]
    if program in _NODE_INSTALLS:
        if program != manager or (rest and rest[0] not in _NODE_INSTALLS[program]):
            return False
        return (bool(rest) or program == "yarn") and all(_is_harmless(word, _NPM_PACKAGE) for word in rest[1:])
    if program in ("uv", "poetry", "pipenv") and rest[:1] in (["sync"], ["install"]):
        return program == manager and all(_is_harmless(word, None) for word in rest[1:])
    if program == "uv" and rest[:1] == ["pip"]:
        program, rest = "pip", rest[1:]
    if program not in ("pip", "pip3") or rest[:1] != ["install"]:
        return False
    arguments = rest[1:]
    while arguments:
        if arguments[:2] == ["-r", requirements]:
            arguments = arguments[2:]
        elif _is_harmless(arguments[0], _PYTHON_PACKAGE):
            arguments = arguments[1:]
        else:
            return False
    return True


def _is_harmless(word: str, package: re.Pattern[str] | None) -> bool:
    if word.startswith("-"):
        return _SWITCH.fullmatch(word) is not None and word not in _ELSEWHERE
    return package is not None and package.fullmatch(word) is not None and _ARCHIVE.search(word) is None


# --- Python ---


def requirements_read_files(text: str) -> bool:
    """Whether a requirements file names another file or directory."""
    joined = re.sub(r"\\\r?\n", " ", text)
    lines = (re.sub(r"(?:^|\s)#.*", "", line).strip() for line in joined.splitlines())
    return any(line and not _is_of_registry(line) for line in lines)


def _is_of_registry(line: str) -> bool:
    if line.startswith("-"):
        return _REGISTRY_OPTION.fullmatch(line) is not None
    if _REMOTE.fullmatch(line):
        return True
    match = _REQUIREMENT.fullmatch(line)
    return match is not None and _ARCHIVE.search(match["name"]) is None


def python_project_reads_files(text: str) -> bool:
    """Whether pyproject.toml makes the install build the project itself, or name files next to it."""
    try:
        project = tomllib.loads(text)
    except (ValueError, RecursionError):
        return True
    tools = as_mapping(project.get("tool"))
    uv, poetry = as_mapping(tools.get("uv")), tools.get("poetry")
    if uv.get("package", "build-system" in project) or uv.keys() & {"sources", "workspace", "find-links"}:
        return True
    if isinstance(poetry, dict) and as_mapping(poetry).get("package-mode") is not False:
        return True
    if '"path"' in json.dumps([poetry, uv], default=str) or _names_path(uv.get("index")):
        return True
    own = as_mapping(project.get("project"))
    groups = [own.get("dependencies"), own.get("optional-dependencies"), project.get("dependency-groups")]
    requirements = "\n".join(_strings([group for group in groups if group is not None]))
    return requirements_read_files(requirements)


def uv_settings_read_files(text: str) -> bool:
    """Whether pyproject.toml sends uv to files for what a requirements file names."""
    try:
        uv = as_mapping(as_mapping(tomllib.loads(text).get("tool")).get("uv"))
    except (ValueError, RecursionError):
        return True
    return _names_path(uv.get("index")) or '"find-links"' in json.dumps(uv, default=str)


def uv_lock_names_local_index(text: str) -> bool:
    return re.search(r'registry = "(?!https?://)', text) is not None


def python_lock_reads_files(name: str, text: str) -> bool:
    """Of uv.lock, poetry.lock, Pipfile.lock and Pipfile."""
    if name == "Pipfile":
        return bool(re.search(r"""\b(?:path|editable)["']?\s*=|\bfile["']?\s*=\s*["'](?!https?://)""", text))
    if name == "uv.lock":
        return bool(re.search(r"\{ (?:editable|directory|path) = ", text)) or uv_lock_names_local_index(text)
    if name == "poetry.lock":
        return bool(re.search(r'(?m)^type = "(?:directory|file)"', text))
    return bool(re.search(r'"path"\s*:|"editable"\s*:\s*true|"file"\s*:\s*"(?!https?://)', text))


def python_configuration_reads_files(text: str) -> bool:
    """Of uv.toml and poetry.toml."""
    return _PATH.search(text) is not None or "find-links" in text


def _names_path(value: Any) -> bool:
    return any(not text.startswith(("http://", "https://")) and "/" in text for text in _strings(value))


# --- Node ---


def package_reads_files(package: Mapping[str, Any]) -> bool:
    """Whether a package.json names dependencies or patches next to itself."""
    fields = ("dependencies", "devDependencies", "optionalDependencies")
    if any(as_mapping(package.get(field)).keys() & _READERS for field in fields):
        return True
    pnpm, workspaces = as_mapping(package.get("pnpm")), as_mapping(package.get("workspaces"))
    versions = [package.get(field) for field in (*fields, "overrides", "resolutions", "catalog", "catalogs")]
    versions += [pnpm.get("overrides"), pnpm.get("packageExtensions")]
    versions += [workspaces.get("catalog"), workspaces.get("catalogs")]
    if any(is_local_version(version) for version in _strings(versions)):
        return True
    patches = _strings([package.get("patchedDependencies"), pnpm.get("patchedDependencies")])
    if any(not _is_known_patch(path) for path in patches):
        return True
    return any(as_mapping(meta).get("injected") for meta in as_mapping(package.get("dependenciesMeta")).values())


def is_local_version(version: str) -> bool:
    if version.startswith("patch:"):
        return _KNOWN_PATCH.match(version) is None
    is_file = _ARCHIVE.search(version) is not None and "://" not in version
    return is_file or _LOCAL_VERSION.match(version) is not None


def node_configuration_reads_files(name: str, text: str) -> bool:
    """Of a file that a Node package manager is configured by; `name` without directories."""
    if "pnpmfile" in name:
        return re.search(r"\b(?:require|import|process)\b", text) is not None
    if _INJECTED.search(text):
        return True
    if name == "pnpm-workspace.yaml":
        is_local = re.search(r"(?<![\w-])(?:file|link|portal):|[\"'\s]\.\./|pnpmfile", text)
        return bool(is_local) or any(not _is_known_patch(path) for path in _PATCH_ENTRY.findall(text))
    if name == ".yarnrc.yml" and re.search(
        r"yarnPath:\s*[\"']?(?!\.yarn/releases/)\S|\bpath:\s*[\"']?(?!\.yarn/plugins/)\S", text
    ):
        return True
    return _PATH.search(text) is not None or re.search(r"pnpmfile|node-options|patches-dir", text) is not None


def _is_known_patch(path: str) -> bool:
    return path.removeprefix("./").startswith("patches/") and ".." not in path.split("/")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for member in cast("dict[str, Any]", value).values():
            yield from _strings(member)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _strings(item)
