from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

import pytest

from workers.artifacts.content_types import CONTENT_TYPES, NAMED_TYPES, UNKNOWN, content_type

_HEADING = """\
# The content type of a file by its name. Made from workers/artifacts/content_types.py, which says what manifests hold;
# tests/unit/workers/artifacts/test_content_types.py compares the two.
"""


def router_rules() -> str:
    """What the router's file has to hold."""
    rows = [*_rows(r"\.(%s)$", CONTENT_TYPES), *_rows(r"^(%s)$", NAMED_TYPES)]
    rules = ["map {http.request.uri.path.file} {content_type} {", *rows, f'\tdefault "{UNKNOWN}"', "}"]
    return _HEADING + "\n".join(rules) + "\n"


def _rows(pattern: str, types: Mapping[str, str]) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, kind in types.items():
        names.setdefault(kind, []).append(name)
    return [f'\t~(?i){pattern % "|".join(sorted(found))} "{kind}"' for kind, found in sorted(names.items())]


def test_the_router_serves_the_types_of_the_manifest() -> None:
    written = (resources.files("shared.stack") / "content_types.caddy").read_text()
    assert written == router_rules(), "write router_rules() to shared/stack/content_types.caddy"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/site.webmanifest", "application/manifest+json; charset=utf-8"),
        ("a.CJS", "text/javascript; charset=utf-8"),
        ("app.js.map", "application/json; charset=utf-8"),
        ("font.woff2", "font/woff2"),
        ("notes.md", "text/markdown; charset=utf-8"),
        ("a.b/LICENSE", "text/plain; charset=utf-8"),
        (".well-known/apple-app-site-association", "application/json"),
        ("LICENSE.", UNKNOWN),
        ("apple-app-site-association.x", UNKNOWN),
        ("no-such-name", UNKNOWN),
        ("live.m3u8", "application/vnd.apple.mpegurl"),
        ("main.py", "text/plain; charset=utf-8"),
        ("ends.", UNKNOWN),
        ("x.unknown", UNKNOWN),
    ],
)
def test_the_last_extension_says_the_type(path: str, expected: str) -> None:
    assert content_type(path) == expected
