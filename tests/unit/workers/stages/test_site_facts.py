"""What the files of a site tell about serving it, and what its owner is warned of."""

from __future__ import annotations

import pytest

from workers.artifacts.first_page import FirstPage
from workers.stages.upload.site_facts import facts_of, is_application, warnings_of


@pytest.mark.parametrize(
    ("paths", "decided", "is_named", "expected"),
    [
        (["index.html", "assets/a.js"], None, False, True),
        (["index.html", "about.html"], None, False, False),
        (["index.html", "docs/index.html"], None, False, False),
        (["index.html", "old.htm"], None, False, False),
        # A framework's row says so, or a router in the project.
        (["index.html", "about.html"], True, False, True),
        # A page of its own for what is missing is wanted, unless a person says otherwise.
        (["index.html", "404.html"], True, False, False),
        (["index.html", "404.html"], True, True, True),
        (["index.html"], False, True, False),
        (["about.html"], True, True, False),
    ],
)
def test_which_sites_are_applications(paths: list[str], decided: bool | None, is_named: bool, expected: bool) -> None:
    assert is_application(dict.fromkeys(paths), decided=decided, is_named=is_named) is expected


def test_a_site_without_a_first_page_is_warned_about_with_what_there_is() -> None:
    facts = facts_of(["en/index.html", "a/b/c.html", "style.css", "about.html"], FirstPage())
    [warning] = warnings_of(facts, "static")
    assert "address itself answers 404" in warning
    assert "There is about.html, en/index.html, a/b/c.html." in warning
    [empty] = warnings_of(facts_of(["a.json"], FirstPage()), "nextjs")
    assert "There is no page at all." in empty
    assert "output: 'export'" in empty


def test_a_prefix_is_warned_about_with_the_option_that_sets_it() -> None:
    page = FirstPage("/repo/", "/repo/assets/a\u202e.js")
    [warning] = warnings_of(facts_of(["index.html"], page), "docusaurus")
    assert "below /repo/ (/repo/assets/a\\u202e.js)" in warning
    assert "`baseUrl` in docusaurus.config" in warning
    assert "base path" in warnings_of(facts_of(["index.html"], page), "of another version")[0]
    assert warnings_of(facts_of(["index.html"], FirstPage()), "vite") == []
