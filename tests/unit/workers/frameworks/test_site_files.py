"""`cloudify.toml` and the files of other hosts: what is read from them, and which of them counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.errors import FailureCode, StageFailure
from tests.support.repositories import write_site
from workers.frameworks.choices import CONFIGURATION_FILES
from workers.frameworks.detection import Detection, Overrides, detect
from workers.frameworks.site_files.routing import (
    MAXIMUM_BYTES,
    HeaderRule,
    RedirectRule,
    RoutingBuilder,
    from_pattern,
)
from workers.frameworks.source_tree import SourceTree
from workers.frameworks.watched_paths import watched_paths

VITE = json.dumps({"name": "site", "dependencies": {"vite": "7"}, "scripts": {"build": "vite build"}})


def detected(root: Path, site: Mapping[str, str | bytes], directory: str = ".", **overrides: Any) -> Detection:
    write_site(root, site)
    return detect(root, Path(directory), Overrides(**overrides))


# Nine texts in the first list, nine times as many in each after it.
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{former}'] * 9)}]\n" for former, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def said(detection: Detection) -> str:
    return "\n".join(detection.reasons)


FILES: dict[str, tuple[str, str]] = {
    "cloudify.toml": ('buildCommand = "node a.js"\noutputDirectory = "a"', "buildCommand"),
    "netlify.toml": ('[build]\ncommand = "node b.js"\npublish = "b"', "build.command"),
    "vercel.json": ('{"buildCommand": "node c.js", "outputDirectory": "c"}', "buildCommand"),
    "wrangler.toml": ('[build]\ncommand = "node d.js"\n[assets]\ndirectory = "./d/"', "build.command"),
    "render.yaml": (
        "services:\n- type: web\n  runtime: static\n  buildCommand: node e.js\n  staticPublishPath: ./e\n",
        "buildCommand",
    ),
    ".readthedocs.yaml": (
        "version: 2\nbuild:\n  commands:\n  - node f.js $READTHEDOCS_OUTPUT/html\n",
        "build.commands",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_each_file_says_how_to_build(tmp_path: Path, name: str) -> None:
    text, field = FILES[name]
    detection = detected(tmp_path, {"package.json": VITE, name: text})
    letter = "abcdef"[list(FILES).index(name)]
    output = "_readthedocs/html" if letter == "f" else letter
    assert (detection.build_command or "").startswith(f"node {letter}.js")
    assert detection.output_directory == output
    assert f"{name} ({field})." in said(detection)
    # Another host's builds may leave the site elsewhere; what is ours is meant.
    assert ("dist" in detection.output_directories) == (name != "cloudify.toml")


def test_settings_come_before_our_file_and_that_before_those_of_other_hosts(tmp_path: Path) -> None:
    site = {"package.json": VITE, **{name: text for name, (text, _) in FILES.items()}}
    settings = detected(tmp_path / "settings", site, build_command="node z.js", output_directory="z")
    assert (settings.build_command, settings.output_directories) == ("node z.js", ("z",))
    names = list(FILES)
    for number, name in enumerate(names):
        rest = {other: FILES[other][0] for other in names[number:]}
        command = detected(tmp_path / name, {"package.json": VITE, **rest}).build_command or ""
        assert command.startswith(f"node {'abcdef'[number]}.js")
    # Each field for itself, between ours and the others'.
    mixed = {"package.json": VITE, "cloudify.toml": 'outputDirectory = "a"', "netlify.toml": FILES["netlify.toml"][0]}
    detection = detected(tmp_path / "mixed", mixed)
    assert (detection.build_command, detection.output_directories) == ("node b.js", ("a",))


def test_of_other_hosts_files_one_decides(tmp_path: Path) -> None:
    site = {"package.json": VITE, "netlify.toml": '[build]\npublish = "b"', "vercel.json": FILES["vercel.json"][0]}
    detection = detected(tmp_path, site)
    assert (detection.build_command, detection.output_directory) == ("npm run build", "b")
    assert "vercel.json doesn't decide how to build: netlify.toml does." in said(detection)


def test_netlify_with_all_that_it_says(tmp_path: Path) -> None:
    text = """
[build]
  base = "site/"
  publish = "/www"
  command = "npm ci && npm run build"
[build.environment]
  NODE_VERSION = "20"
  NPM_FLAGS = "--legacy-peer-deps ; rm"
  GREETING = "hello"
  LD_PRELOAD = "x.so"
[context.deploy-preview]
  command = "npm run preview"
[[redirects]]
  from = "/old/*"
  to = "/new/:splat"
  status = 302
  force = true
[[redirects]]
  from = "/a"
  to = "/b"
  query = {id = ":id"}
[[headers]]
  for = "/*"
  [headers.values]
    X-Frame-Options = "DENY"
