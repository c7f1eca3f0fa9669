from __future__ import annotations

from importlib import resources

import pytest

from workers.content_types import CONTENT_TYPES, UNKNOWN, content_type

_HEADING = """\
# The content type of a file by its extension. Made from workers/content_types.py, which says what manifests hold;
# tests/unit/test_content_types.py compares the two.
"""


def router_rules() -> str:
    """What the router's file has to hold."""
    extensions: dict[str, list[str]] = {}
    for extension, name in CONTENT_TYPES.items():
        extensions.setdefault(name, []).append(extension)
    rows = [f'\t~(?i)^\\.({"|".join(sorted(names))})$ "{name}"' for name, names in sorted(extensions.items())]
    rules = ["map {http.request.uri.path.file.ext} {content_type} {", *rows, f'\tdefault "{UNKNOWN}"', "}"]
    return _HEADING + "\n".join(rules) + "\n"


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
        ("a.b/LICENSE", UNKNOWN),
        ("ends.", UNKNOWN),
        ("x.unknown", UNKNOWN),
    ],
)
def test_the_last_extension_says_the_type(path: str, expected: str) -> None:
    assert content_type(path) == expected
