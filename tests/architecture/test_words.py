"""The word list: what the checker finds, and where, and that the repository has none of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import words
from tests.support.words import Finding, Rule, WordList

ROOT = Path(__file__).resolve().parents[2]
RULES = [Rule.of("frob(?:s|bed)?", "write turn"), Rule.of("runs amok", "write fails")]


def findings(tmp_path: Path, name: str, text: str) -> list[tuple[int, str]]:
    path = tmp_path / name
    path.write_text(text)
    return [(finding.line, finding.message) for finding in words.check(path, name, RULES)]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("# Frobs it.\n", [1]),
        ('"""Frob.\n\nAll that is\nfrobbed.\n"""\n', [1, 4]),
        ('x = 1\nraise ValueError(f"{x} is frobbed")\n', [2]),
        ("# It runs\n# amok.\n", [1]),
        ('"""It runs\n    amok."""\n', [1]),
        ("frob = frob(x.frobs)\n", []),
        ("x = 1\n\ndef test_it_runs_amok():\n    pass\n", [3]),
        ("def frob():\n    pass\n", []),
        ("# frobnicate\n", []),
        ("# It runs\nx = 1\n# amok.\n", []),
    ],
)
def test_words_in_python_are_found_in_comments_strings_and_names_of_tests(tmp_path: Path, text: str, lines: list[int]):
    assert [line for line, _ in findings(tmp_path, "module.py", text)] == lines


def test_a_finding_says_what_to_write_instead():
    finding = Finding("api/app.py", 3, RULES[0].instead)
    assert str(finding) == "api/app.py:3: write turn"


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("README.md", "One `frob`.\n\n```sh\n# frob\n```\n", [1, 4]),
        ("script.lua", "-- It runs\n-- amok.\nreturn 1\n", [1]),
        ("Makefile", "x:  ## Frob it\n", [1]),
    ],
)
def test_other_files_are_read_as_a_whole(tmp_path: Path, name: str, text: str, lines: list[int]):
    assert [line for line, _ in findings(tmp_path, name, text)] == lines


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("module.py", 'x = "frob"  # words: allow a tool is called so\n'),
        ("module.py", '"""Frob\n\nit."""  # words: allow a tool is called so\n'),
        ("README.md", "Frob. <!-- words: allow a tool is called so -->\n"),
        ("script.lua", "-- frob -- words: allow a tool is called so\n"),
    ],
)
def test_a_line_is_allowed_with_a_reason(tmp_path: Path, name: str, text: str):
    assert findings(tmp_path, name, text) == []


def test_a_line_is_not_allowed_without_a_reason(tmp_path: Path):
    found = findings(tmp_path, "README.md", "Frob. <!-- words: allow -->\n")
    assert found == [(1, '"Frob": write turn'), (1, '"words: allow" needs a reason')]


def test_what_allows_nothing_is_found(tmp_path: Path):
    assert findings(tmp_path, "module.py", "x = 1  # words: allow for no reason\n") == [
        (1, '"words: allow" allows nothing here')
    ]


def test_fixtures_and_migrations_are_not_checked(tmp_path: Path):
    for name in ("fixtures/a.py", "db/migrations/0001.sql", "b.py", "c.bin", "Makefile"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert [path.name for path in words.files_of([tmp_path])] == ["Makefile", "b.py"]


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("The deployment goes on.", True),  # words: allow the test's input
        ("It is based on disk.", False),
        ("The session is no more.", True),  # words: allow the test's input
        ("There are no more pages.", False),
        ("It is no more than 5.", False),
        ("a word that is none", True),  # words: allow the test's input
        ("a value that is None", False),
        ("Beside the file", True),  # words: allow the test's input
        ("besides", False),
    ],
)
def test_the_list_refuses_odd_words_alone(text: str, is_refused: bool):
    found = [rule for rule in WordList.load().rules if rule.pattern.search(text)]
    assert bool(found) is is_refused


def test_the_repository_has_none_of_the_words():
    assert words.main([str(ROOT / name) for name in ("api", "workers", "shared", "schemas", "tests")]) == 0