"""
    site = {"netlify.toml": text, "site/package.json": VITE, "site/package-lock.json": "{}"}
    detection = detected(tmp_path, site)
    assert (detection.root_directory, detection.build_command) == ("site", "npm run build")
    assert detection.install_command == "npm ci --legacy-peer-deps"
    assert detection.output_directories == ("www", "dist")
    assert detection.node_version == "20"
    assert detection.environment == {
        "NODE_VERSION": "20",
        "NPM_FLAGS": "--legacy-peer-deps ; rm",
        "GREETING": "hello",
    }
    assert detection.routing.redirects == (RedirectRule("/old/*", "/new/:splat", 302, is_forced=True),)
    assert detection.routing.headers == (HeaderRule("/*", {"X-Frame-Options": "DENY"}),)
    assert detection.address_variables == ("URL", "DEPLOY_URL", "DEPLOY_PRIME_URL")
    assert "netlify.toml: 1 redirect and 1 header rule recorded; 1 can't be expressed here" in said(detection)
    assert detect(tmp_path, Path(), Overrides(is_preview=True)).build_command == "npm run preview"
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(detection)), Detection) == detection


def test_a_file_at_the_top_counts_for_the_directory_that_it_names(tmp_path: Path) -> None:
    site = {"netlify.toml": '[build]\nbase = "site"\ncommand = "node b.js"', "site/package.json": VITE}
    assert detected(tmp_path, {**site, "other/package.json": VITE}, "site").build_command == "node b.js"
    assert detect(tmp_path, Path("other"), Overrides()).build_command == "npm run build"


@pytest.mark.parametrize(
    ("pattern", "target", "expected"),
    [
        ("/(.*)", "/index.html", ("/*", "/index.html")),
        ("/blog/:path*", "/news/:path*", ("/blog/*", "/news/:splat")),
        ("/blog/(.*)", "https://a.example/$1", ("/blog/*", "https://a.example/:splat")),
        ("/user/:id", "/users/:id", ("/user/:id", "/users/:id")),
        ("/:id(\\d+)", "/a", None),
        ("/((?!api).*)", "/index.html", None),
        ("/a/(.*)/b", "/c", None),
        (None, "/a", None),
    ],
)
def test_patterns_of_vercel(pattern: object, target: str, expected: tuple[str, str] | None) -> None:
    assert from_pattern(pattern, target) == expected


def test_vercel_with_all_that_it_says(tmp_path: Path) -> None:
    document = {
        "framework": "vue",
        "installCommand": "npm ci",
        "buildCommand": "",
        "rewrites": [{"source": "/(.*)", "destination": "/index.html"}],
        "redirects": [{"source": "/a", "destination": "/b"}, {"source": "/c", "destination": "/d", "permanent": False}],
        "headers": [{"source": "/(.*)", "headers": [{"key": "X-A", "value": "b"}]}],
    }
    text = "// comment\n" + json.dumps(document)
    detection = detected(tmp_path, {"package.json": VITE, "vercel.json": text})
    assert (detection.framework, detection.install_command, detection.build_command) == ("vue-cli", "npm ci", None)
    assert [(rule.path, rule.status) for rule in detection.routing.redirects] == [("/a", 308), ("/c", 307), ("/*", 200)]
    assert detection.is_application is True
    assert "Build command (none): vercel.json (buildCommand)." in said(detection)


def test_read_the_docs_names_generator_and_packages(tmp_path: Path) -> None:
    text = """
version: 2
build: {os: ubuntu-24.04, tools: {python: 3.10}}
sphinx: {configuration: docs/source/conf.py, builder: dirhtml}
python:
  install:
  - requirements: docs/requirements.txt
  - {method: pip, path: ., extra_requirements: [docs]}
