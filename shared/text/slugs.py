"""Host labels from arbitrary text. Pure."""

from __future__ import annotations

import re
import unicodedata

from anyascii import anyascii


def slug_of(text: str) -> str:
    """`Größe/Привет 日本` → `grosse-privet-riben`: a-z, digits and single hyphens between them, or empty.

    Different texts may have the same slug.
    """
    # Compose first: a letter with a mark that exists as one character is transliterated as a whole.
    return re.sub(r"[^a-z0-9]+", "-", anyascii(unicodedata.normalize("NFC", text)).lower()).strip("-")
