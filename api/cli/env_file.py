"""Spells values in a .env file so that its readers agree on them.

dotenv, Vite, Next.js and Node's own reader differ in quotes, escapes and expansion. What is written here was found by
comparing the four: `tests/integration/api/client/test_env_file_readers.py` does it again.
"""

from __future__ import annotations

import re

# Vite and Next.js expand these in every kind of quotes and drop a backslash before a dollar; dotenv and Node do
# neither. Some readers turn a carriage return into a line feed, some drop it.
_READ_DIFFERENTLY = re.compile(r"\$[A-Za-z0-9_{]|\\\$|\r")
# Without quotes: no comment, no quote or blank at an end, one line.
_BARE = re.compile(r"[^\s#'\"`](?:[^\n#]*[^\s#])?")


def spelling(value: str) -> str | None:
    """The value as it is written behind `NAME=`. None where no spelling is read alike by all four."""
    if _READ_DIFFERENTLY.search(value):
        return None
    # A backslash before the closing quote escapes it for some.
    if not value.endswith("\\"):
        for quote in "'`":
            if quote not in value:
                return f"{quote}{value}{quote}"
        if '"' not in value and "\\" not in value:
            return f'"{value}"'
    return value if _BARE.fullmatch(value) else None


def nearest_spelling(value: str) -> str:
    """For a value without a common spelling: as dotenv reads it, on one line."""
    escaped = value.replace("\r", "\\r").replace("\n", "\\n")
    if escaped == value and "'" not in value and not value.endswith("\\"):
        return f"'{value}'"
    return '"' + escaped.replace('"', '\\"') + '"'