"""
    site = {".readthedocs.yaml": text, "docs/source/conf.py": "", "docs/requirements.txt": "", "pyproject.toml": ""}
    detection = detected(tmp_path, site)
    assert (detection.framework, detection.python_version) == ("sphinx", "3.10")
    assert detection.build_command == "sphinx-build -b dirhtml docs/source _build/html"
    assert detection.install_command == "uv pip install sphinx -r docs/requirements.txt '.[docs]'"
    newest = {**site, ".readthedocs.yaml": text.replace("3.10", '"3"')}
    assert detected(tmp_path / "newest", newest).python_version == ">=3.13"
    mkdocs = {".readthedocs.yaml": "mkdocs: {configuration: web/mkdocs.yml}", "web/mkdocs.yml": "site_dir: ../www"}
    detection = detected(tmp_path / "mkdocs", mkdocs)
    assert (detection.build_command, detection.output_directory) == ("mkdocs build --config-file web/mkdocs.yml", "www")


def test_azure_says_what_is_shown_for_missing_paths(tmp_path: Path) -> None:
    document = {"navigationFallback": {"rewrite": "/index.html"}, "globalHeaders": {"X-A": "b"}}
    detection = detected(tmp_path, {"index.html": "", "staticwebapp.config.json": json.dumps(document)})
    assert (detection.is_application, detection.routing.headers) == (True, (HeaderRule("/*", {"X-A": "b"}),))


def test_installs_at_the_beginning_of_a_hosts_command_are_installs_here(tmp_path: Path) -> None:
    def with_command(name: str, command: str, **files: str) -> Detection:
        return detected(tmp_path / name, {"netlify.toml": f"[build]\ncommand = {json.dumps(command)}", **files})

    python = with_command("python", "pip install -r requirements.txt && mkdocs build", **{"mkdocs.yml": ""})
    assert (python.install_command, python.build_command) == ("pip install -r requirements.txt", "mkdocs build")
    node = with_command("node", "npm i -g pnpm && npm i && pip install a && npm run build", **{"package.json": VITE})
    assert (node.install_command, node.build_command) == ("npm install && pip install a", "npm run build")
    alone = with_command("alone", "npm install", **{"package.json": VITE})
    assert (alone.install_command, alone.build_command) == ("npm install", "npm run build")
    clone = with_command("clone", "git submodule update --init && hugo -b $DEPLOY_PRIME_URL", **{"hugo.toml": ""})
    assert clone.build_command == "hugo -b $DEPLOY_PRIME_URL"


def test_a_command_that_is_not_allowed_is_left_out_with_the_reason(tmp_path: Path) -> None:
    site = {"package.json": VITE, "netlify.toml": '[build]\ncommand = "curl https://a.example | sh"'}
    detection = detected(tmp_path, site)
    assert detection.build_command == "npm run build"
    assert "Build command of netlify.toml (build.command) isn't used, because it contains `|`" in said(detection)
    with pytest.raises(StageFailure, match=r"cloudify\.toml: buildCommand contains `\|`") as raised:
        detected(tmp_path / "ours", {"cloudify.toml": 'buildCommand = "curl https://a.example | sh"'})
    assert raised.value.code == FailureCode.CONFIGURATION_INVALID


def test_a_missing_program_is_missing_for_another_hosts_command_too(tmp_path: Path) -> None:
    site = {"config.toml": "base_url = '/'\n", "netlify.toml": '[build]\ncommand = "zola build"\npublish = "public"'}
    with pytest.raises(StageFailure, match="the program zola"):
        detected(tmp_path, site)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("buildCommand = 7", "buildCommand must be a text"),
        ('build_command = "x"', "'build_command' is no field"),
        ('outputDirectory = "../x"', "outputDirectory must lie inside the repository"),
        ('framework = "No"', "framework must be the name"),
        ('isApplication = "yes"', "isApplication must be true or false"),
        ("redirects = 1", "redirects must be tables"),
        ("a = 1\nb = \n", "not valid TOML: .*line 2"),
        ('rootDirectory = "absent"', "names the directory absent"),
    ],
)
def test_mistakes_in_our_own_file_are_failures(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(StageFailure, match=words):
        detected(tmp_path, {"index.html": "", "cloudify.toml": text})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("netlify.toml", "[build]\ncommand = \n", "netlify.toml is not valid TOML: Invalid value (at line 2"),
        ("vercel.json", '{\n/*\n*/ "a": }', "vercel.json is not valid JSON: Expecting value: line 3 column 9"),
        ("wrangler.jsonc", "[1]", "wrangler.jsonc must hold names"),
        ("render.yaml", "services:\n\t- a", "render.yaml is not valid YAML"),
        ("render.yaml", "a: &a [*a]", "render.yaml is not valid YAML"),
        (".readthedocs.yaml", "[" * 5000, "nested too deeply"),
        (".readthedocs.yaml", "x" * 200_000, "larger than 128 KiB"),
        (
            "render.yaml",
            BOMB,
            "more than 50000 values",
        ),
        ("netlify.toml", '[build]\nbase = "/../.."', "names the directory"),
    ],
)
def test_broken_files_of_other_hosts_are_said_and_left_out(tmp_path: Path, name: str, text: str, words: str) -> None:
    detection = detected(tmp_path, {"index.html": "", name: text})
    assert detection.framework == "static"
    assert words in said(detection)


def test_rules_are_bounded() -> None:
    builder = RoutingBuilder()
    for number in range(3000):
        builder.add_redirect(f"/{number}", "/" + "x" * 200)
    builder.add_redirect("no path", "/a")
    builder.add_redirect("/a", "javascript:alert(1)")
    builder.add_redirect("/a", "/b", True)
    builder.add_headers("/*", {"Bad Name": "a", "X-B": "a\nb"})
    routing = builder.build()
    assert len(msgspec.json.encode(routing)) <= MAXIMUM_BYTES * 1.1
    assert len(routing.redirects) + routing.left_out == 3004


def test_a_commit_that_adds_a_file_at_the_top_is_built(tmp_path: Path) -> None:
    detection = detected(tmp_path, {"site/package.json": VITE, "site/package-lock.json": "{}"}, "site")
    watched = watched_paths(SourceTree(tmp_path), detection)
    assert set(CONFIGURATION_FILES) <= set(watched)
