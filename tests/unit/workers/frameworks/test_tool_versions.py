from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.repositories import write_site
from workers.frameworks.detection import Overrides, detect
from workers.frameworks.install_inputs import source_reader
from workers.frameworks.requests import ToolRequest
from workers.frameworks.source_tree import SourceTree
from workers.frameworks.tool_versions import node_request, required_tools

PNPM_LOCK = "lockfileVersion: '%s'\n"
BERRY_LOCK = "# made by yarn\n\n__metadata:\n  version: %s\n"


def package(**fields: object) -> str:
    return json.dumps({"name": "a", "scripts": {"build": "x"}, "dependencies": {"vite": "7"}, **fields})


def developed_with(manager: object) -> str:
    return package(devEngines={"packageManager": manager})


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, []),
        ({"package-lock.json": "{}"}, []),
        ({"pnpm-lock.yaml": PNPM_LOCK % "9.0"}, [("pnpm", "10.34.8")]),
        ({"pnpm-lock.yaml": PNPM_LOCK % "6.0"}, [("pnpm", "8.15.9")]),
        ({"pnpm-lock.yaml": PNPM_LOCK % "5.4"}, [("pnpm", "7.33.7")]),
        ({"pnpm-lock.yaml": PNPM_LOCK % "77"}, [("pnpm", "10.34.8")]),
        ({"yarn.lock": "# yarn lockfile v1\n"}, [("yarn", "1.22.22")]),
        ({"yarn.lock": BERRY_LOCK % 8}, [("berry", "4.18.1")]),
        ({"yarn.lock": BERRY_LOCK % 6}, [("berry", "3.8.7")]),
        ({"yarn.lock": BERRY_LOCK % 999}, [("berry", "4.18.1")]),
        ({"bun.lock": "{}"}, [("bun", "1.4.5")]),
        ({"package.json": package(packageManager="pnpm@9.1.0+sha512.abc")}, [("pnpm", "9.1.0")]),
        ({"package.json": package(packageManager="yarn@1.22.19")}, [("yarn", "1.22.19")]),
        ({"package.json": package(packageManager="yarn@3.6.4")}, [("berry", "3.6.4")]),
        ({"package.json": package(packageManager="npm@10.9.0")}, [("npm", "10.9.0")]),
        ({"package.json": package(packageManager="npm@10.9.0+sha512.abc")}, [("npm", "10.9.0")]),
        ({"package.json": package(packageManager="npm@11.6.0")}, []),
        ({"package.json": package(packageManager="npm@^11.2.0")}, []),
        ({"package.json": package(packageManager="npm@latest")}, []),
        ({"package.json": package(packageManager="npm")}, []),
        ({"package.json": package(packageManager="npm@^10.2.0")}, [("npm", "10.9.4")]),
        ({"package.json": package(packageManager="npm@8.x")}, [("npm", "8.19.4")]),
        ({"package.json": developed_with({"name": "npm", "version": "<10"})}, [("npm", "9.9.4")]),
        ({"package.json": developed_with([{"name": "npm", "version": "10.2.0"}])}, [("npm", "10.2.0")]),
        ({"package.json": package(packageManager="npm@10.9.4"), ".nvmrc": "20"}, [("node", "20.20.2")]),
        ({"package.json": package(packageManager="npm@11.6.0"), ".nvmrc": "20"},
         [("npm", "11.6.0"), ("node", "20.20.2")]),
        ({"package.json": package(packageManager="pnpm@>=9 <10")}, [("pnpm", "9.15.9")]),
        ({"package.json": package(packageManager="yarn@^1.22.0")}, [("yarn", "1.22.22")]),
        ({"package.json": package(packageManager="yarn@^3.0.0")}, [("berry", "3.8.7")]),
        ({"package.json": package(packageManager="yarn@>=1"), "yarn.lock": BERRY_LOCK % 6}, [("berry", "3.8.7")]),
        ({"package.json": package(packageManager="bun@^1.2.0")}, [("bun", "1.4.5")]),
        ({"package.json": package(engines={"pnpm": ">=8 <9"}), "pnpm-lock.yaml": ""}, [("pnpm", "8.15.9")]),
        (
            {"package.json": package(engines={"pnpm": ">=9"}), "pnpm-lock.yaml": "lockfileVersion: '6.0'\n"},
            [("pnpm", "10.34.8")],
        ),
        ({"package.json": package(engines={"pnpm": "9.1.0"}), "pnpm-lock.yaml": ""}, [("pnpm", "9.1.0")]),
        ({"package-lock.json": "{}", ".nvmrc": "20"}, [("node", "20.20.2")]),
        ({"mkdocs.yml": "", "package.json": "", "poetry.lock": ""}, [("poetry", "2.5.1")]),
        ({"mkdocs.yml": "", "package.json": "", "Pipfile.lock": "{}"}, [("pipenv", "2026.10.3")]),
    ],
)  # fmt: skip
def test_what_a_project_needs(tmp_path: Path, files: dict[str, str], expected: list[tuple[str, str]]) -> None:
    write_site(tmp_path, {name: text for name, text in {"package.json": package(), **files}.items() if text})
    for name in [name for name, text in files.items() if not text]:
        (tmp_path / name).unlink(missing_ok=True) if name == "package.json" else (tmp_path / name).touch()
    detection = detect(tmp_path, Path(), Overrides())
    requests, notice = required_tools(SourceTree(tmp_path), detection, "24.1.0", "11.6.0")
    assert (requests, notice) == ([ToolRequest(*tool) for tool in expected], None)


