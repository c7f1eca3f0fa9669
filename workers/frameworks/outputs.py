"""Where each framework's build leaves the site."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from workers.frameworks import catalogue
from workers.frameworks.build_commands import page_directory
from workers.frameworks.catalogue import COMMON_OUTPUT_DIRECTORIES
from workers.frameworks.framework import Framework
from workers.frameworks.node_projects import as_mapping, installed_dependencies_of, scripts_of
from workers.frameworks.recognition import find_file
from workers.frameworks.source_tree import SourceTree, join

MAXIMUM_PATH = 500
MAXIMUM_OUTPUTS = 40
_MAXIMUM_SCRIPTS = 20
_VALUE = r"(?:=|\s+)['\"]?([^\s'\"]{1,500})"
_OPTION = re.compile(
    r"\s--(?:out|outDir|outdir|out-dir|output|output-path|output-dir|dest|destination|dist-dir|site-dir)" + _VALUE
)
# Short options that mean the output only with these.
_SHORT_OPTIONS: Mapping[str, re.Pattern[str]] = {
    "storybook": re.compile(r"\s-o" + _VALUE),
    "parcel": re.compile(r"\s-d" + _VALUE),
    "hugo": re.compile(r"\s-d" + _VALUE),
    "mkdocs": re.compile(r"\s-d" + _VALUE),
}
# The last program of a command, if it is one that takes pages.
_BUNDLER = re.compile(r"(?<![\w./-])(parcel|vite)\s+build\b[^;&|]{0,2000}$")
_ELEVENTY_CONFIGURATION = re.compile(r"\s--config" + _VALUE)
_SCRIPT_CALL = re.compile(
    r"\b(?:npm run|pnpm run|pnpm|yarn run|yarn|bun run|run-s|run-p|npm-run-all)\s+([\w:.-]{1,100})"
)
_DIRECTORY_CALL = re.compile(
    r"^\s*cd\s+['\"]?([^\s'\"]{1,500})|\s(?:--prefix|--cwd|--dir|-C)(?:=|\s+)['\"]?([^\s'\"]{1,500})"
)


def output_directories(
    tree: SourceTree, directory: str, framework: Framework, package: dict[str, Any] | None, build: str | None
) -> tuple[str, ...]:
    """Relative to the project's directory, the likeliest first.

    `build`: the build command, or the text of the script that it runs; None when there is no build.
    """
    texts = with_called_scripts(build or "", scripts_of(package or {}))
    named = [path for text in texts for path in _of_command(tree, directory, framework, text)]
    found = _by_framework(tree, directory, framework, texts, has_build=build is not None)
    return tuple(dict.fromkeys([*_of_last_bundler(framework, texts), *named, *found]))[:MAXIMUM_OUTPUTS]


def _of_last_bundler(framework: Framework, texts: list[str]) -> list[str]:
    """Where a bundler writes that reads the pages of a generator, as in `eleventy && parcel build '_site/*.html'`."""
    found = next((found for text in texts if (found := _BUNDLER.search(text))), None)
    if found is None or found[1] == framework.name or not re.search(r"&&|;", found.string[: found.start()]):
        return []
    named = _OPTION.search(found[0])
    output = named[1] if named else "dist"
    return [output] if is_inside(output) else []


def is_inside(path: str) -> bool:
    return len(path) <= MAXIMUM_PATH and not path.startswith("/") and ".." not in PurePosixPath(path).parts


def with_called_scripts(build: str, scripts: Mapping[str, str]) -> list[str]:
    """The command and the texts of the scripts that it runs, directly or not."""
    texts, names = [build], set[str]()
    for text in texts:
        for name in _SCRIPT_CALL.findall(text):
            if name in scripts and name not in names and len(texts) < _MAXIMUM_SCRIPTS:
                names.add(name)
                texts.append(scripts[name])
    return texts


def _of_command(tree: SourceTree, directory: str, framework: Framework, text: str) -> list[str]:
    """The directories that an option names, or that lie below the directory in which the command builds."""
    program = (framework.command or "").partition(" ")[0]
    has_program = re.compile(rf"(?<![\w-]){re.escape(program)}(?![\w-])")
    found: list[str] = []
    place = PurePosixPath()
    for part in re.split(r"&&|[;|]", text):
        call = _DIRECTORY_CALL.search(part)
        if call and is_inside(call[1] or call[2]):
            place /= call[1] or call[2]
            if call[2]:
                found += _below(tree, directory, place)
        if program and not has_program.search(part):
            continue
        short = _SHORT_OPTIONS.get(framework.name)
        match = _OPTION.search(part) or (short.search(part) if short else None)
        if match and is_inside(match[1]):
            found.append((place / match[1]).as_posix())
        elif place.parts:
            found += [(place / path).as_posix() for path in (framework.output, *framework.other_outputs)]
    if place.parts and not program:
        found += _below(tree, directory, place)
    return [path for path in found if len(path) <= MAXIMUM_PATH]


def _below(tree: SourceTree, directory: str, place: PurePosixPath) -> list[str]:
    """Outputs of a project in a directory that the root's script builds in."""
    package = tree.read_object(join(directory, (place / "package.json").as_posix())) or {}
    dependencies = installed_dependencies_of(package)
    rows = (row for row in catalogue.NODE_FRAMEWORKS if not dependencies.keys().isdisjoint(row.dependencies))
    row = next(rows, None)
    names = COMMON_OUTPUT_DIRECTORIES if row is None else (row.output, *row.other_outputs)
    return [(place / name).as_posix() for name in names]


