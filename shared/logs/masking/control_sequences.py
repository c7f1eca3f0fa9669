"""Text and what only moves or colours it on a terminal, told apart. Pure; time is linear in the text."""

from __future__ import annotations

import re
from itertools import accumulate

# Control characters but line feed and tab, and the sequences of ECMA-48 that programs print: colours, cursor, erasing.
# Their parameters are short; what is longer is text that somebody wrote, not a sequence.
_ANY = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CONTROLS = re.compile(
    r"((?:[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]++"
    r"|\x1b(?:\[\??[0-9]{0,3}(?:[;:][0-9]{0,3}){0,15}[A-Za-z]|\(B)?)++)"
)
# An escape sequence that may go on. It has at most 67 characters.
_UNFINISHED = re.compile(r"\x1b(?:\(|\[\??[0-9]{0,3}(?:[;:][0-9]{0,3}){0,15})?\Z")
_MAXIMUM_SEQUENCE = 80

# A run of control characters: the visible character that it stands before (the text's length: after all of it), and it.
Controls = tuple[int, str]


def separate(text: str) -> tuple[str, list[Controls]]:
    """The visible text, and the runs of control characters and sequences in it, in their order."""
    if not _ANY.search(text):
        return text, []
    # Visible text and controls by turns.
    parts = _CONTROLS.split(text)
    shown = parts[::2]
    return "".join(shown), list(zip(accumulate(map(len, shown)), parts[1::2], strict=False))


def visible(text: str) -> str:
    return separate(text)[0]


def unfinished_start(text: str) -> int:
    """Where an escape sequence begins that the text's end cuts off; the length of the text where there is none."""
    match = _UNFINISHED.search(text, max(0, len(text) - _MAXIMUM_SEQUENCE))
    return match.start() if match else len(text)
