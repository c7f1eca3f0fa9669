"""A statement that waits for a row's lock sees that row as it is then, and every other row as it was before."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LOCKS = re.compile(r"\bFOR\s+(NO\s+KEY\s+UPDATE|UPDATE|KEY\s+SHARE|SHARE)\b")
_READS_OTHERS = re.compile(r"\b(JOIN|EXISTS|OF)\b|\(\s*SELECT\b|\bSELECT\b.*\bSELECT\b", re.DOTALL)


def _texts(node: ast.AST) -> Iterator[str]:
    """The texts of a module, each as a whole: `a + "b"` and f-strings are one, with names left out."""
    if isinstance(node, ast.BinOp | ast.JoinedStr | ast.Constant):
        constants = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
        parts = [value for value in constants if isinstance(value, str)]
        # What is joined to a text by its name is taken for a SELECT with joins.
        names = [" JOIN " for part in ast.walk(node) if isinstance(part, ast.Name) and part.id == "_SELECT"]
        yield " ".join([*parts, *names])
        return
    for child in ast.iter_child_nodes(node):
        yield from _texts(child)


def _offences(source: str) -> list[str]:
    return [text for text in _texts(ast.parse(source)) if _LOCKS.search(text) and _READS_OTHERS.search(text)]


@pytest.mark.parametrize("package", ["api", "shared", "workers"])
def test_rows_are_locked_in_a_statement_of_their_own(package: str):
    """Lock in one statement, read what depends on it in the next."""
    found = {
        str(path.relative_to(ROOT)): offences
        for path in (ROOT / package).rglob("*.py")
        if (offences := _offences(path.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        'x = "SELECT * FROM a JOIN b ON b.id = a.b WHERE a.id = 1 FOR NO KEY UPDATE OF a"',
        'x = _SELECT + "WHERE d.id = 1 FOR UPDATE"',
        'x = "SELECT * FROM a WHERE EXISTS (SELECT 1 FROM b) " "FOR KEY SHARE"',
    ],
)
def test_the_rule_finds_what_breaks_it(source: str):
    assert _offences(source)
