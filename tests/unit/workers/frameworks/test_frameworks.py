"""Detection, on trees of real projects and on hostile ones."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.errors import FailureCode, StageFailure
from tests.support.repositories import write_site
from workers.frameworks import catalogue
from workers.frameworks.catalogue import BY_NAME
from workers.frameworks.detection import Detection, Overrides, detect


def package(dependencies: Mapping[str, str] | None = None, **fields: Any) -> str:
    return json.dumps({"name": "site", "dependencies": dependencies or {}, **fields})


def depends(name: str, **scripts: str) -> dict[str, str]:
    return {"package.json": package({name: "1.0.0"}, scripts=scripts), "package-lock.json": "{}"}


def detected(root: Path, site: Mapping[str, str | bytes], directory: str = ".", **overrides: Any) -> Detection:
    write_site(root, site)
    return detect(root, Path(directory), Overrides(**overrides))


def failure(root: Path, site: Mapping[str, str | bytes], directory: str = ".", **overrides: Any) -> StageFailure:
    with pytest.raises(StageFailure) as raised:
        detected(root, site, directory, **overrides)
    return raised.value


ANGULAR = json.dumps({"projects": {"shop": {"architect": {"build": {"options": {"outputPath": "dist/shop"}}}}}})


@pytest.mark.parametrize(
    ("site", "framework", "build_command", "output"),
    [
        (depends("vite", build="tsc && vite build"), "vite", "npm run build", "dist"),
        (depends("vite"), "vite", "vite build", "dist"),
        ({**depends("vite"), "vite.config.ts": "build: { outDir: 'www' }"}, "vite", "vite build", "www"),
        ({**depends("vite"), "vite.config.ts": "build: { outDir: '../www' }"}, "vite", "vite build", "dist"),
        (depends("next", build="next build"), "nextjs", "npm run build", "out"),
        (
            {**depends("next"), "next.config.mjs": 'const a = { distDir: "www", output: "export" }'},
            "nextjs",
            "next build",
            "www",
        ),
        ({**depends("next"), "next.config.js": "module.exports = { distDir: 'www' }"}, "nextjs", "next build", "out"),
        (depends("astro", build="astro build"), "astro", "npm run build", "dist"),
        (depends("astro", build="astro build --outDir www/a"), "astro", "npm run build", "www/a"),
        (depends("vite", build="tsc --outDir lib && vite build"), "vite", "npm run build", "dist"),
        (depends("vite", build="tsc && vite build --outDir=www --base /"), "vite", "npm run build", "www"),
        (depends("vite", build="vite build --outDir ../www"), "vite", "npm run build", "dist"),
        (depends("@11ty/eleventy", build="npx @11ty/eleventy --output=www"), "eleventy", "npm run build", "www"),
        (depends("@docusaurus/core", build="docusaurus build --out-dir 'www'"), "docusaurus", "npm run build", "www"),
        (
            {**depends("@sveltejs/kit"), "svelte.config.js": "kit: { adapter: adapter({ pages: 'www' }) }"},
            "sveltekit",
            "vite build",
            "www",
        ),
        (
            {"package.json": package({"@sveltejs/kit": "2", "vite": "7"}, scripts={"build": "vite build"})},
            "sveltekit",
            "npm run build",
            "build",
        ),
        (depends("nuxt", build="nuxt build", generate="nuxt generate"), "nuxt", "npm run generate", ".output/public"),
        (depends("nuxt", build="nuxt build"), "nuxt", "nuxt generate", ".output/public"),
        (depends("gatsby", build="gatsby build"), "gatsby", "npm run build", "public"),
        (depends("@docusaurus/core", build="docusaurus build"), "docusaurus", "npm run build", "build"),
        (
            {
                "package.json": package(
                    devDependencies={"vitepress": "1"}, scripts={"docs:build": "vitepress build docs"}
                )
            },
            "vitepress",
            "npm run docs:build",
            "docs/.vitepress/dist",
        ),
        (depends("vitepress", build="vitepress build"), "vitepress", "npm run build", ".vitepress/dist"),
        (depends("@11ty/eleventy"), "eleventy", "eleventy", "_site"),
        (
            {**depends("@11ty/eleventy"), "eleventy.config.js": 'return { dir: { output: "www" } }'},
            "eleventy",
            "eleventy",
            "www",
        ),
        ({**depends("@angular/core"), "angular.json": ANGULAR}, "angular", "ng build", "dist/shop/browser"),
        (depends("react-scripts", build="react-scripts build"), "create-react-app", "npm run build", "build"),
        (depends("@vue/cli-service", build="vue-cli-service build"), "vue-cli", "npm run build", "dist"),
        (depends("@remix-run/dev", build="remix vite:build"), "remix", "npm run build", "build/client"),
        ({"hugo.toml": "title = 'a'"}, "hugo", "hugo --minify", "public"),
        ({"hugo.toml": "publishDir = 'www'"}, "hugo", "hugo --minify", "www"),
        ({"mkdocs.yml": "site_name: a"}, "mkdocs", "mkdocs build", "site"),
        ({"mkdocs.yml": "site_name: a\nsite_dir: www # here\n"}, "mkdocs", "mkdocs build", "www"),
        (
            {"docs/conf.py": "", "requirements.txt": ""},
            "sphinx",
            "sphinx-build -b html docs _build/html",
            "_build/html",
        ),
        ({"conf.py": ""}, "sphinx", "sphinx-build -b html . _build/html", "_build/html"),
        ({"pelicanconf.py": ""}, "pelican", "pelican content -o output", "output"),
        ({"package.json": package(scripts={"build": "node build.js"})}, "node", "npm run build", "dist"),
        ({"index.html": ""}, "static", None, "."),
        ({"public/index.html": ""}, "static", None, "public"),
        ({"index.html": "", "package.json": package({"prettier": "3"})}, "static", None, "."),
    ],
)
def test_each_framework_is_recognised_with_its_command_and_output(
    tmp_path: Path, site: dict[str, str | bytes], framework: str, build_command: str | None, output: str
) -> None:
    detection = detected(tmp_path, site)
    assert (detection.framework, detection.build_command, detection.output_directory) == (
        framework,
        build_command,
        output,
    )
    assert detection.reasons


@pytest.mark.parametrize(
    ("site", "manager", "command"),
    [
        ({"package.json": package({"vite": "7"}), "package-lock.json": "{}"}, "npm", "npm ci"),
        ({"package.json": package({"vite": "7"}), "npm-shrinkwrap.json": "{}"}, "npm", "npm ci"),
        ({"package.json": package({"vite": "7"})}, "npm", "npm install"),
        ({"package.json": package({"vite": "7"}), "pnpm-lock.yaml": ""}, "pnpm", "pnpm install --frozen-lockfile"),
        ({"package.json": package({"vite": "7"}), "yarn.lock": ""}, "yarn", "yarn install --frozen-lockfile"),
        (
            {"package.json": package({"vite": "7"}), "yarn.lock": "", ".yarnrc.yml": ""},
            "yarn",
            "yarn install --immutable",
        ),
        (
            {"package.json": package({"vite": "7"}, packageManager="yarn@4.1.0+sha224.ab"), "yarn.lock": ""},
            "yarn",
            "yarn install --immutable",
        ),
        (
            {"package.json": package({"vite": "7"}, packageManager="yarn@4.1.0")},
            "yarn",
            "yarn install --no-immutable",
        ),
        ({"package.json": package({"vite": "7"}, packageManager="yarn@1.22.22")}, "yarn", "yarn install"),
        ({"package.json": package({"vite": "7"}), "bun.lock": ""}, "bun", "bun install --frozen-lockfile"),
        ({"package.json": package({"vite": "7"}), "bun.lockb": ""}, "bun", "bun install --frozen-lockfile"),
        # The field decides over a lockfile of another manager.
        (
            {"package.json": package({"vite": "7"}, packageManager="pnpm@9.0.0"), "package-lock.json": "{}"},
            "pnpm",
            "pnpm install",
        ),
        (
            {"package.json": package({"vite": "7"}, packageManager="nonsense"), "package-lock.json": "{}"},
            "npm",
            "npm ci",
        ),
        ({"package.json": package(scripts={"build": "node build.js"})}, "npm", None),
        ({"package.json": package(scripts={"build": "x", "postinstall": "y"})}, "npm", "npm install"),
        ({"mkdocs.yml": "", "requirements.txt": "mkdocs"}, "pip", "uv pip install -r requirements.txt"),
        (
            {"mkdocs.yml": "", "requirements.txt": "mkdocs==1 --hash=sha256:00"},
            "pip",
            "uv pip install --require-hashes -r requirements.txt",
        ),
        ({"mkdocs.yml": "", "uv.lock": "", "requirements.txt": ""}, "uv", "uv sync --locked"),
        ({"mkdocs.yml": "", "pyproject.toml": "[project]\ndependencies = ['mkdocs']"}, "uv", "uv sync"),
        ({"mkdocs.yml": "", "poetry.lock": ""}, "poetry", "poetry sync"),
        ({"mkdocs.yml": "", "Pipfile.lock": ""}, "pipenv", "pipenv sync"),
        ({"mkdocs.yml": "", "Pipfile": ""}, "pipenv", "pipenv install --dev"),
        (
            {"mkdocs.yml": "", "pyproject.toml": "[tool.poetry.dependencies]\nmkdocs = '1'"},
            "poetry",
            "poetry install",
        ),
        ({"mkdocs.yml": "", "pyproject.toml": "[tool.ruff]"}, "uv", "uv pip install 'mkdocs<2'"),
        ({"mkdocs.yml": "", "Pipfile.lock": '{"develop": {}}'}, "pipenv", "pipenv sync"),
        ({"mkdocs.yml": "", "Pipfile.lock": '{"develop": {\n"mkdocs": {}}}'}, "pipenv", "pipenv sync --dev"),
        (
            {"mkdocs.yml": "", "pyproject.toml": "[project]\ndependencies = ['a']\n[dependency-groups]\ndocs = ['b']"},
            "uv",
            "uv sync --group docs",
        ),
        (
            {"conf.py": "", "pyproject.toml": "[project.optional-dependencies]\ndocs = ['sphinx']\ntest = ['pytest']"},
            "uv",
            "uv sync --extra docs",
        ),
        (
            {"mkdocs.yml": "", "uv.lock": "", "pyproject.toml": "[dependency-groups]\ndoc = ['mkdocs']\ndev = ['b']"},
            "uv",
            "uv sync --locked --group doc",
        ),
        (
            {"mkdocs.yml": "", "poetry.lock": "", "pyproject.toml": "[tool.poetry.group.docs]\noptional = true"},
            "poetry",
            "poetry sync --with docs",
        ),
        (
            {"mkdocs.yml": "", "poetry.lock": "", "pyproject.toml": "[tool.poetry.group.docs]\n[tool.poetry.extras]"},
            "poetry",
            "poetry sync",
        ),
        (
            {"mkdocs.yml": "", "poetry.lock": "", "pyproject.toml": "[tool.poetry.extras]\ndocs = ['mkdocs']"},
            "poetry",
            "poetry sync --extras docs",
        ),
        ({"mkdocs.yml": ""}, "uv", "uv pip install 'mkdocs<2'"),
        ({"docs/conf.py": "", "docs/requirements.txt": "sphinx"}, "pip", "uv pip install -r docs/requirements.txt"),
        ({"index.html": "", "package-lock.json": "{}"}, None, None),
        (
            {"package.json": package({"vite": "7"}, packageManager="pnpm"), "package-lock.json": "{}"},
            "pnpm",
            "pnpm install",
        ),
        (
            {"package.json": package({"vite": "7"}), "pnpm-lock.yaml": "", "package-lock.json": "{}"},
            "pnpm",
            "pnpm install --frozen-lockfile",
        ),
        (
            {"package.json": package({"vite": "7"}), "yarn.lock": "__metadata:\n  version: 8\n"},
            "yarn",
            "yarn install --immutable",
        ),
        (
            {
                "package.json": package({"vite": "7"}, devEngines={"packageManager": {"name": "bun", "version": "1"}}),
                "package-lock.json": "{}",
            },
            "bun",
            "bun install",
        ),
        (
            {"package.json": package({"vite": "7"}, devEngines={"packageManager": [7]}), "package-lock.json": "{}"},
            "npm",
            "npm ci",
        ),
    ],
)
def test_the_package_manager_is_the_declared_one_or_that_of_the_lockfile(
    tmp_path: Path, site: dict[str, str | bytes], manager: str | None, command: str | None
) -> None:
    detection = detected(tmp_path, site)
    assert (detection.package_manager, detection.install_command) == (manager, command)


def test_a_member_of_a_workspace_is_installed_at_its_root(tmp_path: Path) -> None:
    site = {
        "package.json": package(workspaces=["apps/*"]),
        "package-lock.json": "{}",
        ".nvmrc": "v22.1.0\n",
        "apps/site/package.json": package({"vite": "7"}),
    }
    detection = detected(tmp_path, site, "apps/site")
    assert detection.install_directory == "."
    assert detection.root_directory == "apps/site"
    assert detection.lockfile == "package-lock.json"
    assert detection.install_command == "npm ci"
    assert detection.node_version == "22.1.0"


def test_requirements_next_to_a_package_file_are_reported_as_left_out(tmp_path: Path) -> None:
    site = {"package.json": package({"vite": "7"}), "package-lock.json": "", "requirements.txt": ""}
    assert "`npm ci && pip install -r requirements.txt`" in " ".join(detected(tmp_path, site).reasons)
    both = detected(tmp_path, site, install_command="npm ci && pip install -r requirements.txt")
    assert "requirements.txt, which" not in " ".join(both.reasons)


@pytest.mark.parametrize(
    ("workspace", "own", "command"),
    [
        ({"package.json": package(workspaces=["packages/*"]), "package-lock.json": ""}, {}, "npm install"),
        ({"package.json": package(workspaces=["packages/*"]), "yarn.lock": ""}, {}, "npm install"),
        # pnpm would install the workspace above, and nothing here.
        (
            {"package.json": package(), "pnpm-workspace.yaml": "packages:\n  - packages/*\n", "pnpm-lock.yaml": ""},
            {"docs/pnpm-lock.yaml": ""},
            "pnpm install --frozen-lockfile --ignore-workspace",
        ),
    ],
)
def test_a_project_outside_of_the_workspace_is_installed_by_itself(
    tmp_path: Path, workspace: dict[str, str], own: dict[str, str], command: str
) -> None:
    detection = detected(tmp_path, {**workspace, **own, "docs/package.json": package({"vitepress": "1"})}, "docs")
    assert (detection.install_directory, detection.install_command) == ("docs", command)


def test_a_variable_chooses_the_package_manager_over_the_lockfile(tmp_path: Path) -> None:
    locks: dict[str, str | bytes] = {"package-lock.json": "{}", "pnpm-lock.yaml": ""}
    site = {**locks, "package.json": package({"vite": "7"})}
    detection = detected(tmp_path / "free", site, package_manager="npm")
    assert (detection.package_manager, detection.install_command) == ("npm", "npm ci")
    assert any("CLOUDIFY_PACKAGE_MANAGER" in reason for reason in detection.reasons)
    declaring = {**locks, "package.json": package({"vite": "7"}, packageManager="pnpm@10.0.0")}
    assert detected(tmp_path / "declared", declaring, package_manager="npm").package_manager == "pnpm"
    refused = failure(tmp_path / "wrong", site, package_manager="cargo")
    assert refused.code == FailureCode.CONFIGURATION_INVALID
    assert "npm" in refused.message
    # Not what was set: a variable's value is nobody's to read in a log.
    assert "cargo" not in refused.message


def test_a_second_lockfile_is_reported(tmp_path: Path) -> None:
    site = {"package.json": package({"vite": "7"}), "package-lock.json": "{}", "yarn.lock": ""}
    [line] = [reason for reason in detected(tmp_path, site).reasons if "not used" in reason]
    assert "package-lock.json" in line
    assert "CLOUDIFY_PACKAGE_MANAGER" in line


@pytest.mark.parametrize(
    ("dependency", "scripts", "command"),
    [
        ("vite", {"build": "tsc", "build:site": "vite build"}, "npm run build"),
        ("vite", {"build:site": "vite build"}, "npm run build:site"),
        ("vite", {"build:watch": "vite build --watch"}, "vite build"),
        ("vite", {"preview": "vite build && vite preview"}, "vite build"),
        ("@11ty/eleventy", {"start": "eleventy --serve"}, "eleventy"),
        ("vitepress", {"build": "vite build", "docs:build": "vitepress build docs"}, "npm run docs:build"),
        ("vitepress", {"build": "npm run other"}, "npm run build"),
        ("nuxt", {"build": "nuxt generate"}, "npm run build"),
        ("nuxt", {"build": "nuxt build"}, "nuxt generate"),
    ],
)
def test_the_script_that_builds_the_site(
    tmp_path: Path, dependency: str, scripts: dict[str, str], command: str
) -> None:
    site = {"package.json": package({dependency: "1.0.0"}, scripts=scripts)}
    assert detected(tmp_path, site).build_command == command


def test_a_plugin_of_a_framework_is_no_project_of_it(tmp_path: Path) -> None:
    site = {"package.json": package(peerDependencies={"vite": "7"}, scripts={"build": "tsc"})}
    assert detected(tmp_path, site).framework == "node"


def test_hugos_older_configuration_is_told_from_zolas(tmp_path: Path) -> None:
    assert detected(tmp_path / "hugo", {"config.toml": "title = 'a'\nbaseURL = '/'\n"}).framework == "hugo"
    assert "a Zola site" in failure(tmp_path / "zola", {"config.toml": "base_url = '/'\n"}).message


def test_a_lockfile_above_is_not_ours_without_a_workspace(tmp_path: Path) -> None:
    site = {"package.json": package(), "package-lock.json": "{}", "site/package.json": package({"vite": "7"})}
    detection = detected(tmp_path, site, "site")
    assert (detection.lockfile, detection.install_directory, detection.install_command) == (None, "site", "npm install")
    assert any("no lockfile" in reason for reason in detection.reasons)


@pytest.mark.parametrize(
    ("site", "version"),
    [
        ({".nvmrc": "v20\n"}, "20"),
        ({".node-version": "22.3.0"}, "22.3.0"),
        ({".nvmrc": "# ours\n\nlts/iron # until May\n"}, "lts/iron"),
        ({"package.json": package({"vite": "7"}, devEngines={"runtime": {"name": "node", "version": "^22"}})}, "^22"),
        ({"package.json": package({"vite": "7"}, devEngines={"runtime": {"name": "deno", "version": "2"}})}, None),
        ({".nvmrc": "", "package.json": package({"vite": "7"}, engines={"node": ">=20"})}, ">=20"),
        ({".nvmrc": "18", "package.json": package({"vite": "7"}, engines={"node": ">=20"})}, "18"),
        ({}, None),
    ],
)
def test_the_node_version_comes_from_the_nearest_file(
    tmp_path: Path, site: dict[str, str | bytes], version: str | None
) -> None:
    assert detected(tmp_path, {"package.json": package({"vite": "7"}), **site}).node_version == version


def test_the_python_version_comes_from_the_nearest_file(tmp_path: Path) -> None:
    assert detected(tmp_path, {"mkdocs.yml": "", ".python-version": "# mine\n3.12\n"}).python_version == "3.12"
    site = {"mkdocs.yml": "", "pyproject.toml": "[project]\nrequires-python = '>=3.11'\n"}
    assert detected(tmp_path / "other", site).python_version == ">=3.11"


def test_the_settings_win_over_everything(tmp_path: Path) -> None:
    detection = detected(
        tmp_path,
        depends("next", build="next build"),
        framework="vite",
        install_command="npm ci --legacy-peer-deps",
        build_command="node build.js",
        output_directory="public/",
        node_version="22",
    )
    assert detection.framework == "vite"
    assert detection.install_command == "npm ci --legacy-peer-deps"
    assert detection.build_command == "node build.js"
    assert detection.output_directories == ("public",)
    assert detection.node_version == "22"
    assert detection.is_custom_install


def test_empty_commands_of_the_settings_mean_none(tmp_path: Path) -> None:
    detection = detected(tmp_path, depends("vite", build="vite build"), install_command="", build_command=" ")
    assert (detection.install_command, detection.build_command) == (None, None)


def test_commands_of_the_settings_need_no_recognisable_project(tmp_path: Path) -> None:
    detection = detected(tmp_path, {"build.py": ""}, build_command="python3 build.py", output_directory="out")
    assert (detection.framework, detection.install_command) == ("other", None)


@pytest.mark.parametrize(
    ("site", "settings", "code", "words"),
    [
        ({"main.go": ""}, {}, FailureCode.PROJECT_NOT_RECOGNISED, "index.html"),
        ({"package.json": package({"lodash": "4"})}, {}, FailureCode.PROJECT_NOT_RECOGNISED, "`build` script"),
        ({"_config.yml": ""}, {}, FailureCode.CONFIGURATION_INVALID, "Ruby"),
        ({"index.html": ""}, {"framework": "rails"}, FailureCode.CONFIGURATION_INVALID, "rails"),
        ({"index.html": ""}, {"framework": "vite"}, FailureCode.CONFIGURATION_INVALID, "needs a package.json"),
        ({"index.html": ""}, {"output_directory": "/etc"}, FailureCode.CONFIGURATION_INVALID, "output directory"),
        ({"index.html": ""}, {"output_directory": "a/../../b"}, FailureCode.CONFIGURATION_INVALID, "without `..`"),
        ({"package.json": "{"}, {}, FailureCode.CONFIGURATION_INVALID, "package.json is not valid JSON"),
        ({"package.json": b"\xff\xfe{}"}, {}, FailureCode.CONFIGURATION_INVALID, "can't be decoded"),
        ({"package.json": "[1]"}, {}, FailureCode.CONFIGURATION_INVALID, "JSON object"),
        ({"package.json": "[" * 200_000}, {}, FailureCode.CONFIGURATION_INVALID, "package.json"),
        ({"package.json": " " * 2_000_000}, {}, FailureCode.CONFIGURATION_INVALID, "larger than 1024 KiB"),
        ({"mkdocs.yml": "", "pyproject.toml": "["}, {}, FailureCode.CONFIGURATION_INVALID, "pyproject.toml is not"),
    ],
)
def test_what_cannot_be_used_is_reported_with_a_remedy(
    tmp_path: Path, site: dict[str, str | bytes], settings: dict[str, str], code: FailureCode, words: str
) -> None:
    raised = failure(tmp_path, site, **settings)
    assert raised.code == code
    assert words in raised.message


@pytest.mark.parametrize("directory", ["absent", "index.html", "../", "/etc"])
def test_an_invalid_root_directory_is_refused(tmp_path: Path, directory: str) -> None:
    write_site(tmp_path / "tree", {"index.html": ""})
    with pytest.raises((StageFailure, ValueError)):
        detect(tmp_path / "tree", Path(directory), Overrides())


@pytest.mark.parametrize(
    "fields",
    [
        {"dependencies": [1], "scripts": "no", "engines": 7, "workspaces": 3, "packageManager": {}},
        {"dependencies": None, "scripts": {"build": 5}, "engines": {"node": 20}},
    ],
)
def test_odd_but_valid_package_files_do_not_break_it(tmp_path: Path, fields: dict[str, Any]) -> None:
    site = {"index.html": "", "package.json": json.dumps({"name": "x", **fields})}
    assert detected(tmp_path, site).framework == "static"


def test_links_that_leave_the_tree_are_not_read(tmp_path: Path) -> None:
    write_site(tmp_path / "outside", {"package.json": package({"vite": "7"}), "docs/index.html": ""})
    tree = tmp_path / "tree"
    write_site(tree, {"real/index.html": ""})
    (tree / "package.json").symlink_to(tmp_path / "outside" / "package.json")
    (tree / "docs").symlink_to(tmp_path / "outside" / "docs")
    (tree / "index.html").symlink_to("real/index.html")
    (tree / "hugo.toml").symlink_to("hugo.toml")
    assert detect(tree, Path(), Overrides()).framework == "static"
    with pytest.raises(StageFailure) as raised:
        detect(tree, Path("docs"), Overrides())
    assert raised.value.code == FailureCode.ROOT_DIRECTORY_NOT_FOUND


def test_a_named_pipe_does_not_hold_the_worker(tmp_path: Path) -> None:
    write_site(tmp_path, {"index.html": ""})
    os.mkfifo(tmp_path / "package.json")
    assert detect(tmp_path, Path(), Overrides()).framework == "static"


def test_a_detection_survives_the_database(tmp_path: Path) -> None:
    detection = detected(tmp_path, depends("vite", build="vite build"))
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(detection)), Detection) == detection


def test_no_framework_keeps_what_it_publishes() -> None:
    """What a commit deletes would be published for good."""
    for framework in catalogue.FRAMEWORKS:
        kept = {*framework.caches, *catalogue.NODE_CACHES, *catalogue.WORKSPACE_CACHES}
        outputs = {framework.output, *framework.other_outputs}
        assert not any(f"{output}/".startswith(f"{path}/") for output in outputs for path in kept), framework.name


def test_every_framework_can_be_chosen_by_its_name(tmp_path: Path) -> None:
    for name, framework in BY_NAME.items():
        if not framework.missing:
            assert detected(tmp_path, depends("x"), framework=name).framework == name


@pytest.mark.parametrize("name", ["package.json", ".nvmrc", "requirements.txt", "pyproject.toml", "angular.json"])
def test_a_directory_in_place_of_a_configuration_file_reads_as_absent(tmp_path: Path, name: str):
    site = {"package.json": package(scripts={"build": "x"})} if name != "package.json" else {"index.html": ""}
    assert detected(tmp_path, {**site, "mkdocs.yml": "", f"{name}/inner": ""}).framework in ("mkdocs", "static")


@pytest.mark.parametrize(
    "site",
    [
        {"package.json": package(scripts={"build": "x"}, engines={"node": "2\0\ud800"}, packageManager="npm@1\0")},
        {"package.json": package(scripts={"build": "x"}), ".nvmrc": b"22\0"},
        {"mkdocs.yml": "site_dir: a\0b", "pyproject.toml": '[project]\nrequires-python = "3\\u0000"'},
        {"package.json": package({"@angular/cli": "1"}), "angular.json": json.dumps({"projects": {"a\0\udfff": {}}})},
    ],
)
def test_what_no_database_takes_is_replaced(tmp_path: Path, site: dict[str, str | bytes]):
    text = msgspec.json.encode(detected(tmp_path, site)).decode()
    assert "\\u0000" not in text
    assert "\N{REPLACEMENT CHARACTER}" in text


@pytest.mark.parametrize(
    "text",
    [
        '{ // which one\n "projects": {"shop": {"root": "a // b /* c */", /* none */},},\n}',
        '\ufeff{"projects": {"shop": {"root": "\\"//", "list": [1, 2 , ]}}}',
    ],
)
def test_angulars_configuration_may_have_comments(tmp_path: Path, text: str) -> None:
    site = {"package.json": package({"@angular/core": "1"}), "angular.json": text}
    assert detected(tmp_path, site).output_directories == ("dist/shop/browser", "dist/shop")


@pytest.mark.parametrize("text", ["/*" * 400_000, '"' + '\\"' * 400_000, "[" + "," * 400_000, "{" + ", " * 300_000])
def test_a_configuration_that_never_closes_is_refused_in_no_time(tmp_path: Path, text: str) -> None:
    with pytest.raises(StageFailure, match=r"angular\.json is not valid JSON"):
        detected(tmp_path, {"package.json": package({"@angular/core": "1"}), "angular.json": text})


def test_output_directories_fit_an_argument_list(tmp_path: Path):
    projects: dict[str, Any] = {"a" * 200_000: {}, **{f"p{number}": {} for number in range(20_000)}}
    angular = {"package.json": package({"@angular/cli": "1"}), "angular.json": json.dumps({"projects": projects})}
    assert sum(map(len, detected(tmp_path / "angular", angular).output_directories)) < 20_000
    mkdocs = {"mkdocs.yml": "site_dir: " + "x" * 200_000}
    assert detected(tmp_path / "mkdocs", mkdocs).output_directory == "site"


def test_a_member_of_a_workspace_is_installed_with_the_others_and_built_with_turborepo(tmp_path: Path) -> None:
    site = {
        "package.json": package({"turbo": "2"}, workspaces=["apps/*"]),
        "turbo.json": "{}",
        "apps/web/package.json": package({"vite": "7"}, scripts={"build": "vite build"}),
    }
    write_site(tmp_path, site)
    detection = detect(tmp_path, Path("apps/web"), Overrides())
    assert (detection.install_directory, detection.install_command) == (".", "npm install")
    assert (detection.root_directory, detection.build_command) == ("apps/web", "turbo run build")
    # At the root itself, the project's own script decides; and without turbo among the dependencies, too.
    (tmp_path / "package.json").write_text(package({"vite": "7"}, workspaces=["apps/*"]))
    assert detect(tmp_path, Path("apps/web"), Overrides()).build_command == "npm run build"


def test_likely_root_directories_are_suggested(tmp_path: Path) -> None:
    site = {
        "package.json": json.dumps({"workspaces": ["apps/*", "packages/*"]}),
        "apps/web/package.json": package({"vite": "7"}),
        "apps/web/public/index.html": "",
        "packages/ui/package.json": package({"react": "19"}),
        "docs/mkdocs.yml": "",
        "node_modules/a/index.html": "",
        "a/b/c/d/index.html": "",
        "apps/broken/package.json": "{{ name }}",
        "apps/idle/package.json": package(),
    }
    assert "set the root directory (perhaps to docs or apps/web)." in failure(tmp_path, site).message
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    (tmp_path / os.fsdecode(b"\xff") / "index.html").touch()
    failure(tmp_path, {}).message.encode()
    assert failure(tmp_path, {}, "packages").message.endswith("set the root directory.")


@pytest.mark.parametrize(
    ("script", "output"),
    [
        ("rm -rf _site dist; eleventy; parcel build '_site/*.html' --public-url $(node url.js)", "dist"),
        ("eleventy && vite build --outDir public", "public"),
        ("eleventy && parcel build src/main.js && cp a _site", "_site"),
        ("parcel build src/main.js && eleventy", "_site"),
        ("eleventy", "_site"),
    ],
)
def test_a_bundler_after_the_generator_writes_the_site(tmp_path: Path, script: str, output: str) -> None:
    package = {"scripts": {"build": script}, "devDependencies": {"@11ty/eleventy": "1", "parcel": "2"}}
    (tmp_path / "package.json").write_text(json.dumps(package))
    assert detect(tmp_path, Path(), Overrides()).output_directories[0] == output


@pytest.mark.parametrize("of_the_root", [{}, {"astro.config.mjs": ""}, {"src/pages/index.astro": ""}])
def test_a_framework_that_a_root_has_for_its_members_is_not_its_own(
    tmp_path: Path, of_the_root: dict[str, str]
) -> None:
    root = {"workspaces": ["docs", "packages/*"], "devDependencies": {"astro": "7"}, "scripts": {"size": "size-limit"}}
    site = {"scripts": {"build": "astro build"}, "dependencies": {"astro": "7"}}
    files = {"package.json": json.dumps(root), "docs/package.json": json.dumps(site), **of_the_root}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    detection = detect(tmp_path, Path(), Overrides())
    assert (detection.framework, detection.root_directory) == ("astro", "." if of_the_root else "docs")
