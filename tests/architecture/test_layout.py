"""Every module has a room: the folders of HOUSE, which `tests/` mirrors."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_top_of_workers_holds_the_processes_and_what_composes_them() -> None:
    """A new module belongs in a wing: see CONTRIBUTING, "Where things live"."""
    found = {path.stem for path in (ROOT / "workers").glob("*.py")}
    assert found == {"__init__", "main", "reconciler", "composition"}


@pytest.mark.parametrize("lane", ["unit", "integration"])
def test_tests_mirror_the_packages(lane: str) -> None:
    strangers = []
    for path in (ROOT / "tests" / lane).rglob("test_*.py"):
        package = path.parent.relative_to(ROOT / "tests" / lane)
        if package == Path() or not (ROOT / package).is_dir():
            strangers.append(str(path.relative_to(ROOT)))
    assert strangers == []
