"""Projects of the site generators and package managers that people use, from a repository to bytes that only a real
build produces. A few run always, all of them with CLOUDIFY_E2E_FULL=1 (`make e2e-full`), which also says how long each
takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.platform import Platform
from tests.repositories import SITES, make_repository, write_site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
IS_FULL = os.environ.get("CLOUDIFY_E2E_FULL", "") == "1"


@dataclass(frozen=True)
class Case:
    """`fixture`: below fixtures/sites. `expected`: a pattern in what `path` serves; `said`: one in the log."""

    fixture: str
    expected: str
    said: str
    path: str = "/"
    settings: Mapping[str, Any] = field(default_factory=dict)
    # The sample site with this lockfile in place of its own.
    vite_lock: str | None = None
    is_fast: bool = False


# Installing Docusaurus alone takes minutes on a slow machine.
PATIENCE = 800.0
SCRIPT = r'src="(/assets/[^"]+\.js)"'
MEMBER = {"rootDirectory": "apps/web"}
CASES: dict[str, Case] = {
    "eleventy": Case("eleventy", r">Built by Eleventy v3[^<]*</h1>.*\[7\]\[14\]\[21\]", "eleventy", is_fast=True),
    "vitepress": Case("vitepress", r"VitePress 42.*Rendered on the server", "vitepress"),
    "docusaurus": Case("docusaurus", r"The product is (<!-- -->)?42", "docusaurus"),
    "next": Case("next", r"<h1>Next 42</h1>", "next build"),
    "astro": Case("astro", r"<h1>Astro 42</h1>", "astro build"),
    "sveltekit": Case("sveltekit", r"<h1>SvelteKit 42</h1>", "adapter-static"),
    "mkdocs-material": Case("mkdocs-material", r'mkdocs-material-9.*class="admonition note"', "mkdocs build"),
    "sphinx": Case("sphinx", r'href="#target".*>linked</', "sphinx-build"),
    "pelican": Case("pelican", r"<em>Soaring</em> over the sea", "pelican", path="/first-flight.html"),
    "hugo": Case("hugo", r"<h1>Hugo 42</h1><p>.*Hugo 0\.168\.0", "hugo --minify", is_fast=True),
    "uv": Case("uv", r"Installed from uv.lock", "uv sync --locked"),
    "vite-pnpm": Case("vite-locks", SCRIPT, "pnpm install --frozen-lockfile", vite_lock="pnpm-lock.yaml"),
    "vite-yarn": Case("vite-locks", SCRIPT, "yarn install --frozen-lockfile", vite_lock="yarn.lock"),
    "vite-bun": Case("vite-locks", SCRIPT, "bun install --frozen-lockfile", vite_lock="bun.lock"),
    "monorepo-npm": Case("monorepo-npm", "<h1>Odd monorepo</h1>", "turbo run build", settings=MEMBER),
    "monorepo-pnpm": Case("monorepo-pnpm", "<h1>Odd monorepo</h1>", "turbo run build", settings=MEMBER, is_fast=True),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.is_fast or IS_FULL])
def test_a_generator(platform: Platform, repositories: Path, name: str):
    case = CASES[name]
    directory = repositories / name
    write_site(directory, "sample" if case.vite_lock else case.fixture)
    if case.vite_lock:
        (directory / "package-lock.json").unlink()
        (directory / case.vite_lock).write_bytes((SITES / case.fixture / case.vite_lock).read_bytes())
    if name == "uv":
        # The lockfile names its registry, so it is made here.
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "lock", "--quiet", "--python", sys.executable], cwd=directory, check=True)
    project = platform.create_project(name, make_repository(directory, {}), **case.settings)
    began = time.monotonic()
    deployment = platform.finish(platform.create_deployment(project["id"])["id"], seconds=PATIENCE)
    print(f"{name}: {time.monotonic() - began:.1f} s")
    log = platform.log_text(deployment["id"])
    assert deployment["status"] == "ready", (deployment["error"], log)
    assert case.said in log
    page = platform.get_site(name, case.path)
    assert page.status_code == 200
    assert re.search(case.expected, page.text, re.DOTALL), page.text[:5000]
    if case.vite_lock:
        script = re.search(SCRIPT, page.text)
        assert script
        assert platform.get_site(name, script[1]).status_code == 200
