from __future__ import annotations

import httpx

from tests.corpus.crawl import Crawl, crawl

HTML, CSS, JS, PNG = "text/html; charset=utf-8", "text/css", "text/javascript", "image/png"
PAGE = """<!doctype html><title>Home</title>
<link rel="stylesheet" href="/style.css"><link rel="preconnect" href="/never"><script src="app.js"></script>
<img src="a.png" srcset="b.png 1x, c.png 2x"><a href="/about#team">About</a><a href="https://example.invalid/">Away</a>
<a href="mailto:a@example.invalid">Write</a>"""


def look(
    site: dict[str, tuple[str, str]],
    maximum: int = 60,
    known: frozenset[str] = frozenset(),
    also: tuple[str, ...] = (),
) -> Crawl:
    """Crawls files by path, each with its content type; a content type that begins with / redirects there."""

    def get(path: str) -> httpx.Response:
        content_type, text = site.get(path, ("", ""))
        if content_type.startswith(("/", "http")):
            return httpx.Response(308, headers={"Location": content_type})
        return httpx.Response(200 if content_type else 404, headers={"Content-Type": content_type}, text=text)

    return crawl(get, "site.localhost", maximum, known=known, also=also)


SITE = {
    "/": (HTML, PAGE),
    "/style.css": (CSS, "/* url(old.png) */ @import 'more.css'; a { background: url(\"d.png\") }"),
    "/more.css": (CSS, ""),
    "/app.js": (JS, ""),
    **{f"/{name}.png": (PNG, "") for name in "abcd"},
    "/about": (HTML, "<a href='/'>Home</a><a href='guide.pdf'>Guide</a>"),
    "/guide.pdf": ("application/pdf", ""),
}


def test_a_whole_site_has_no_broken_link() -> None:
    found = look(SITE)
    assert (found.status, found.broken_assets, found.broken_pages) == (200, [], [])
    assert found.checked == 9
    assert "<title>Home" in found.text


def test_each_missing_file_is_told_with_its_page() -> None:
    for path in SITE.keys() - {"/"}:
        found = look({key: value for key, value in SITE.items() if key != path})
        assert len(found.broken_assets + found.broken_pages) == 1, path
        assert f"404 {path} (" in (found.broken_assets + found.broken_pages)[0]
    assert look({**SITE, "/about": ("", "")}).broken_pages == ["404 /about (page, on /)"]


def test_a_script_that_is_answered_by_the_first_page_is_broken() -> None:
    found = look({**SITE, "/app.js": (HTML, PAGE), "/guide.pdf": (HTML, PAGE)})
    assert found.broken_assets == [f"type {HTML} /app.js (script, on /)", f"type {HTML} /guide.pdf (file, on /about)"]


def test_redirects_within_the_site_are_followed() -> None:
    assert look({**SITE, "/about": ("/team/", ""), "/team/": (HTML, "<a href=gone>")}).broken_pages == [
        "404 /team/gone (page, on /team/)"
    ]
    assert look({**SITE, "/about": ("https://example.invalid/about", "")}).broken_pages == []
    assert look({**SITE, "/about": ("/about", "")}).broken_pages == ["310 /about (page, on /)"]


def test_the_number_of_links_is_bounded_and_known_ones_are_left_out() -> None:
    site = {key: value for key, value in SITE.items() if key != "/about"}
    assert look(site, maximum=3).checked == 3
    assert look(site, known=frozenset({"/about"})).broken_pages == []


def test_files_that_scripts_load_are_checked() -> None:
    get = {"/": (HTML, ""), "/README.md": ("text/markdown", "")}
    found = look(get, also=("/README.md", "/gone.md"))
    assert (found.checked, found.broken_assets) == (2, ["404 /gone.md (file, on /)"])


def test_a_first_page_of_another_status_is_not_crawled() -> None:
    found = look({})
    assert (found.status, found.checked) == (404, 0)
