"""The frameworks that are recognised, one row each; the first row that fits decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_VITE_CONFIGURATIONS = ("vite.config.ts", "vite.config.js", "vite.config.mts", "vite.config.mjs")
_QUOTED_VALUE = r"\s*:\s*['\"]([^'\"\n]+)['\"]"


@dataclass(frozen=True, slots=True)
class Framework:
    """How a framework is recognised and what it does by default.

    Recognised by any of `dependencies` in package.json, by any of `files` in the project's directory, or by any of
    `marked_files` that the regular expression `mark` fits. The build command is the first of `scripts` that
    package.json has, before it one that runs `command`, else `command`. The output directory is what `output_pattern`
    finds in one of `output_files` (its only group), else the first of `output` and `other_outputs` that the build made.
    `packages` are installed where a Python project names none itself. `advice`: how a project that builds a server
    is made to build a static site. `caches`: directories, relative to the project's, that a later build of the project
    may start from; only those whose entries are valid by content or version, not by a file's time alone.
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
    advice: str = ""
    caches: tuple[str, ...] = ()


# Frameworks that build on Vite come before it, and everything comes before a bare package.json or index.html.
FRAMEWORKS: tuple[Framework, ...] = (
    Framework(
        "nextjs",
        "Next.js (static export)",
        "node",
        "out",
        "next build",
        ("next",),
        # With a static export, the site itself is written there.
        output_files=("next.config.js", "next.config.mjs", "next.config.ts"),
        output_pattern=r"(?s)\A(?=.*\boutput\s*:\s*['\"]export\b).*?\bdistDir" + _QUOTED_VALUE,
        caches=(".next/cache",),
        advice="Next.js writes a static site only with `output: 'export'` in its next.config.",
    ),
    Framework(
        "nuxt",
        "Nuxt (generate)",
        "node",
        ".output/public",
        "nuxt generate",
        ("nuxt", "nuxt3"),
        scripts=("generate",),
        # Nuxt 2's.
        other_outputs=("dist",),
    ),
    # Its cache goes with public, which is the site: what was deleted from static would be published for good.
    Framework("gatsby", "Gatsby", "node", "public", "gatsby build", ("gatsby",)),
    Framework("docusaurus", "Docusaurus", "node", "build", "docusaurus build", ("@docusaurus/core",)),
    Framework(
        "astro",
        "Astro",
        "node",
        "dist",
        "astro build",
        ("astro",),
        output_files=("astro.config.mjs", "astro.config.ts", "astro.config.js"),
        output_pattern=r"\boutDir" + _QUOTED_VALUE,
        # Its images. Of the rest, rendered pages stay as they are when a plugin in the repository changes (Astro 5).
        caches=("node_modules/.astro/assets",),
        advice="Astro builds a static site without an adapter and without `output: 'server'` in its configuration.",
    ),
    Framework(
        "sveltekit",
        "SvelteKit (static)",
        "node",
        "build",
        "vite build",
        ("@sveltejs/kit",),
        output_files=("svelte.config.js", "svelte.config.ts"),
        output_pattern=r"\bpages" + _QUOTED_VALUE,
        advice="SvelteKit builds a static site with @sveltejs/adapter-static in svelte.config.js, and"
        " `export const prerender = true` in src/routes/+layout.js.",
    ),
    Framework(
        "remix",
        "Remix (SPA)",
        "node",
        "build/client",
        "remix vite:build",
        ("@remix-run/dev",),
        advice="Remix builds a static site with its Vite plugin and `ssr: false` among that plugin's options.",
    ),
    Framework(
        "react-router",
        "React Router (SPA)",
        "node",
        "build/client",
        "react-router build",
        ("@react-router/dev",),
        advice="React Router builds a static site with `ssr: false` in its react-router.config.",
    ),
    Framework(
        "vitepress",
        "VitePress",
        "node",
        ".vitepress/dist",
        "vitepress build",
        ("vitepress",),
        scripts=("build", "docs:build"),
    ),
    Framework(
        "eleventy",
        "Eleventy",
        "node",
        "_site",
        "eleventy",
        ("@11ty/eleventy",),
        output_files=("eleventy.config.js", "eleventy.config.mjs", "eleventy.config.cjs", ".eleventy.js"),
        output_pattern=r"\boutput" + _QUOTED_VALUE,
    ),
    Framework(
        "angular",
        "Angular",
        "node",
        "dist",
        "ng build",
        ("@angular/core",),
        ("angular.json",),
        caches=(".angular/cache",),
        advice='Angular builds a static site with `"outputMode": "static"` among the build options of angular.json.',
    ),
    Framework("create-react-app", "Create React App", "node", "build", "react-scripts build", ("react-scripts",)),
    Framework(
        "vue-cli",
        "Vue CLI",
        "node",
        "dist",
        "vue-cli-service build",
        ("@vue/cli-service",),
        output_files=("vue.config.js", "vue.config.cjs"),
        output_pattern=r"\boutputDir" + _QUOTED_VALUE,
    ),
    Framework(
        "vite",
        "Vite",
        "node",
        "dist",
        "vite build",
        ("vite",),
        output_files=_VITE_CONFIGURATIONS,
        output_pattern=r"\boutDir" + _QUOTED_VALUE,
    ),
    Framework(
        "hugo",
        "Hugo",
        "python",
        "public",
        "hugo --minify",
        files=("hugo.toml", "hugo.yaml", "hugo.yml", "hugo.json", "config/_default/hugo.toml"),
        output_files=("hugo.toml", "hugo.yaml", "hugo.yml", "config.toml", "config.yaml", "config.yml"),
        output_pattern=r"(?mi)^publishDir\s*[:=]\s*['\"]?([^'\"\s#]+)",
        packages=("hugo",),
        caches=("resources/_gen",),
        # Its names until 0.109, still read; Zola's config.toml says base_url.
        marked_files=("config.toml", "config.yaml", "config.yml", "config.json", "config/_default/config.toml"),
        mark=r"(?mi)^[ \t]*[\"']?baseURL[\"']?\s*[:=]",
    ),
    Framework(
        "mkdocs",
        "MkDocs",
        "python",
        "site",
        "mkdocs build",
        files=("mkdocs.yml", "mkdocs.yaml"),
        output_files=("mkdocs.yml", "mkdocs.yaml"),
        output_pattern=r"(?m)^site_dir:\s*['\"]?([^'\"\s#]+)",
        packages=("mkdocs<2",),
        caches=(".cache/plugin",),
    ),
    Framework(
        "sphinx",
        "Sphinx",
        "python",
        "_build/html",
        "sphinx-build -b html . _build/html",
        files=("conf.py", "docs/conf.py", "docs/source/conf.py", "source/conf.py", "doc/conf.py"),
        packages=("sphinx",),
    ),
    Framework(
        "pelican",
        "Pelican",
        "python",
        "output",
        "pelican content -o output",
        files=("pelicanconf.py",),
        packages=("pelican[markdown]",),
    ),
    Framework(
        "jekyll",
        "Jekyll",
        "ruby",
        "_site",
        "jekyll build",
        files=("_config.yml", "_config.yaml"),
        output_files=("_config.yml", "_config.yaml"),
        output_pattern=r"(?m)^destination:\s*['\"]?([^'\"\s#]+)",
    ),
)

# What is left when no framework fits: a build script of the project's own, commands in its settings, or plain files.
NODE = Framework("node", "a package.json with a build script", "node", "dist")
OTHER = Framework("other", "commands of the project's settings", "none", "dist")
STATIC = Framework("static", "plain static files", "none", ".", files=("index.html",))

# Where the output of a build with no known framework is looked for, in this order.
COMMON_OUTPUT_DIRECTORIES = ("dist", "build", "out", "public", "_site", "site", "output", "www")

# Where the tools of all Node frameworks keep what they made (webpack, Babel, Terser, Nx, Turborepo): the first in the
# project's directory and where the dependencies are, the others only there.
NODE_CACHES = ("node_modules/.cache",)
WORKSPACE_CACHES = (".turbo/cache", ".nx/cache")

BY_NAME: dict[str, Framework] = {framework.name: framework for framework in (*FRAMEWORKS, NODE, OTHER, STATIC)}
