"""The documents name files and headings that exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.words import files_of

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("api", "workers", "shared", "schemas", "tests", "docs", ".github", ".ci")
DOCUMENTS = [
    path for path in files_of([ROOT / name for name in ("README.md", "CHANGELOG.md", *FOLDERS)]) if path.suffix == ".md"
]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
# A path in code quotes, from the repository's root, without placeholders.
_PATH = re.compile(rf"`((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]+)`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@cache
def anchors(document: Path) -> frozenset[str]:
    """As GitHub makes them of headings."""
    headings = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in _HEADING.findall(document.read_text()))
    return frozenset(heading.strip().replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    dead = []
    for link in _LINK.findall(document.read_text()):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target.resolve())):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_exist(document: Path) -> None:
    """Of the repository, or relative to the document's folder."""
    paths = _PATH.findall(document.read_text())
    assert [path for path in paths if not (ROOT / path).exists() and not (document.parent / path).exists()] == []
