"""Masks secrets in text that arrives in pieces. Pure; time is linear in the text, whatever the text and the secrets.

What is masked: every occurrence of every form of every secret (see `secret_forms`), overlapping ones included, and the
user part of every URL (`https://user:password@host`), known as a secret or not. Secrets of two or three characters are
masked as whole words only; single characters and words like "true" not at all. The result doesn't depend on how the
text is cut into pieces: text that may be the beginning of something to mask is kept back until more of it is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from shared.logs.literal_search import Interval, LiteralSet
from shared.logs.secret_forms import MINIMUM_LENGTH, MINIMUM_WORD_LENGTH, forms_of, is_harmless, words_of

MASK = "***"

# `://`, also with the escaped slashes of JSON.
_URL_START = re.compile(r":\\?/\\?/")
_URL_START_PREFIX = re.compile(r":(?:\\|\\?/\\?)?\Z")
_MAXIMUM_AUTHORITY = 2048
_AUTHORITY = re.compile(r"[^\s/?#\"'<>`]{0,2049}")
# The user that every ssh URL of a git host names; not a credential.
_HARMLESS_USERS = frozenset({"git"})


class Redactor:
    """Immutable and safe from any thread; each stream of text gets its own `stream()`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        words: set[str] = set()
        for value in secrets:
            secret = value.replace("\0", "\ufffd")
            length = len(secret.strip())
            if is_harmless(secret):
                continue
            if length >= MINIMUM_LENGTH:
                forms |= forms_of(secret)
            elif length >= MINIMUM_WORD_LENGTH:
                words |= words_of(secret)
        self._literals = LiteralSet(forms)
        self._words = [_Word(word) for word in sorted(words)]

    def mask(self, text: str) -> str:
        stream = self.stream()
        return stream.feed(text) + stream.flush()

    def stream(self) -> RedactionStream:
        return RedactionStream(self)

    def intervals(self, buffer: str, start: int = 0) -> list[Interval]:
        """Where to mask, in any order; they may overlap. What comes before `start` is only looked back at."""
        found = list(self._literals.find(buffer))
        for word in self._words:
            found += word.find(buffer, start)
        if ":/" in buffer or ":\\" in buffer:
            found += _url_users(buffer)
        return found

    def settled(self, buffer: str) -> int:
        """Up to where nothing that follows the buffer can change what is masked."""
        end = len(buffer)
        if not buffer:
            return end
        hold = self._literals.unfinished_start(buffer)
        for word in self._words:
            hold = min(hold, word.unfinished_start(buffer))
        if prefix := _URL_START_PREFIX.search(buffer, max(0, end - 4)):
            hold = min(hold, prefix.start())
        for match in _URL_START.finditer(buffer, max(0, end - _MAXIMUM_AUTHORITY - 8)):
            authority = _AUTHORITY.match(buffer, match.end())
            if authority and authority.end() == end and end - match.end() <= _MAXIMUM_AUTHORITY:
                hold = min(hold, match.start())
        return hold


class _Word:
    """A text that is masked only where no letter, digit or underscore touches it."""

    def __init__(self, text: str) -> None:
        self._text = text
        escaped = re.escape(text)
        # The text comes first, as that is what `re` looks for quickly.
        self._pattern = re.compile(rf"{escaped}(?<!\w{escaped})(?!\w)")

    def find(self, buffer: str, start: int) -> Iterator[Interval]:
        match = self._pattern.search(buffer, start)
        while match:
            yield match.span()
            # Overlapping ones too ("--" in "---"), else the result would depend on where the buffer begins.
            match = self._pattern.search(buffer, match.start() + 1)

    def unfinished_start(self, buffer: str) -> int:
        """Where the longest end of `buffer` begins that is a beginning of the text, or all of it: whether the word
        ends there shows with the next character."""
        end = len(buffer)
        for size in range(min(len(self._text), end), 0, -1):
            if buffer.endswith(self._text[:size]):
                return end - size
        return end


class RedactionStream:
    """Masks one stream of text. Not thread-safe."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        # The last character let through (a word's beginning depends on it), then text not let through yet.
        self._context = ""
        self._kept = ""
        # How many of the kept characters belong to a mask that has been written already.
        self._masked = 0

    def feed(self, text: str) -> str:
        """Masked text; the end may be kept back until the next call."""
        if not text:
            return ""
        buffer = self._context + self._kept + text
        return self._release(buffer, max(len(self._context), self._redactor.settled(buffer)))

    def flush(self) -> str:
        """What was kept back. The stream can be used again afterwards, as if new."""
        buffer = self._context + self._kept
        released = self._release(buffer, len(buffer))
        self._context = ""
        self._masked = 0
        return released

    def _release(self, buffer: str, end: int) -> str:
        base = len(self._context)
        covered = base + self._masked
        output: list[str] = []
        position = base
        for start, stop in sorted(self._redactor.intervals(buffer, base)):
            if start >= end:
                break
            if start < covered:
                covered = max(covered, stop)
                continue
            position = max(position, min(covered, end))
            output += (buffer[position:start], MASK)
            position, covered = start, stop
        position = max(position, min(covered, end))
        output.append(buffer[position:end])
        self._masked = max(0, covered - end)
        self._context = buffer[max(0, end - 1) : end]
        self._kept = buffer[end:]
        return "".join(output)


def _url_users(buffer: str) -> Iterator[Interval]:
    for match in _URL_START.finditer(buffer):
        authority = _AUTHORITY.match(buffer, match.end())
        user = authority.group().rpartition("@")[0] if authority else ""
        if user and user not in _HARMLESS_USERS:
            yield match.end(), match.end() + len(user)
