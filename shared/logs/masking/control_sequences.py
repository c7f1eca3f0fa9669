"""Separates visible text from the characters that only move or colour it on a terminal. Pure; takes linear time."""

from __future__ import annotations

import re
from itertools import accumulate

# Control characters except line feed and tab, and the ECMA-48 sequences that programs print: colours, cursor, erasing.
# Their parameters are short; anything longer is text, not a sequence.
_ANY = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CONTROLS = re.compile(
    r"((?:[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]++"
    r"|\x1b(?:\[\??[0-9]{0,3}(?:[;:][0-9]{0,3}){0,15}[A-Za-z]|\(B)?)++)"
)
# An escape sequence that may be incomplete. It has at most 67 characters.
_UNFINISHED = re.compile(r"\x1b(?:\(|\[\??[0-9]{0,3}(?:[;:][0-9]{0,3}){0,15})?\Z")
_MAXIMUM_SEQUENCE = 80

# A run of control characters: the index of the visible character after it (or the length of the text), and the run.
Controls = tuple[int, str]


def separate(text: str) -> tuple[str, list[Controls]]:
    """The visible text, and the runs of control characters and sequences in it, in order."""
    if not _ANY.search(text):
        return text, []
    # Visible text and runs alternate.
    parts = _CONTROLS.split(text)
    shown = parts[::2]
    return "".join(shown), list(zip(accumulate(map(len, shown)), parts[1::2], strict=False))


def visible(text: str) -> str:
    return separate(text)[0]


def unfinished_start(text: str) -> int:
    """The start of an escape sequence that the end of the text cuts off; the length of the text if there is none."""
    match = _UNFINISHED.search(text, max(0, len(text) - _MAXIMUM_SEQUENCE))
    return match.start() if match else len(text)
