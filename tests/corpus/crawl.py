"""Follows the links of a site through the router."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import httpx

from tests.corpus.links import FILE, PAGE, STYLE, Link, page_links, style_links

_REDIRECTS = 5
# The status of redirects without an end, which no server sends.
_ENDLESS = 310


@dataclass
class Crawl:
    """`status`, `text`: of the first page. `broken`: one line a link, `problem path (use, on page)`, of `checked`."""

    status: int = 0
    text: str = ""
    checked: int = 0
    broken_assets: list[str] = field(default_factory=list)
    broken_pages: list[str] = field(default_factory=list)


class _Queue:
    """Assets and pages in turn, each link once."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._seen = {origin}
        self._waiting: dict[bool, deque[Link]] = {True: deque(), False: deque()}

    def add(self, links: Iterator[Link]) -> None:
        for link in links:
            if link.url.startswith(self._origin) and link.url not in self._seen:
                self._seen.add(link.url)
                self._waiting[link.is_page].append(link)

    def take(self, turn: int) -> Link | None:
        first = self._waiting[turn % 2 == 1] or self._waiting[turn % 2 == 0]
        return first.popleft() if first else None


def crawl(
    get: Callable[[str], httpx.Response],
    host: str,
    maximum: int,
    *,
    known: Container[str] = (),
    also: Iterable[str] = (),
) -> Crawl:
    """Checks the first page and up to `maximum` of the links to the same host that it and its pages have.

    `get` fetches a path, with query, of the site at `host` without following redirects. Paths in
    `known` are known to be broken; those in `also` are files that scripts of the site load.
    """
    origin = f"http://{host}/"
    queue, found = _Queue(origin), Crawl()
    first = Link(origin, PAGE, "")
    response, url = _follow(get, first, origin)
    found.status, found.text = response.status_code, response.text
    if response.status_code != 200 or first.wrong_type(response.headers.get("Content-Type", "")):
        return found
    queue.add(Link(urljoin(origin, path), FILE, "/") for path in also)
    queue.add(page_links(response.text, url))
    while found.checked < maximum and (link := queue.take(found.checked)):
        found.checked += 1
        response, url = _follow(get, link, origin)
        path = urlsplit(link.url).path
        if problem := _problem(link, response):
            broken = found.broken_pages if link.is_page else found.broken_assets
            broken += [] if path in known else [f"{problem} {path} ({link.use}, on {link.on})"]
        elif link.is_page:
            queue.add(page_links(response.text, url))
        elif link.use == STYLE:
            queue.add(style_links(response.text, url))
    return found


def _problem(link: Link, response: httpx.Response) -> str:
    if response.is_redirect and response.status_code != _ENDLESS:
        return ""
    if response.status_code != 200:
        return str(response.status_code)
    given = response.headers.get("Content-Type", "")
    return f"type {given or 'unknown'}" if link.wrong_type(given) else ""


def _follow(get: Callable[[str], httpx.Response], link: Link, origin: str) -> tuple[httpx.Response, str]:
    """The last answer of the site: a redirect only where it leads to another host, or to no end."""
    url = link.url
    response = get(_path(url))
    for _ in range(_REDIRECTS):
        target = urljoin(url, response.headers.get("Location", "")).partition("#")[0]
        if not response.is_redirect or not target.startswith(origin):
            break
        url, response = target, get(_path(target))
    else:
        response.status_code = _ENDLESS
    return response, url


def _path(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
