"""What the first page of a site asks for, and whether the site has it. Runs in the child that reads tenants' files."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from workers.filesystem.descent import opened_parent

_MAXIMUM_BYTES = 256 * 1024
_MAXIMUM_ASSETS = 500
# Of a prefix; `/user/repository/` is the longest that is common.
_MAXIMUM_DEPTH = 3
# Of another host, or in the page itself.
_ELSEWHERE = re.compile(r"//|[a-zA-Z][a-zA-Z0-9+.-]*:")
_ASSET_RELATIONS = frozenset({"stylesheet", "modulepreload", "preload", "icon", "manifest"})


@dataclass(frozen=True, slots=True)
class FirstPage:
    """`prefix`: the path, such as `/repository/`, below which the page looks for files that the site has without it;
    empty where it doesn't. `missing`: one of those files, as the page names it."""

    prefix: str = ""
    missing: str = ""


def read_first_page(tree: Path, files: Mapping[str, str], on_read: Callable[[str], None]) -> FirstPage:
    """`files`: path on the site → the file of the tree that holds its content."""
    source = files.get("index.html")
    if source is None:
        return FirstPage()
    on_read(source)
    parser = _Assets()
    # Its parser of declarations gives some of them up this way; what came before counts.
    with contextlib.suppress(AssertionError, ValueError):
        parser.feed(_beginning(tree, source))
    for asset in parser.assets:
        path = None if _ELSEWHERE.match(asset) else _path(posixpath.join(parser.base, asset))
        if path is None or _is_there(path, files):
            continue
        parts = path.split("/")
        for count in range(1, min(_MAXIMUM_DEPTH, len(parts) - 1) + 1):
            if _is_there("/".join(parts[count:]), files):
                return FirstPage(f"/{'/'.join(parts[:count])}/", f"/{path}")
    return FirstPage()


class _Assets(HTMLParser):
    """Collects what the browser fetches for the page by itself, and the page's base."""

    def __init__(self) -> None:
        super().__init__()
        self.assets: list[str] = []
        self.base = "/"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        if tag == "base" and given.get("href", "").startswith("/"):
            self.base = given["href"]
        is_link = tag == "link" and not _ASSET_RELATIONS.isdisjoint(given.get("rel", "").lower().split())
        address = given.get("href") if is_link else given.get("src") if tag in ("script", "img") else None
        if address and len(self.assets) < _MAXIMUM_ASSETS:
            self.assets.append(address.strip())


def _beginning(tree: Path, path: str) -> str:
    try:
        with opened_parent(tree, path) as (parent, name):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            with os.fdopen(descriptor, "rb") as file:
                return file.read(_MAXIMUM_BYTES).decode("utf-8-sig", "replace")
    except OSError:
        return ""


def _path(address: str) -> str:
    """The path on the site without its leading slash."""
    path = unquote(address.partition("#")[0].partition("?")[0])
    return posixpath.normpath(path).lstrip("/")


def _is_there(path: str, files: Mapping[str, str]) -> bool:
    return path in files or f"{path}/index.html" in files
