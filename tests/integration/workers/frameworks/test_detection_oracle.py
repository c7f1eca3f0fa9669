"""Compares our detection with that of @netlify/build-info on many trees; lists every difference with its reason.

Compared as a site's owner would see them: framework, build command, output directory and Node's package manager. A
project that is of no known framework to either (a build script of its own, plain files) has nothing to compare; of
Python's package managers the other knows none.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TypeAlias

import pytest

from shared.errors import StageFailure
from tests.support.detection_corpus import TREES
from tests.support.npm_programs import install_program
from workers.frameworks.detection import Overrides, detect

pytestmark = pytest.mark.integration

Facts: TypeAlias = dict[str, str | None]

_PROGRAM = Path(__file__).parent / "build_info_oracle"
_NAMES = {"next": "nextjs", "svelte-kit": "sveltekit", "vue": "vue-cli"}
_NODE_MANAGERS = frozenset({"npm", "pnpm", "yarn", "bun"})

# Why the two differ.
STATIC_EXPORT = (
    "Sites are static here: Next exports to out, Nuxt generates to .output/public; there they run functions."
)
UNKNOWN_THERE = "It doesn't know this framework, or this name of its configuration."
NEEDS_PACKAGE = "A configuration alone is no project: nothing would install the program that reads it."
READS_OUTPUT = "We read the output directory out of the configuration, it gives the default."
VITEPRESS_ROOT = "It takes any VitePress site to be below docs; `vitepress build` without an argument builds the root."
MINIFIED = "We minify by default."
NO_RUBY = "Jekyll is recognised and refused: there is no Ruby here."
IN_DIRECTORY = "We run the script in the member's directory, it runs it from the workspace's root."
ENDLESS = "It takes a script that serves or watches; such a build would never end."
NUXT_2 = "Both places are looked for, Nuxt 3's first."
OWN_BUILD = "`build` is the script for building; what it calls is its affair."
PRODUCTION = "`--prod` is gone from Angular since version 14, whose default is production."
OLD_ANGULAR = "It reads angular.json from Angular 17 on; we do always, and look in both places that builders write to."
NOT_TIED = "A lockfile of a directory above is another project's, unless a workspace ties the two together."

# (tree, fact) → ours, theirs, the reason.
EXPLAINED: dict[tuple[str, str], tuple[str | None, str | None, str]] = {
    ("fixture angular", "output"): ("dist/shop/browser", "dist", OLD_ANGULAR),
    ("fixture hugo", "command"): ("hugo --minify", "hugo", MINIFIED),
    ("fixture mkdocs", "framework"): ("mkdocs", None, UNKNOWN_THERE),
    ("fixture mkdocs", "command"): ("mkdocs build", None, UNKNOWN_THERE),
    ("fixture mkdocs", "output"): ("site", None, UNKNOWN_THERE),
    ("fixture mkdocs-material", "framework"): ("mkdocs", None, UNKNOWN_THERE),
    ("fixture mkdocs-material", "command"): ("mkdocs build", None, UNKNOWN_THERE),
    ("fixture mkdocs-material", "output"): ("site", None, UNKNOWN_THERE),
    ("fixture mkdocs-group", "framework"): ("mkdocs", None, UNKNOWN_THERE),
    ("fixture mkdocs-group", "command"): ("mkdocs build", None, UNKNOWN_THERE),
    ("fixture mkdocs-group", "output"): ("site", None, UNKNOWN_THERE),
    ("fixture nuxt", "command"): ("npm run generate", "npm run build", STATIC_EXPORT),
    ("fixture nuxt", "output"): (".output/public", "dist", STATIC_EXPORT),
    ("fixture next", "output"): ("out", ".next", STATIC_EXPORT),
    ("fixture pelican", "framework"): ("pelican", None, UNKNOWN_THERE),
    ("fixture pelican", "command"): ("pelican content -o output", None, UNKNOWN_THERE),
    ("fixture pelican", "output"): ("output", None, UNKNOWN_THERE),
    ("fixture sphinx", "framework"): ("sphinx", None, UNKNOWN_THERE),
    ("fixture sphinx", "command"): ("sphinx-build -b html docs _build/html", None, UNKNOWN_THERE),
    ("fixture sphinx", "output"): ("_build/html", None, UNKNOWN_THERE),
    ("fixture uv", "framework"): ("mkdocs", None, UNKNOWN_THERE),
    ("fixture uv", "command"): ("mkdocs build", None, UNKNOWN_THERE),
    ("fixture uv", "output"): ("site", None, UNKNOWN_THERE),
    ("fixture vitepress", "output"): (".vitepress/dist", "docs/.vitepress/dist", VITEPRESS_ROOT),
    ("next", "output"): ("out", ".next", STATIC_EXPORT),
    ("next, configuration only", "framework"): (None, "nextjs", NEEDS_PACKAGE),
    ("next, configuration only", "command"): (None, "next build", NEEDS_PACKAGE),
    ("next, configuration only", "output"): (None, ".next", NEEDS_PACKAGE),
    ("next, configuration only", "manager"): (None, "npm", NEEDS_PACKAGE),
    ("next, with a Vite for its tests", "output"): ("out", ".next", STATIC_EXPORT),
    ("nuxt 3", "command"): ("nuxt generate", "npm run build", STATIC_EXPORT),
    ("nuxt 3", "output"): (".output/public", "dist", STATIC_EXPORT),
    ("nuxt 3, generate", "command"): ("npm run generate", "npm run build", STATIC_EXPORT),
    ("nuxt 3, generate", "output"): (".output/public", "dist", STATIC_EXPORT),
    ("nuxt 3, no scripts", "command"): ("nuxt generate", "nuxt build", STATIC_EXPORT),
    ("nuxt 3, no scripts", "output"): (".output/public", "dist", STATIC_EXPORT),
    ("nuxt 2", "output"): (".output/public", "dist", NUXT_2),
    ("gatsby, configuration only", "framework"): (None, "gatsby", NEEDS_PACKAGE),
    ("gatsby, configuration only", "command"): (None, "gatsby build", NEEDS_PACKAGE),
    ("gatsby, configuration only", "output"): (None, "public", NEEDS_PACKAGE),
    ("gatsby, configuration only", "manager"): (None, "npm", NEEDS_PACKAGE),
    ("astro, output of its own", "output"): ("www", "dist", READS_OUTPUT),
    ("astro, configuration only", "framework"): (None, "astro", NEEDS_PACKAGE),
    ("astro, configuration only", "command"): (None, "astro build", NEEDS_PACKAGE),
    ("astro, configuration only", "output"): (None, "dist", NEEDS_PACKAGE),
    ("astro, configuration only", "manager"): (None, "npm", NEEDS_PACKAGE),
    ("vitepress", "output"): (".vitepress/dist", "docs/.vitepress/dist", VITEPRESS_ROOT),
    ("vitepress, no scripts", "command"): ("vitepress build", "vitepress build docs", VITEPRESS_ROOT),
    ("vitepress, no scripts", "output"): (".vitepress/dist", "docs/.vitepress/dist", VITEPRESS_ROOT),
    ("eleventy, configuration only", "framework"): (None, "eleventy", NEEDS_PACKAGE),
    ("eleventy, configuration only", "command"): (None, "eleventy", NEEDS_PACKAGE),
    ("eleventy, configuration only", "output"): (None, "_site", NEEDS_PACKAGE),
    ("eleventy, configuration only", "manager"): (None, "npm", NEEDS_PACKAGE),
    ("eleventy, output of its own", "output"): ("www", "_site", READS_OUTPUT),
    ("eleventy, script of another name", "command"): ("npm run build:site", "npm run start", ENDLESS),
    ("angular, browser", "output"): ("dist/shop/browser", "dist", OLD_ANGULAR),
    ("angular, no scripts", "command"): ("ng build", "ng build --prod", PRODUCTION),
    ("vue cli, output of its own", "output"): ("www", "dist", READS_OUTPUT),
    ("vite, configuration only", "framework"): (None, "hydrogen", NEEDS_PACKAGE),
    ("vite, configuration only", "command"): (None, "remix vite:build", NEEDS_PACKAGE),
    ("vite, configuration only", "output"): (None, "dist/client", NEEDS_PACKAGE),
    ("vite, configuration only", "manager"): (None, "npm", NEEDS_PACKAGE),
    ("vite, output of its own", "output"): ("www", "dist", READS_OUTPUT),
    ("vite, two build scripts", "command"): ("npm run build", "npm run build:site", OWN_BUILD),
    ("vite, watching script", "command"): ("vite build", "npm run build:watch", ENDLESS),
    ("hugo", "command"): ("hugo --minify", "hugo", MINIFIED),
    ("hugo, old configuration", "command"): ("hugo --minify", "hugo", MINIFIED),
    ("hugo, YAML", "framework"): ("hugo", None, UNKNOWN_THERE),
    ("hugo, YAML", "command"): ("hugo --minify", None, UNKNOWN_THERE),
    ("hugo, YAML", "output"): ("public", None, UNKNOWN_THERE),
    ("hugo with npm packages for its styles", "command"): ("hugo --minify", "hugo", MINIFIED),
    ("jekyll", "framework"): (None, "jekyll", NO_RUBY),
    ("jekyll", "command"): (None, "bundle exec jekyll build", NO_RUBY),
    ("jekyll", "output"): (None, "_site", NO_RUBY),
    ("member next to another", "command"): ("npm run build", "npm --workspace site run build", IN_DIRECTORY),
    ("member of pnpm", "command"): ("pnpm run build", "pnpm --filter site... run build", IN_DIRECTORY),
    ("below a lockfile that is not its own", "manager"): ("npm", "yarn", NOT_TIED),
}  # fmt: skip


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the program, which has its locked packages next to it. Skips where no registry can be reached."""
    return install_program(_PROGRAM, tmp_path_factory.mktemp("oracle") / "program", "detect.mjs")


