"""Every module has a room: the folders of HOUSE, which `tests/` mirrors."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_top_of_workers_holds_the_processes_and_what_composes_them() -> None:
    """A new module belongs in a wing: see CONTRIBUTING, "Where things live"."""
    found = {path.stem for path in (ROOT / "workers").glob("*.py")}
    assert found == {"__init__", "main", "reconciler", "composition"}


def test_what_has_no_layer_in_shared_is_a_feature() -> None:
    """A new feature needs no line in pyproject.toml. Anything else in shared/ has its place among the layers."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract.get("containers") == ["shared"]]
    placed = {name for layer in layers for name in layer.split(" | ")}
    shared = ROOT / "shared"
    modules = {path.stem for path in shared.glob("*.py")} | {path.parent.name for path in shared.glob("*/__init__.py")}
    strangers = {name for name in modules - placed - {"__init__"} if not (shared / name / "service.py").is_file()}
    assert strangers == set(), "name them in the layers of shared in pyproject.toml"


@pytest.mark.parametrize("lane", ["unit", "integration"])
def test_tests_mirror_the_packages(lane: str) -> None:
    strangers = []
    for path in (ROOT / "tests" / lane).rglob("test_*.py"):
        package = path.parent.relative_to(ROOT / "tests" / lane)
        if package == Path() or not (ROOT / package).is_dir():
            strangers.append(str(path.relative_to(ROOT)))
    assert strangers == []


def test_no_test_imports_the_module_of_another_test() -> None:
    """Code that two tests share is in tests/support, and fixtures in a conftest.py, which nobody imports."""
    offenders = []
    for path in (ROOT / "tests").rglob("*.py"):
        if "fixtures" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            name = (module or "").rpartition(".")[2]
            if name.startswith("test_") or name == "conftest":
                offenders.append(f"{path.relative_to(ROOT)} imports {module}")
    assert offenders == []
