"""What is decided about a project before anything is detected: by its settings, then `cloudify.toml`, then the files of
other hosts. The first that says a thing counts; of the files of other hosts, one decides how the site is built.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from shared.errors import FailureCode, StageFailure
from shared.text.written import escaped
from workers.frameworks import catalogue
from workers.frameworks.outputs import MAXIMUM_PATH
from workers.frameworks.site_files.cloudify import NAME as OWN_FILE
from workers.frameworks.site_files.cloudify import read_cloudify
from workers.frameworks.site_files.fields import SiteFile
from workers.frameworks.site_files.formats import BrokenFile
from workers.frameworks.site_files.host_commands import adapted, is_install
from workers.frameworks.site_files.hosts import (
    read_azure,
    read_netlify,
    read_render,
    read_vercel,
    read_wrangler,
)
from workers.frameworks.site_files.read_the_docs import read_the_docs
from workers.frameworks.site_files.routing import Routing
from workers.frameworks.source_tree import SourceTree, join

# All names, in the project's directory or at the top: a commit that adds or changes one has to be built.
CONFIGURATION_FILES = (
    *(OWN_FILE, "netlify.toml", "vercel.json", "wrangler.jsonc", "wrangler.json", "wrangler.toml", "render.yaml"),
    *(".readthedocs.yaml", ".readthedocs.yml", "readthedocs.yaml", "readthedocs.yml", "staticwebapp.config.json"),
)
SETTINGS = "the project's settings"
_LABELS = {
    "framework": "Framework",
    "install_command": "Install command",
    "build_command": "Build command",
    "output_directory": "Output directory",
    "node_version": "Node version",
    "python_version": "Python version",
}
_FIELDS = tuple(_LABELS)


@dataclass(frozen=True, slots=True)
class Overrides:
    """The project's settings; None means detect. An empty command means: run none.

    `package_manager` chooses Node's where no packageManager field does. `is_application`: whether the site's first page
    is shown for paths that it doesn't have.
    """

    framework: str | None = None
    install_command: str | None = None
    build_command: str | None = None
    output_directory: str | None = None
    node_version: str | None = None
    package_manager: str | None = None
    is_application: bool | None = None
    is_preview: bool = False


@dataclass(frozen=True, slots=True)
class Choices:
    """As `Overrides`, after the files were read. `sources` says for each field where its value comes from, in words.

    `is_hosts_output`: the output directory is another host's, so that those of the framework are looked for after it.
    `extra_installs` are commands that a host's build command begins with.
    """

    root_directory: str
    sources: Mapping[str, str]
    reasons: tuple[str, ...] = ()
    framework: str | None = None
    install_command: str | None = None
    build_command: str | None = None
    output_directory: str | None = None
    node_version: str | None = None
    python_version: str | None = None
    is_hosts_output: bool = False
    is_hosts_command: bool = False
    extra_installs: tuple[str, ...] = ()
    is_application: bool | None = None
    environment: Mapping[str, str] | None = None
    address_variables: tuple[str, ...] = ()
    routing: Routing = field(default_factory=Routing)


def choose(tree: SourceTree, directory: str, overrides: Overrides) -> Choices:
    """`directory`: the project's, relative to the tree's root. Raises StageFailure CONFIGURATION_INVALID."""
    reasons: list[str] = []
    own = read_cloudify(tree, directory)
    root = directory
    if own is not None and own.base is not None:
        root = _moved(tree, own, directory, reasons)
    hosts = _host_files(tree, directory, overrides, reasons)
    deciding = next((file for file in hosts if file.says_how_to_build), None)
    unused = [file.path for file in hosts if file is not deciding and file.says_how_to_build]
    if deciding is not None and unused:
        reasons.append(f"{', '.join(unused)} doesn't decide how to build: {deciding.path} does.")
    # A root directory of the project's settings is one already.
    if deciding is not None and deciding.base is not None and root == directory == ".":
        root = _moved(tree, deciding, directory, reasons)
    host, installs = _of_host(tree, root, deciding, reasons) if deciding else ({}, ())
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    ours = {} if own is None else {name: getattr(own, name) for name in _FIELDS}
    for name in _FIELDS:
        for given, source in (
            (getattr(overrides, name, None), SETTINGS),
            (ours.get(name), _source(own, name)),
            (host.get(name), _source(deciding, name)),
        ):
            # An empty text means something for a command alone.
            if given is not None and (given.strip() or name.endswith("_command")):
                values[name], sources[name] = given.strip(), source
                break
    files = [file for file in (own, *hosts) if file is not None]
    routed = next((file for file in files if file.routing), None)
    if routed is not None:
        reasons.append(_routing_reason(routed))
    return Choices(
        root,
        sources,
        tuple(reasons),
        **values,
        is_hosts_output="output_directory" in host and values.get("output_directory") == host["output_directory"],
        is_hosts_command="build_command" in host and sources["build_command"] == _source(deciding, "build_command"),
        extra_installs=installs,
        is_application=_first(overrides.is_application, *(file.is_application for file in files)),
        environment=_environment(own, deciding or next((file for file in hosts if file.environment), None)),
        address_variables=deciding.address_variables if deciding else (),
        routing=routed.routing if routed else Routing(),
    )


def _host_files(tree: SourceTree, directory: str, overrides: Overrides, reasons: list[str]) -> list[SiteFile]:
    """Of the project's directory. One at the repository's top counts for a directory below it if it names that."""
    found: list[SiteFile] = []
    readers: tuple[Callable[[SourceTree, str], SiteFile | None], ...] = (
        partial(read_netlify, is_preview=overrides.is_preview),
        *(read_vercel, read_wrangler, read_render, read_the_docs, read_azure),
    )
    for read in readers:
        for place in dict.fromkeys((directory, ".")):
            try:
                file = read(tree, place)
            except BrokenFile as error:
                reasons.append(f"{escaped(str(error))}. So it isn't used; correct it and push again.")
                continue
            if file is not None and (place == directory or posixpath.normpath(file.base or ".") == directory):
                found.append(file)
                break
    return found


def _moved(tree: SourceTree, file: SiteFile, directory: str, reasons: list[str]) -> str:
    """The directory that the file names as the site's. Raises StageFailure if it is Cloudify's own and wrong."""
    base = posixpath.normpath(file.base or ".")
    if base == directory:
        return directory
    name = f"{file.path} ({file.names.get('base', 'base')})"
    if base.startswith(("..", "/")) or len(base) > MAXIMUM_PATH or not tree.is_directory(base):
        problem = f"{name} names the directory {escaped(base[:200])}, which the repository doesn't have."
        if file.path.endswith(OWN_FILE):
            raise StageFailure(FailureCode.ROOT_DIRECTORY_NOT_FOUND, f"{problem} Correct the file and push again.")
        reasons.append(f"{problem} So it isn't used.")
        return directory
    reasons.append(f"Root directory {escaped(base)}: {name}.")
    return base


def _of_host(tree: SourceTree, root: str, file: SiteFile, reasons: list[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The fields of the file that can be used here, and the installs that its build command begins with."""
    values = {name: value for name in _FIELDS if (value := getattr(file, name)) is not None}
    installs: tuple[str, ...] = ()
    for name in ("install_command", "build_command"):
        command = values.get(name)
        if not command:
            continue
        # An install command consists of such parts.
        found = adapted(command)
        if found.problem is not None:
            reasons.append(f"{_LABELS[name]} of {_source(file, name)} isn't used, because it {found.problem}")
            del values[name]
        elif name == "install_command":
            values[name] = command if any(is_install(part.strip()) for part in command.split("&&")) else found.build
        elif found.build:
            values[name], installs = found.build, found.installs
        else:
            installs = found.installs
            del values[name]
    if values.get("framework") not in catalogue.BY_NAME or not _may_be(tree, root, values.get("framework")):
        values.pop("framework", None)
    output = values.get("output_directory")
    if output is not None:
        fitting = _output(root, output)
        if fitting is None:
            reasons.append(
                f"Output directory {escaped(output[:200])} of {_source(file, 'output_directory')} isn't used."
            )
            del values["output_directory"]
        else:
            values["output_directory"] = fitting
    return values, installs


