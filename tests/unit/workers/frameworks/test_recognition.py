"""Which row a repository fits: generators of the field, and files that only look like another one's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shared.errors import FailureCode, StageFailure
from tests.support.repositories import write_site
from workers.frameworks.detection import Detection, Overrides, detect


def package(*dependencies: str, **fields: Any) -> str:
    return json.dumps({"name": "site", "devDependencies": dict.fromkeys(dependencies, "1.0.0"), **fields})


def detected(root: Path, site: Mapping[str, str | bytes], **overrides: Any) -> Detection:
    write_site(root, site)
    return detect(root, Path(), Overrides(**overrides))


def failure(root: Path, site: Mapping[str, str | bytes], **overrides: Any) -> StageFailure:
    with pytest.raises(StageFailure) as raised:
        detected(root, site, **overrides)
    return raised.value


@pytest.mark.parametrize(
    ("site", "framework", "command", "output"),
    [
        ({"package.json": package("hexo"), "_config.yml": "title: a"}, "hexo", "hexo generate", "public"),
        ({"package.json": package("hexo"), "_config.yml": "public_dir: www"}, "hexo", "hexo generate", "www"),
        (
            {"_config.yml": "title: a", "_toc.yml": "root: intro", "intro.md": ""},
            "jupyter-book",
            "jupyter-book build .",
            "_build/html",
        ),
        (
            {"book/_config.yml": "title: a", "book/_toc.yml": ""},
            "jupyter-book",
            "jupyter-book build book",
            "book/_build/html",
        ),
        ({"myst.yml": "version: 1"}, "myst", "myst build --html", "_build/html"),
        ({"conf.py": "BLOG_TITLE = 'a'\n"}, "nikola", "nikola build", "output"),
        ({"zensical.toml": "[project]"}, "zensical", "zensical build", "site"),
        # It reads MkDocs' configuration, too.
        (
            {"mkdocs.yml": "site_dir: public\n", "requirements.txt": "zensical>=0.0.42\nmkdocstrings[python]\n"},
            "zensical",
            "zensical build",
            "public",
        ),
        (
            {"mkdocs.yml": "", "requirements.txt": "zensical\nmkdocs-material==9\n"},
            "mkdocs",
            "mkdocs build",
            "site",
        ),
        ({"index.html": "<script>window.$docsify = {}</script>", "README.md": ""}, "docsify", None, "."),
        (
            {"docs/index.html": "<script src='//cdn/docsify@4'></script>", "package.json": package("jest")},
            "docsify",
            None,
            "docs",
        ),
        (
            {"package.json": package("vuepress"), "docs/.vuepress/config.js": ""},
            "vuepress",
            "vuepress build docs",
            "docs/.vuepress/dist",
        ),
        (
            {"package.json": package("vuepress", scripts={"docs:build": "vuepress build src"}), "src/a.md": ""},
            "vuepress",
            "npm run docs:build",
            "src/.vuepress/dist",
        ),
        (
            {"package.json": package("storybook", scripts={"build-storybook": "storybook build -o www"})}
            | {".storybook/main.ts": ""},
            "storybook",
            "npm run build-storybook",
            "www",
        ),
        ({"package.json": package("parcel"), "src/index.html": ""}, "parcel", "parcel build src/index.html", "dist"),
        (
            {"package.json": package("parcel", source="a.html", scripts={"build": "parcel build --dist-dir=www"})},
            "parcel",
            "npm run build",
            "www",
        ),
        ({"package.json": package("@solidjs/start", "vinxi", "vite")}, "solidstart", "vinxi build", ".output/public"),
        ({"package.json": package("solid-js", "vite")}, "vite", "vite build", "dist"),
        (
            {"package.json": package("@11ty/eleventy", scripts={"build": "cd site && eleventy"}), "site/a.md": ""},
            "eleventy",
            "npm run build",
            "site/_site",
        ),
        (
            {
                "package.json": package("@11ty/eleventy", scripts={"build": "eleventy --config=docs/11ty.js"}),
                "docs/11ty.js": "({ dir: { input: 'docs', output: 'www' } })",
            },
            "eleventy",
            "npm run build",
            "www",
        ),
        (
            {
                "package.json": package(
                    "@11ty/eleventy", scripts={"build": "npm run site", "site": "eleventy --output=w"}
                )
            },
            "eleventy",
            "npm run build",
            "w",
        ),
        ({"config/_default/hugo.yaml": "title: a"}, "hugo", "hugo --minify", "public"),
        ({"config/_default/config.json": '{"publishDir": "www"}'}, "hugo", "hugo --minify", "www"),
        # A member of a workspace may have its framework from the workspace's root.
        ({"package.json": package(scripts={"build": "astro build"})}, "astro", "npm run build", "dist"),
        (
            {"package.json": package("typedoc", scripts={"test": "jest", "docs:build": "typedoc --out docs-site"})},
            "node",
            "npm run docs:build",
            "docs-site",
        ),
    ],
)
def test_generators_of_the_field(
    tmp_path: Path, site: dict[str, str | bytes], framework: str, command: str | None, output: str
) -> None:
    detection = detected(tmp_path, site)
    assert (detection.framework, detection.build_command, detection.output_directory) == (framework, command, output)


@pytest.mark.parametrize(
    ("site", "framework"),
    [
        ({"_config.yml": "theme: a", "index.html": "<h1>plain</h1>"}, "static"),
        ({"_config.yml": "theme: a", ".nojekyll": "", "index.html": "---\n---\n"}, "static"),
        ({"_config.yml": "a: b", "package.json": package(scripts={"build": "node build.js"})}, "node"),
        ({"_config.yml": "theme: a", "index.md": "# a"}, None),
        ({"_config.yml": "theme: a", "index.html": "---\nlayout: a\n---\n"}, None),
        ({"_config.yml": "theme: a", "index.html": "<h1>a</h1>", "_posts/2024-01-01-a.md": ""}, None),
        # Its scripts build styles only.
        (
            {
                "_config.yml": "a: b",
                "Gemfile": "gem 'github-pages'",
                "package.json": package(scripts={"build": "sass"}),
            },
            None,
        ),
    ],
)
def test_jekyll_only_where_it_is_jekyll(tmp_path: Path, site: dict[str, str | bytes], framework: str | None) -> None:
    if framework is not None:
        assert detected(tmp_path, site).framework == framework
        return
    refused = failure(tmp_path, site)
    assert refused.code == FailureCode.CONFIGURATION_INVALID
    assert "needs Ruby" in refused.message


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ({"config.toml": "base_url = 'https://a'\n"}, ("Zola", "the program zola", "install command")),
        ({"deno.json": '{"imports": {"lume/": "https://deno.land/x/lume/"}}'}, ("Lume", "Deno")),
        ({"book.toml": "[book]"}, ("mdBook", "the program mdbook")),
        ({"Gemfile": "gem 'middleman'\n"}, ("Middleman", "Ruby")),
        ({"_quarto.yml": ""}, ("Quarto",)),
    ],
)
def test_generators_that_are_missing_are_named_with_a_way_out(
    tmp_path: Path, site: dict[str, str | bytes], words: tuple[str, ...]
) -> None:
    message = failure(tmp_path, site).message
    assert all(word in message for word in (*words, "build command"))
    assert detected(tmp_path, site, build_command="./build.sh").build_command == "./build.sh"


def test_of_several_site_scripts_none_is_chosen(tmp_path: Path) -> None:
    site = {"package.json": package("x", scripts={"docs:build": "typedoc", "site:build": "node site.js"})}
    assert failure(tmp_path, site).code == FailureCode.PROJECT_NOT_RECOGNISED


def test_the_only_site_of_a_repository_is_its_root_directory(tmp_path: Path) -> None:
    site = {"go.mod": "", "website/package.json": package("@docusaurus/core"), "tests/page/index.html": ""}
    detection = detected(tmp_path / "one", site)
    assert (detection.root_directory, detection.framework) == ("website", "docusaurus")
    assert "Root directory website: nothing in the repository says how to build it" in " ".join(detection.reasons)
    both = {**site, "docs/mkdocs.yml": ""}
    assert "perhaps to docs or website" in failure(tmp_path / "two", both).message
    # A page in a directory of another kind is a test's, perhaps.
    report = {"go.mod": "", "internal/index.html": "", "README.md": ""}
    assert "perhaps to internal" in failure(tmp_path / "report", report).message


def test_a_workspace_of_pnpm_is_installed_although_its_root_names_nothing(tmp_path: Path) -> None:
    site = {
        "package.json": json.dumps({"private": True, "scripts": {"build": "pnpm -r run build"}}),
        "pnpm-workspace.yaml": "packages:\n  - apps/*\n",
        "pnpm-lock.yaml": "lockfileVersion: '9.0'\n",
        "apps/web/package.json": package("astro", scripts={"build": "astro build"}),
        "apps/docs/package.json": package("vitepress", scripts={"build": "vitepress build"}),
    }
    detection = detected(tmp_path, site)
    assert detection.install_command == "pnpm install --frozen-lockfile"
    assert detection.candidates == ("apps/docs", "apps/web")


def test_a_page_at_the_top_may_be_the_site_of_a_build_without_a_framework(tmp_path: Path) -> None:
    site = {"index.html": "", "package.json": package(scripts={"build": "sass a.scss css/a.css"})}
    detection = detected(tmp_path, site)
    assert detection.output_directories[0] == "dist"
    assert detection.output_directories[-1] == "."
    assert detection.committed_pages == (".",)


@pytest.mark.parametrize(
    ("site", "is_application"),
    [
        ({"package.json": package("react-scripts")}, True),
        ({"package.json": package("vite", "vue-router")}, True),
        ({"package.json": package("vite", "react")}, None),
        ({"package.json": package("astro", "react-router-dom")}, None),
        ({"mkdocs.yml": ""}, None),
    ],
)
def test_what_is_an_application(tmp_path: Path, site: dict[str, str | bytes], is_application: bool | None) -> None:
    assert detected(tmp_path / "a", site).is_application is is_application
    assert detected(tmp_path / "b", site, is_application=False).is_application is False
