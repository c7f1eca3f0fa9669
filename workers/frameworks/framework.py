"""How a framework is recognised and built: the type of the catalogue's rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Framework:
    """How a framework is recognised and what it does by default.

    Recognised by any of `dependencies` in package.json, by any of `files` in the project's directory, or by any of
    `marked_files` that the regular expression `mark` fits; but only if one of `only_with` is there as well, where
    there are any. The build command is the first of `scripts` that package.json has, before it one that runs `command`,
    else `command`. The output directory is what `output_pattern` finds in one of `output_files` (its only group), else
    the first of `output` and `other_outputs` that the build made. `packages` are installed where a Python project names
    none itself. `advice`: how a project that builds a server is made to build a static site. `caches`: directories,
    relative to the project's, that a later build of the project may start from; only those whose entries are valid by
    content or version, not by a file's time alone. `site_folder`: the folder next to the pages that holds the
    framework's configuration and, after the build, the site; the command names the directory that has it.
    `is_application`: what it builds has one page, which shows all paths. `base_option`: the setting that names the path
    below which its pages look for their files. `missing`: the program that this platform lacks, and `way_out`: what a
    user does about it.
    """

    name: str
    label: str
    runtime: Literal["node", "python", "ruby", "none"]
    output: str
    command: str | None = None
    dependencies: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ("build",)
    output_files: tuple[str, ...] = ()
    output_pattern: str | None = None
    packages: tuple[str, ...] = ()
    other_outputs: tuple[str, ...] = ()
    marked_files: tuple[str, ...] = ()
    mark: str = ""
    only_with: tuple[str, ...] = ()
    advice: str = ""
    caches: tuple[str, ...] = ()
    site_folder: str = ""
    is_application: bool = False
    base_option: str = ""
    missing: str = ""
    way_out: str = ""
