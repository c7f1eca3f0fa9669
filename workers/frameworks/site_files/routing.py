"""Redirects and headers that a repository's files ask for, in one form. They are recorded with the deployment.

A path is matched from its beginning. `*` at its end stands for any rest, which a target names `:splat`; `:name` stands
for one part of the path, which a target names alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MAXIMUM_REDIRECTS = 1000
MAXIMUM_HEADER_RULES = 200
# Of one deployment, in all.
MAXIMUM_BYTES = 64 * 1024
_MAXIMUM_TEXT = 2000
_STATUSES = frozenset({200, 301, 302, 303, 307, 308, 404, 410, 451})
_PATH = re.compile(r"/[^\s*]{0,1000}\*?")
_TARGET = re.compile(r"(?:/|https?://)[^\s]{0,2000}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class RedirectRule:
    """`status` 200 shows the target at the path; with others the visitor goes there. `is_forced`: even where there is a
    file."""

    path: str
    target: str
    status: int
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class HeaderRule:
    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Routing:
    """`left_out`: how many rules of the file can't be expressed."""

    redirects: tuple[RedirectRule, ...] = ()
    headers: tuple[HeaderRule, ...] = ()
    left_out: int = 0

    def __bool__(self) -> bool:
        return bool(self.redirects or self.headers or self.left_out)

    @property
    def shows_index_for_all(self) -> bool:
        """Whether a rule shows the first page for every path, as an application wants it."""
        return any(
            rule.path == "/*" and rule.status == 200 and rule.target in ("/", "/index.html") for rule in self.redirects
        )


@dataclass(slots=True)
class RoutingBuilder:
    """Collects rules and counts those that are invalid, or too many."""

    _redirects: list[RedirectRule] = field(default_factory=list[RedirectRule])
    _headers: list[HeaderRule] = field(default_factory=list[HeaderRule])
    _left_out: int = 0
    _bytes: int = 0

    def add_redirect(self, path: object, target: object, status: object = 301, *, is_forced: bool = False) -> None:
        code = _integer(status)
        if not (
            isinstance(path, str)
            and isinstance(target, str)
            and _PATH.fullmatch(path)
            and _TARGET.fullmatch(target)
            and code in _STATUSES
            and len(self._redirects) < MAXIMUM_REDIRECTS
            and self._has_room(len(path) + len(target))
        ):
            self.leave_out()
            return
        self._redirects.append(RedirectRule(path, target, code, is_forced))

    def add_headers(self, path: object, headers: Mapping[str, object]) -> None:
        kept = {
            name: value
            for name, value in headers.items()
            if isinstance(value, str)
            and _HEADER_NAME.fullmatch(name)
            and len(value) <= _MAXIMUM_TEXT
            and not _CONTROL.search(value)
        }
        size = sum(len(name) + len(value) for name, value in kept.items())
        is_fit = isinstance(path, str) and _PATH.fullmatch(path) and len(self._headers) < MAXIMUM_HEADER_RULES
        if not (isinstance(path, str) and is_fit and kept and self._has_room(len(path) + size)):
            self.leave_out()
            return
        self._headers.append(HeaderRule(path, kept))
        if len(kept) < len(headers):
            self.leave_out()

    def leave_out(self) -> None:
        self._left_out += 1

    def build(self) -> Routing:
        return Routing(tuple(self._redirects), tuple(self._headers), self._left_out)

    def _has_room(self, size: int) -> bool:
        # What the names of the fields take in JSON.
        self._bytes += size + 60
        return self._bytes <= MAXIMUM_BYTES


_SPLAT = re.compile(r"/(?:\(\.\*\)|:(?P<name>\w+)\(\.\*\)|:(?P<any>\w+)\*|\((?P<group>\.\+)\))$")
_NAMED = re.compile(r"/:(\w+)")


def from_pattern(source: object, target: object) -> tuple[str, str] | None:
    """Path and target of a rule written with path-to-regexp, such as `/old/:path*` or `/(.*)`; None for patterns that
    the form has no words for."""
    if not isinstance(source, str) or not isinstance(target, str):
        return None
    path, goal = source, target
    match = _SPLAT.search(source)
    if match:
        name = match["name"] or match["any"]
        path = f"{source[: match.start()]}/*"
        goal = re.sub(rf":{name}\*?(?!\w)", ":splat", target) if name else target.replace("$1", ":splat")
    if re.search(r"[()\\?{}+]|\*(?!$)", path) or re.search(r"\$\d", goal):
        return None
    return path, goal


def _integer(value: object) -> int:
    if isinstance(value, bool):
        return 0
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d{3}", value) else 0
