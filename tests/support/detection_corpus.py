"""Source trees for the comparison of detections: every framework in typical and odd forms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.repositories import SITES, write_site


@dataclass(frozen=True)
class Tree:
    """`site`: files by path or a fixture's name; `directory`: the project's place inside, "" for the root."""

    site: Mapping[str, str | bytes] | str
    directory: str = ""

    def write(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        write_site(root, self.site)


def package(*dependencies: str, scripts: Mapping[str, str] | None = None, **fields: Any) -> str:
    """A dependency is `name` or `name@version`."""
    named = [name.rpartition("@") if "@" in name[1:] else (name, "@", "1.0.0") for name in dependencies]
    given = {name: version for name, _, version in named}
    return json.dumps({"name": "site", "dependencies": given, "scripts": scripts or {}, **fields})


def node(*dependencies: str, lock: str = "package-lock.json", **fields: Any) -> dict[str, str | bytes]:
    return {"package.json": package(*dependencies, **fields), **({lock: "{}"} if lock else {})}


def building(*dependencies: str, script: str, **files: str) -> Tree:
    return Tree({**node(*dependencies, scripts={"build": script}), **files})


def development(*dependencies: str, **scripts: str) -> Tree:
    """All in devDependencies."""
    fields = {"devDependencies": dict.fromkeys(dependencies, "1.0.0")}
    return Tree({"package.json": package(scripts=scripts, **fields), "package-lock.json": "{}"})


def managed(*locks: str, member: str = "", **fields: Any) -> Tree:
    """A Vite project with these lockfiles; as a member of a workspace when `member` names its directory."""
    files: dict[str, str | bytes] = dict.fromkeys(locks, "{}")
    if not member:
        return Tree({**files, "package.json": package("vite", **fields)})
    root = json.dumps({"name": "root", "private": True, "workspaces": ["apps/*"], **fields})
    return Tree({**files, "package.json": root, f"{member}/package.json": package("vite")}, member)


def angular(builder: str, output: str, version: str = "20.0.0") -> Tree:
    build = {"builder": f"@angular-devkit/build-angular:{builder}", "options": {"outputPath": output}}
    workspace = json.dumps({"projects": {"shop": {"architect": {"build": build}}}})
    names = (f"@angular/core@{version}", f"@angular/cli@{version}")
    return Tree({**node(*names, scripts={"build": "ng build"}), "angular.json": workspace})


_MEMBER = {
    "package.json": json.dumps({"name": "root", "private": True, "workspaces": ["apps/*"]}),
    "package-lock.json": "{}",
    "apps/docs/package.json": package("@docusaurus/core", scripts={"build": "docusaurus build"}),
    "apps/web/package.json": package("vite", scripts={"build": "vite build"}),
}
_PNPM_MEMBER = {
    "package.json": json.dumps({"name": "root", "private": True, "packageManager": "pnpm@10.0.0"}),
    "pnpm-workspace.yaml": "packages:\n  - 'apps/*'\n",
    "pnpm-lock.yaml": "lockfileVersion: '9.0'\n",
    "apps/web/package.json": package("astro", scripts={"build": "astro build"}),
}

TREES: dict[str, Tree] = {
    **{f"fixture {path.name}": Tree(path.name) for path in sorted(SITES.iterdir()) if path.is_dir()},
    "fixture monorepo-npm, web": Tree("monorepo-npm", "apps/web"),
    "fixture monorepo-pnpm, web": Tree("monorepo-pnpm", "apps/web"),
    "sample": Tree("sample"),
    "next": building("next", "react", script="next build"),
    "next, configuration only": Tree({**node(), "next.config.mjs": "export default {}"}),
    "next, with a Vite for its tests": building("next", "vite", "vitest", script="next build"),
    "nuxt 3": building("nuxt@3.17.0", script="nuxt build"),
    "nuxt 3, generate": Tree(node("nuxt@3.17.0", scripts={"build": "nuxt build", "generate": "nuxt generate"})),
    "nuxt 3, no scripts": Tree(node("nuxt@3.17.0")),
    "nuxt 2": building("nuxt@2.17.0", script="nuxt generate"),
    "gatsby": building("gatsby", script="gatsby build"),
    "gatsby, configuration only": Tree({**node(), "gatsby-config.js": "module.exports = {}"}),
    "docusaurus": building("@docusaurus/core", script="docusaurus build"),
    "docusaurus, no scripts": Tree(node("@docusaurus/core")),
    "docusaurus, TypeScript configuration only": Tree({**node(), "docusaurus.config.ts": ""}),
    "astro, no scripts": Tree(node("astro")),
    "astro, output of its own": Tree({**node("astro"), "astro.config.mjs": "export default { outDir: './www' }"}),
    "astro, in devDependencies": development("astro", build="astro check && astro build"),
    "astro, configuration only": Tree({**node(), "astro.config.mjs": "export default {}"}),
    "astro with svelte and vite": building("astro", "svelte", "vite", script="astro build"),
    "sveltekit": development("@sveltejs/kit", "svelte", "vite", build="vite build"),
    "remix on vite": Tree(
        {**node("@remix-run/dev", "vite", scripts={"build": "remix vite:build"}), "vite.config.ts": ""}
    ),
    "remix on vite, no scripts": Tree({**node("@remix-run/dev", "vite"), "vite.config.ts": ""}),
    "react router 7": building("@react-router/dev@7.1.0", "vite", script="react-router build"),
    "react router 6 as a library": building("react-router@6.0.0", "vite", script="vite build"),
    "vitepress": development("vitepress", build="vitepress build"),
    "vitepress, docs": development("vitepress", **{"docs:build": "vitepress build docs"}),
    "vitepress, no scripts": development("vitepress"),
    "vitepress, docs without scripts": Tree({**node("vitepress"), "docs/.vitepress/config.mjs": "export default {}"}),
    "vitepress in a Vite project": development(
        "vite", "vitepress", build="vite build", **{"docs:build": "vitepress build docs"}
    ),
    "eleventy, no scripts": Tree(node("@11ty/eleventy")),
    "eleventy, configuration only": Tree({**node(), ".eleventy.js": "module.exports = {}"}),
    "eleventy, output of its own": Tree({**node("@11ty/eleventy"), ".eleventy.js": "({ dir: { output: 'www' } })"}),
    "eleventy, script of another name": Tree(
        node("@11ty/eleventy", scripts={"start": "eleventy --serve", "build:site": "eleventy"})
    ),
    "angular, application": angular("application", "dist/shop"),
    "angular, browser": angular("browser", "dist/shop", "16.2.0"),
    "angular, no scripts": Tree({**node("@angular/core", "@angular/cli"), "angular.json": '{"projects": {}}'}),
    "create react app": building("react-scripts", "react", script="react-scripts build"),
    "create react app with storybook": Tree(
        node("react-scripts", scripts={"build-storybook": "storybook build", "build": "react-scripts build"})
    ),
    "vue cli": development("@vue/cli-service", build="vue-cli-service build"),
    "vue cli, output of its own": Tree({**node("@vue/cli-service"), "vue.config.js": "({ outputDir: 'www' })"}),
    "vite, no scripts": Tree(node("vite")),
    "vite, configuration only": Tree({**node(), "vite.config.ts": "export default {}"}),
    "vite, output of its own": Tree({**node("vite"), "vite.config.ts": "({ build: { outDir: 'www' } })"}),
    "vite, script of another name": development("vite", dev="vite", **{"build:production": "tsc && vite build"}),
    "vite, two build scripts": development("vite", build="tsc", **{"build:site": "vite build"}),
    "vite, watching script": development("vite", **{"build:watch": "vite build --watch"}),
    "vite with storybook": development(
        "vite", "storybook", build="vite build", **{"build-storybook": "storybook build"}
    ),
    "vite and svelte": development("vite", "svelte", build="vite build"),
    "vite as a peer": Tree({"package.json": json.dumps({"name": "plugin", "peerDependencies": {"vite": "7"}})}),
    "hugo": Tree({"hugo.toml": "title = 'a'"}),
    "hugo, old configuration": Tree({"config.toml": "baseURL = '/'", "content/a.md": "", "archetypes/default.md": ""}),
    "hugo, YAML": Tree({"hugo.yaml": "title: a"}),
    "hugo with npm packages for its styles": Tree({"hugo.toml": "", **node("postcss", scripts={"build": "hugo"})}),
    "jekyll": Tree({"_config.yml": "title: a", "Gemfile": ""}),
    "a build script of its own": building(script="node build.js"),
    "static": Tree({"index.html": ""}),
    "nothing": Tree({"main.go": ""}),
    "npm, shrinkwrap": managed("npm-shrinkwrap.json"),
    "pnpm": managed("pnpm-lock.yaml"),
    "yarn": managed("yarn.lock"),
    "bun": managed("bun.lock"),
    "bun, binary": managed("bun.lockb"),
    "no lockfile": managed(),
    "npm's and pnpm's lockfiles": managed("package-lock.json", "pnpm-lock.yaml"),
    "npm's and yarn's lockfiles": managed("package-lock.json", "yarn.lock"),
    "npm's and bun's lockfiles": managed("package-lock.json", "bun.lock"),
    "pnpm's and yarn's lockfiles": managed("pnpm-lock.yaml", "yarn.lock"),
    "yarn's and bun's lockfiles": managed("yarn.lock", "bun.lock"),
    "packageManager against the lockfile": managed("package-lock.json", packageManager="pnpm@10.0.0"),
    "packageManager with a digest": managed("yarn.lock", packageManager="yarn@4.9.0+sha224.0a1b"),
    "packageManager without a version": managed("package-lock.json", packageManager="pnpm"),
    "packageManager of nobody": managed("yarn.lock", packageManager="cargo@1.0.0"),
    "member, npm": managed("package-lock.json", member="apps/web"),
    "member, yarn": managed("yarn.lock", member="apps/web"),
    "member, root declares pnpm": managed("yarn.lock", member="apps/web", packageManager="pnpm@10.0.0"),
    "member next to another": Tree(_MEMBER, "apps/docs"),
    "member of pnpm": Tree(_PNPM_MEMBER, "apps/web"),
    "below a lockfile that is not its own": Tree(
        {"yarn.lock": "", "package.json": package("lodash"), "site/package.json": package("vite")}, "site"
    ),
}  # fmt: skip
