"""Projects of the site generators and package managers that people use, from a repository to bytes that only a real
build produces. A few run always, all of them with CLOUDIFY_E2E_FULL=1 (`make e2e-full`); the end of the run says how
long each took."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from tests.support.build_times import BUILD_SECONDS
from tests.support.lockfiles import lock
from tests.support.repositories import SITES, make_repository, write_site
from tests.support.running_platform import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
IS_FULL = os.environ.get("CLOUDIFY_E2E_FULL", "") == "1"


@dataclass(frozen=True)
class Case:
    """`fixture`: below fixtures/sites. `expected`: a pattern in what `path` serves, or in the file that `asset` (its
    only group) finds there. `said`: a text in the log. `files` are added to the fixture's, and those named in
    `without` left out. `programs`: what the machine must have for it."""

    fixture: str
    expected: str
    said: str
    path: str = "/"
    asset: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    # This lockfile of fixtures/sites/vite-locks in place of the sample's own.
    vite_lock: str | None = None
    # The manager whose lockfile names its registry, so it is made here.
    locked_by: str | None = None
    programs: tuple[str, ...] = ()
    is_fast: bool = False


# Installing Docusaurus alone takes minutes on a slow machine.
TIMEOUT_SECONDS = 800.0
SCRIPT = r'src="([^"]+\.js)"'
MEMBER = {"rootDirectory": "apps/web"}
PYTHON_SCRIPT = {"buildCommand": "python make_site.py", "outputDirectory": "dist"}
MATCHED = "<h1>matched</h1><p>/workspace/.venv</p>"


def vite(said: str, lock: str | None = None) -> Case:
    """The sample: what the platform told the build is in the bundle."""
    return Case("sample", r"branch:[`'\"]main[`'\"],commit:[`'\"][0-9a-f]{7}", said, asset=SCRIPT, vite_lock=lock)


def node(line: str) -> Case:
    """The newest Node of a line, with an npm that it runs."""
    expected = rf"<h1>odd</h1><p>npm/\d+\.\S+ on node v{line}\."
    return Case("pnpm", expected, "Fetching node", files={".nvmrc": f"{line}\n"}, without=("pnpm-lock.yaml",))


CASES: dict[str, Case] = {
    "static-html": Case("static", r"<h1>About</h1>", "nothing to build", path="/about.html"),
    "vite-npm": vite("npm ci"),
    "vite-pnpm": vite("pnpm install --frozen-lockfile", "pnpm-lock.yaml"),
    "vite-yarn": vite("yarn install --frozen-lockfile", "yarn.lock"),
    "vite-bun": vite("bun install --frozen-lockfile", "bun.lock"),
    "yarn-berry": Case("berry", r"<h1>odd</h1><p>yarn/4\.", "yarn install --immutable"),
    "eleventy": Case("eleventy", r">Built by Eleventy v3[^<]*</h1>.*\[7\]\[14\]\[21\]", "eleventy", is_fast=True),
    "vitepress": Case("vitepress", r"VitePress 42.*Rendered on the server", "vitepress"),
    "docusaurus": Case("docusaurus", r"The product is (<!-- -->)?42", "docusaurus"),
    "next": Case("next", r"<h1>Next 42</h1>", "next build"),
    "astro": Case("astro", r"<h1>Astro 42</h1>", "astro build"),
    "sveltekit": Case("sveltekit", r"<h1>SvelteKit 42</h1>", "adapter-static"),
    "nuxt": Case("nuxt", r"<h1>Nuxt 42</h1>", "nuxt generate"),
    "angular": Case("angular", r"Angular 42", "ng build", asset=SCRIPT),
    "remix": Case("remix", r"<p>Remix 42 loads</p>", "remix vite:build"),
    "react-router": Case("react-router", r"<p>React Router 42 loads</p>", "react-router build"),
    # Its own version of sharp downloads a library from elsewhere: the fixture asks for one that is in a package.
    "gatsby": Case("gatsby", r"<h1>Gatsby 42</h1>", "gatsby build"),
    "create-react-app": Case(
        "create-react-app", r"in production for a shop", "react-scripts build", asset=SCRIPT,
        variables={"REACT_APP_SHOP": "a shop"},
    ),
    "vue-cli": Case("vue-cli", r"mode production", "vue-cli-service build", asset=r'src="(/js/app[^"]+\.js)"'),
    # Development dependencies are installed, builds are for production, and `engines` chooses Node.
    "vite-typescript": Case(
        "vite-typescript", r"node 20\.\d+\.\d+ NODE_ENV=production mode=production", "Node version 20.x", asset=SCRIPT
    ),
    "native-packages": Case("native-packages", r"h1\{color:#08f\}.*<p>42x21 true</p>.*answer=42", "npm install"),
    "node-gyp": Case("node-gyp", "<h1>compiled 42</h1>", "gyp info ok", programs=("g++", "make")),
    "node-16": node("16"),
    "node-18": node("18"),
    "node-22": node("22"),
    "node-26": node("26"),
    "mkdocs-group": Case("mkdocs-group", r"mkdocs-material-9.*<em>group</em>", "uv sync --group docs"),
    "mkdocs-material": Case("mkdocs-material", r'mkdocs-material-9.*class="admonition note"', "mkdocs build"),
    "sphinx": Case("sphinx", r'href="#target".*>linked</', "sphinx-build"),
    "pelican": Case("pelican", r"<em>Soaring</em> over the sea", "pelican", path="/first-flight.html"),
    "hugo": Case("hugo", r"<h1>Hugo 42</h1><p>.*Hugo 0\.168\.0", "hugo --minify", is_fast=True),
    "uv": Case("uv", r"Installed from uv.lock", "uv sync --locked", locked_by="uv"),
    "poetry": Case("poetry", MATCHED, "poetry sync", settings=PYTHON_SCRIPT, locked_by="poetry"),
    "pipenv": Case("pipenv", MATCHED, "pipenv sync", settings=PYTHON_SCRIPT, locked_by="pipenv"),
    "monorepo-npm": Case("monorepo-npm", "<h1>Odd monorepo</h1>", "turbo run build", settings=MEMBER),
    "monorepo-pnpm": Case("monorepo-pnpm", "<h1>Odd monorepo</h1>", "turbo run build", settings=MEMBER, is_fast=True),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.is_fast or IS_FULL])
def test_a_generator(platform: Platform, repositories: Path, name: str, record_property: Callable[[str, object], None]):
    case = CASES[name]
    absent = [program for program in case.programs if shutil.which(program) is None]
    if absent:
        pytest.skip(f"this machine has no {' and no '.join(absent)}")
    directory = repositories / name
    write_site(directory, case.fixture)
    write_site(directory, case.files)
    for name_of_file in case.without:
        (directory / name_of_file).unlink()
    if case.vite_lock:
        (directory / "package-lock.json").unlink()
        (directory / case.vite_lock).write_bytes((SITES / "vite-locks" / case.vite_lock).read_bytes())
    if case.locked_by:
        lock(case.locked_by, directory)
    project = platform.create_project(name, make_repository(directory, {}), **case.settings)
    for variable, value in case.variables.items():
        platform.call("PUT", f"/api/projects/{project['id']}/env/{variable}", {"value": value}, status=(200, 201, 204))
    deployment = platform.finish(platform.create_deployment(project["id"])["id"], seconds=TIMEOUT_SECONDS)
    log = platform.log_text(deployment["id"])
    assert deployment["status"] == "ready", (deployment["error"], log)
    record_property(BUILD_SECONDS, {run["stage"]: run["durationSeconds"] for run in deployment["stages"]})
    assert case.said in log
    page = platform.get_site(name, case.path)
    assert page.status_code == 200
    if case.asset:
        asset = re.search(case.asset, page.text)
        assert asset, page.text[:5000]
        page = platform.get_site(name, urljoin("/", asset[1]))
        assert page.status_code == 200
    assert re.search(case.expected, page.text, re.DOTALL), page.text[:5000]
