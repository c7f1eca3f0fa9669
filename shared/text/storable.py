"""Text from repositories and programs, made fit for what keeps it. Pure."""

from __future__ import annotations

import re

# PostgreSQL refuses NUL in text and in JSON, and nothing encodes a lone surrogate as UTF-8.
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """The text with every NUL and lone surrogate replaced by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)
