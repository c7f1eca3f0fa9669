"""The links of a page or a style sheet, and what each one must lead to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import PurePosixPath
from urllib.parse import urldefrag, urljoin, urlsplit

PAGE, SCRIPT, STYLE, IMAGE, FONT, MANIFEST, FILE = "page", "script", "style", "image", "font", "manifest", "file"

_TYPES = {
    PAGE: r"text/html|application/xhtml\+xml",
    SCRIPT: r"(text|application)/javascript",
    STYLE: r"text/css",
    IMAGE: r"image/.+",
    FONT: r"font/.+|application/(vnd\.ms-fontobject|font-.+)",
    MANIFEST: r"application/(manifest\+)?json",
}
_SUFFIXES = {
    **dict.fromkeys((".html", ".htm"), _TYPES[PAGE]),
    **dict.fromkeys((".js", ".mjs"), _TYPES[SCRIPT]),
    ".css": _TYPES[STYLE],
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp", ".avif", ".ico"), _TYPES[IMAGE]),
    ".svg": r"image/svg\+xml",
    **dict.fromkeys((".woff", ".woff2", ".ttf", ".otf"), _TYPES[FONT]),
    ".json": r"application/(.+\+)?json",
    ".webmanifest": _TYPES[MANIFEST],
    **dict.fromkeys((".xml", ".rss", ".atom"), r"(text|application)/(.+\+)?xml"),
    ".txt": r"text/plain",
    ".md": r"text/(markdown|plain)",
    ".pdf": r"application/pdf",
    ".wasm": r"application/wasm",
    **dict.fromkeys((".mp4", ".webm"), r"video/.+"),
    ".zip": r"application/(x-)?zip(-compressed)?",
}
_REL = {"stylesheet": STYLE, "manifest": MANIFEST, "modulepreload": SCRIPT, "alternate": FILE}
_PRELOADED = {"script": SCRIPT, "style": STYLE, "image": IMAGE, "font": FONT}
_CSS = re.compile(r"""url\(\s*(?:"([^"]+)"|'([^']+)'|([^"')\s]+))\s*\)|@import\s+["']([^"']+)["']""")
_CSS_COMMENTS = re.compile(r"/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True)
class Link:
    """`url`: absolute, without fragment. `use`: one of the constants above. `on`: the path where it was found."""

    url: str
    use: str
    on: str

    @property
    def is_page(self) -> bool:
        return self.use == PAGE

    def wrong_type(self, content_type: str) -> bool:
        """Whether the answer's content type doesn't fit the link's use and the suffix of its path."""
        given = content_type.partition(";")[0].strip().lower()
        suffix = PurePosixPath(urlsplit(self.url).path).suffix.lower()
        # A page's path may have any dot in it, as `/2.0/`.
        expected = _SUFFIXES.get(suffix) or _TYPES.get(self.use)
        return expected is not None and not re.fullmatch(expected, given)


def page_links(text: str, url: str) -> Iterator[Link]:
    parser = _Parser()
    parser.feed(text)
    base = urljoin(url, parser.base)
    on = urlsplit(url).path
    for target, use in parser.found:
        if link := _link(target, base, use, on):
            yield link


def style_links(text: str, url: str) -> Iterator[Link]:
    for match in _CSS.finditer(_CSS_COMMENTS.sub("", text)):
        if link := _link(next(filter(None, match.groups())), url, STYLE if match[4] else FILE, urlsplit(url).path):
            yield link


def _link(target: str, base: str, use: str, on: str) -> Link | None:
    try:
        url = urldefrag(urljoin(base, target.strip())).url
    except ValueError:
        return None
    # An anchor to a picture or a document isn't one to a page.
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    if use == PAGE and suffix in _SUFFIXES and suffix not in (".html", ".htm"):
        use = FILE
    return Link(url, use, on) if target.strip() and urlsplit(url).scheme in ("http", "https") else None


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "base":
            self.base = self.base or given.get("href", "")
        elif tag == "a":
            self._add(given, "href", PAGE)
        elif tag == "link":
            self._link(given)
        elif tag == "script":
            self._add(given, "src", SCRIPT)
        elif tag in ("img", "source"):
            is_image = tag == "img" or "srcset" in given
            self._add(given, "src", IMAGE if is_image else FILE)
            for candidate in re.split(r",\s+", given.get("srcset", "")):
                self.found += [(candidate.split()[0], IMAGE)] if candidate.split() else []
        elif tag in ("video", "audio", "iframe", "embed"):
            self._add(given, "src", FILE)
            self._add(given, "poster", IMAGE)

    def _link(self, given: dict[str, str]) -> None:
        for rel in given.get("rel", "").lower().split():
            use = _PRELOADED.get(given.get("as", "")) if rel == "preload" else _REL.get(rel)
            if rel in ("icon", "apple-touch-icon"):
                use = IMAGE
            if use:
                self._add(given, "href", use)
                break

    def _add(self, given: dict[str, str], name: str, use: str) -> None:
        if given.get(name):
            self.found.append((given[name], use))