def _may_be(tree: SourceTree, root: str, framework: str | None) -> bool:
    row = catalogue.BY_NAME.get(framework or "")
    return row is not None and (row.runtime != "node" or tree.is_file(join(root, "package.json")))


def _output(root: str, text: str) -> str | None:
    """Relative to the root directory, perhaps next to it; None for what can't be an output."""
    path = posixpath.normpath(join(root, text))
    if text.startswith("/") or path.startswith("..") or "\0" in text or "\n" in text or len(path) > MAXIMUM_PATH:
        return None
    # What Next.js leaves there are the parts of a server.
    if PurePosixPath(path).name == ".next":
        return None
    relative = posixpath.relpath(path, root)
    return None if set(relative.split("/")) == {".."} else relative


def _source(file: SiteFile | None, name: str) -> str:
    return "" if file is None else f"{file.path} ({file.names.get(name, name)})"


def _environment(own: SiteFile | None, host: SiteFile | None) -> dict[str, str]:
    return {**(host.environment if host else {}), **(own.environment if own else {})}


def _routing_reason(file: SiteFile) -> str:
    routing = file.routing
    said = [
        f"{count} {word}{'s' if count != 1 else ''}"
        for count, word in ((len(routing.redirects), "redirect"), (len(routing.headers), "header rule"))
        if count
    ]
    left = f"{routing.left_out} can't be expressed here and {'is' if routing.left_out == 1 else 'are'} left out"
    return f"{file.path}: {' and '.join(said) or 'no rule'} recorded{f'; {left}' if routing.left_out else ''}."


def _first(*values: bool | None) -> bool | None:
    return next((value for value in values if value is not None), None)
