"""Numbers in sentences for people."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 file`, `2 files`; `plural` for irregular nouns."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