def test_every_difference_to_the_oracle_is_explained(oracle: list[str], tmp_path: Path) -> None:
    places: list[dict[str, str]] = []
    for number, tree in enumerate(TREES.values()):
        tree.write(tmp_path / str(number))
        places.append({"root": str(tmp_path / str(number)), "directory": tree.directory})
    done = subprocess.run(oracle, input=json.dumps(places), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    differences: dict[tuple[str, str], tuple[str | None, str | None]] = {}
    for (name, tree), place, found in zip(TREES.items(), places, json.loads(done.stdout), strict=True):
        ours, theirs = our_facts(Path(place["root"]), tree.directory), their_facts(found)
        is_known = ours["framework"] or theirs["framework"]
        facts = ours if is_known else ("manager",) if ours["manager"] else ()
        differences |= {(name, fact): (ours[fact], theirs[fact]) for fact in facts if ours[fact] != theirs[fact]}
    explained = {where: (ours, theirs) for where, (ours, theirs, _) in EXPLAINED.items()}
    assert differences == explained


def our_facts(root: Path, directory: str) -> Facts:
    """All None for what is refused, all but the manager for what is of no known framework."""
    try:
        detection = detect(root, Path(directory or "."), Overrides())
    except StageFailure:
        return dict.fromkeys(("framework", "command", "output", "manager"))
    is_known = detection.framework not in ("node", "other", "static")
    return {
        "framework": detection.framework if is_known else None,
        "command": detection.build_command if is_known else None,
        "output": detection.output_directory if is_known else None,
        "manager": detection.package_manager if detection.package_manager in _NODE_MANAGERS else None,
    }


def their_facts(found: Facts) -> Facts:
    return {**found, "framework": _NAMES.get(found["framework"] or "", found["framework"])}
