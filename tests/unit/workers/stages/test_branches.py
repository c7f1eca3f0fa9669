from __future__ import annotations

import pytest

from workers.stages.clone.branches import relevant


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("mian", ["main", "develop", "gh-pages", "v10", "v9", "v1"]),
        ("develp", ["develop", "main", "gh-pages", "v10", "v9", "v1"]),
        ("GH-Page", ["gh-pages", "main", "develop", "v10", "v9", "v1"]),
        ("", ["main", "develop", "gh-pages", "v10", "v9", "v1"]),
        ("nothing-like-it", ["main", "develop", "gh-pages", "v10", "v9", "v1"]),
    ],
)
def test_branches_by_relevance(asked: str, first: list[str]) -> None:
    assert relevant(["develop", "gh-pages", "main", "v1", "v10", "v9"], asked) == first


def test_numbers_of_any_length() -> None:
    names = ["a" + "9" * 240, "a1", "a" + "9" * 250]
    assert relevant(names) == [names[2], names[0], "a1"]