@pytest.mark.parametrize(
    ("fields", "tools", "said"),
    [
        ({"packageManager": "npm@^99.0.0"}, [], "npm ^99.0.0; 11.6.0 is used. Name an exact version"),
        ({"packageManager": "npm@10.9.0;evil"}, [], "npm 10.9.0;evil; 11.6.0 is used"),
        ({"packageManager": "pnpm@9.1.0;evil"}, [("pnpm", "10.34.8")], "pnpm 9.1.0;evil; 10.34.8 is used"),
        ({"packageManager": "pnpm@^99"}, [("pnpm", "10.34.8")], "pnpm ^99; 10.34.8 is used"),
        ({"packageManager": "yarn@^99"}, [("berry", "4.18.1")], "yarn ^99; 4.18.1 is used"),
        ({"packageManager": "bun@0.x"}, [("bun", "1.4.5")], "bun 0.x; 1.4.5 is used"),
        ({"packageManager": "npm@canary\n$ rm"}, [], "npm canary\\n$ rm; 11.6.0 is used"),
        ({"packageManager": "vlt@1.0.0"}, [], "packageManager in package.json asks for vlt, which is not one of"),
        ({"packageManager": "https://example.com/npm.tgz"}, [], "asks for https://example.com/npm.tgz, which is not"),
        ({"devEngines": {"packageManager": {"name": "cnpm"}}}, [], "devEngines in package.json asks for cnpm"),
        ({"packageManager": "vlt@1", "devEngines": {"packageManager": {"name": "pnpm", "version": "9.1.0"}}},
         [("pnpm", "9.1.0")], "asks for vlt, which is not one of yarn, pnpm, npm, bun; pnpm is used"),
    ],
)  # fmt: skip
def test_an_unused_package_manager_is_reported(
    tmp_path: Path, fields: dict[str, object], tools: list[tuple[str, str]], said: str
) -> None:
    write_site(tmp_path, {"package.json": package(**fields)})
    detection = detect(tmp_path, Path(), Overrides())
    requests, notice = required_tools(SourceTree(tmp_path), detection, "24.1.0", "11.6.0")
    assert requests == [ToolRequest(*tool) for tool in tools]
    assert said in (notice or "")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"pnpm-lock.yaml": PNPM_LOCK % "9.0" + "# more\n" * 300_000}, [("pnpm", "10.34.8")]),
        ({"yarn.lock": BERRY_LOCK % 8 + "# more\n" * 300_000}, [("berry", "4.18.1")]),
        ({"mkdocs.yml": "", "requirements.txt": "a==1 --hash=sha256:0\n" * 100_000}, []),
    ],
)
def test_a_lockfile_may_be_large(tmp_path: Path, files: dict[str, str], expected: list[tuple[str, str]]) -> None:
    write_site(tmp_path, files if "mkdocs.yml" in files else {"package.json": package(), **files})
    detection = detect(tmp_path, Path(), Overrides())
    assert required_tools(SourceTree(tmp_path), detection, "24.1.0", "11.6.0")[0] == [
        ToolRequest(*tool) for tool in expected
    ]
    assert not source_reader(SourceTree(tmp_path), detection)


def test_a_command_of_the_settings_names_its_manager(tmp_path: Path) -> None:
    write_site(tmp_path, {"package.json": package()})
    commands = Overrides(install_command="corepack enable && pnpm i", build_command="bunx vite build")
    detection = detect(tmp_path, Path(), commands)
    requests, _ = required_tools(SourceTree(tmp_path), detection, "24.1.0", "11.6.0")
    assert [request.name for request in requests] == ["pnpm", "bun"]


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        (None, None), ("24", None), (">=20", None), (">= 20", None), ("^22 || ^24", None),
        ("lts/*", None), ("*", None), ("stable", None), ("24.x", None), (">=18 <25", None), ("18 - 24", None),
        ("22.x", "22.23.3"), ("22", "22.23.3"), ("^20.9.0", "20.20.2"), ("20 || 18", "20.20.2"), ("~20.20", "20.20.2"),
        ("lts/iron", "20.20.2"), ("lts/jod", "22.23.3"), ("<21", "20.20.2"), (">=18 <19", "18.20.8"),
        (">=26", "26.10.0"), ("16.x", "16.20.2"), ("lts/gallium", "16.20.2"),
        ("18 - 20", "20.20.2"), ("20.20.2", "20.20.2"), (">20 <23", "22.23.3"), ("<=20", "20.20.2"),
    ],
)  # fmt: skip
def test_the_node_that_satisfies_a_range(wanted: str | None, version: str | None) -> None:
    request = None if version is None else ToolRequest("node", version)
    assert node_request(wanted, "24.1.0") == (request, None)


@pytest.mark.parametrize(
    ("wanted", "version", "said"),
    [
        ("22.1.0", "22.23.3", "22.23.3 is the one of that line"),
        ("v20.5.1", "20.20.2", "20.20.2 is the one of that line"),
        ("24.0.0", None, "24.1.0 is the one of that line"),
        (">=28", None, "there are 26, 24, 22, 20, 18, 16, and 24.1.0 is used"),
        ("14", "16.20.2", "16.20.2 is the oldest that there is"),
        ("12.x || 14.17", "16.20.2", "16.20.2 is the oldest that there is"),
        ("<16", "16.20.2", "16.20.2 is the oldest that there is"),
        ("15 || >=30", None, "24.1.0 is used"),
        ("banana", None, "24.1.0 is used"),
    ],
)
def test_an_unavailable_node_version_is_reported(wanted: str, version: str | None, said: str) -> None:
    request, notice = node_request(wanted, "24.1.0")
    assert request == (None if version is None else ToolRequest("node", version))
    assert said in (notice or "")
