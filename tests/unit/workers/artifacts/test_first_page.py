"""The look at a site's first page, on pages of generators and on hostile ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.repositories import write_site
from workers.artifacts.first_page import FirstPage, read_first_page

FILES = ("index.html", "assets/app.js", "css/a b.css", "logo.png")


def look(tree: Path, page: str) -> FirstPage:
    write_site(tree, {**dict.fromkeys(FILES, ""), "index.html": page})
    return read_first_page(tree, {path: path for path in FILES}, lambda _path: None)


@pytest.mark.parametrize(
    ("page", "prefix"),
    [
        ('<script type=module src="/repo/assets/app.js"></script>', "/repo/"),
        ('<link rel="shortcut icon" href="/user/repo/logo.png?v=1">', "/user/repo/"),
        ("<link rel=stylesheet href='/repo/css/a%20b.css'>", "/repo/"),
        ('<base href="/repo/"><script src="assets/app.js"></script>', "/repo/"),
        ('<script src="/assets/app.js"></script><img src="/logo.png">', ""),
        ('<script src="assets/app.js"></script>', ""),
        ('<script src="https://cdn.example/repo/assets/app.js"></script>', ""),
        ('<script src="//cdn.example/assets/app.js"></script>', ""),
        # Missing wherever it is looked for, and what a visitor may click.
        ('<script src="/repo/other.js"></script><a href="/repo/logo.png">a</a>', ""),
        ('<link rel="canonical" href="/repo/index.html">', ""),
        ("<script src='/repo/assets/app.js'></script><![unknown[", "/repo/"),
        ("<" * 300_000, ""),
        ("<script " + "a=" * 100_000, ""),
    ],
)
def test_files_that_are_looked_for_below_a_prefix(tmp_path: Path, page: str, prefix: str) -> None:
    assert look(tmp_path, page).prefix == prefix


def test_a_first_page_is_read_in_the_tree_alone(tmp_path: Path) -> None:
    write_site(tmp_path, {"outside.html": '<img src="/repo/logo.png">', "tree/logo.png": ""})
    (tmp_path / "tree" / "index.html").symlink_to("../outside.html")
    files = {"index.html": "index.html", "logo.png": "logo.png"}
    assert read_first_page(tmp_path / "tree", files, lambda _path: None) == FirstPage()
    assert read_first_page(tmp_path / "tree", {}, lambda _path: None) == FirstPage()
