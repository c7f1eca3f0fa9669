"""What the files of a site tell about how it can be served, and what its owner has to know."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from shared.text.written import escaped
from workers.artifacts.first_page import FirstPage
from workers.frameworks.catalogue import BY_NAME

_MAXIMUM_NAMED = 5
_MAXIMUM_SHOWN = 100


class SiteFacts(msgspec.Struct, frozen=True, kw_only=True):
    """`pages`: some paths that show a page where the site's address itself shows none."""

    has_index: bool
    pages: list[str]
    first_page: FirstPage


def facts_of(paths: Collection[str], first_page: FirstPage) -> SiteFacts:
    """`paths`: of the site's files."""
    has_index = "index.html" in paths
    pages = [] if has_index else sorted((path for path in paths if path.endswith(".html")), key=_nearness)
    return SiteFacts(has_index=has_index, pages=pages[:_MAXIMUM_NAMED], first_page=first_page)


def warnings_of(facts: SiteFacts, framework: str) -> list[str]:
    """Complete sentences for the owner of a site that is ready but doesn't show what it should."""
    row = BY_NAME.get(framework)
    found: list[str] = []
    if not facts.has_index:
        named = ", ".join(_shown(path) for path in facts.pages)
        there = f"There is {named}. " if named else "There is no page at all. "
        advice = f" {row.advice}" if row is not None and row.advice else ""
        found.append(
            f"There is no index.html at the top of the output, so the site's address itself answers 404. {there}"
            f"If the site is in another directory, set the output directory.{advice}"
        )
    page = facts.first_page
    if page.prefix:
        option = row.base_option if row is not None else ""
        found.append(
            f"The first page looks for its files below {_shown(page.prefix)} ({_shown(page.missing)}), and this site"
            " has them at its top, so it will look broken. Build it for the path /:"
            f" set {option or 'the base path in the configuration of the generator'}."
        )
    return found


def is_application(paths: Mapping[str, object], *, decided: bool | None, is_named: bool) -> bool:
    """Whether `index.html` is shown for paths that the site doesn't have.

    `decided`: by a person if `is_named`, otherwise by the framework; None leaves it to the files: an application has
    one page, at the top. A page for what is missing is shown in any case but where a person said otherwise.
    """
    if "index.html" not in paths:
        return False
    if decided is not None and is_named:
        return decided
    if "404.html" in paths:
        return False
    return bool(decided) or [path for path in paths if path.endswith((".html", ".htm"))] == ["index.html"]


def _nearness(path: str) -> tuple[int, bool, str]:
    return path.count("/"), not path.endswith("index.html"), path


def _shown(path: str) -> str:
    text = escaped(path)
    return text if len(text) <= _MAXIMUM_SHOWN else f"{text[:_MAXIMUM_SHOWN]}…"
