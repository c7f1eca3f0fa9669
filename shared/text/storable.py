"""Makes text from repositories and programs storable. Pure."""

from __future__ import annotations

import re

# PostgreSQL rejects NUL in text and JSON, and lone surrogates can't be encoded as UTF-8.
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """Replaces every NUL and lone surrogate by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)