def _by_framework(
    tree: SourceTree, directory: str, framework: Framework, texts: list[str], *, has_build: bool
) -> tuple[str, ...]:
    has_index = tree.is_file(join(directory, "index.html"))
    match framework.name:
        case "static":
            return ("public",) if not has_index and tree.is_file(join(directory, "public/index.html")) else (".",)
        case "docsify":
            return (PurePosixPath(find_file(tree, directory, framework) or "index.html").parent.as_posix(),)
        case "node" | "other":
            # A page at the top may be the site, and the build only what makes its styles.
            return (*COMMON_OUTPUT_DIRECTORIES, *((".",) if has_index else ())) if has_build else (".",)
        case "angular":
            return _angular_outputs(tree, directory)
        case "jupyter-book":
            place = PurePosixPath(find_file(tree, directory, framework) or "_toc.yml").parent
            return ((place / framework.output).as_posix(),)
        case _ if framework.site_folder:
            return _page_outputs(tree, directory, framework, texts)
        case _:
            return _configured_outputs(tree, directory, framework, texts)


def _configured_outputs(tree: SourceTree, directory: str, framework: Framework, texts: list[str]) -> tuple[str, ...]:
    """What the framework's configuration names, else the row's."""
    files = framework.output_files
    if framework.name == "eleventy":
        options = (match[1] for text in texts for match in _ELEVENTY_CONFIGURATION.finditer(text))
        files = (*(path for path in options if is_inside(path)), *files)
    for name in files:
        match = re.search(framework.output_pattern or "", tree.read_text(join(directory, name)) or "")
        if match and is_inside(match[1]):
            return (PurePosixPath(match[1]).as_posix(),)
    return (framework.output, *framework.other_outputs)


def _angular_outputs(tree: SourceTree, directory: str) -> tuple[str, ...]:
    """The `application` builder writes below `browser`, the older one does not: both are looked for."""
    projects = as_mapping((tree.read_object(join(directory, "angular.json"), has_comments=True) or {}).get("projects"))
    outputs: list[str] = []
    for name, project in projects.items():
        architect = as_mapping(as_mapping(project).get("architect") or as_mapping(project).get("targets"))
        path = as_mapping(as_mapping(architect.get("build")).get("options")).get("outputPath")
        base = as_mapping(path).get("base") if isinstance(path, dict) else path
        base = base if isinstance(base, str) and is_inside(base) else f"dist/{name}"
        outputs += [f"{base}/browser", base]
    # They become arguments of a command, of which a host takes only so many.
    return tuple(output for output in outputs if len(output) <= MAXIMUM_PATH)[:MAXIMUM_OUTPUTS] or ("dist",)


def _page_outputs(tree: SourceTree, directory: str, framework: Framework, texts: list[str]) -> tuple[str, ...]:
    """`vitepress build docs` writes to docs/.vitepress/dist."""
    called = re.compile(re.escape(framework.command or "") + r"\s+([^\s&|;-][^\s&|;]*)")
    for text in texts:
        match = called.search(text)
        if match and is_inside(match[1]):
            return (PurePosixPath(match[1], framework.output).as_posix(),)
    places = (page_directory(tree, directory, framework), ".", "docs")
    return tuple(dict.fromkeys(PurePosixPath(place, framework.output).as_posix() for place in places))
