"""Masks secrets in text that arrives in pieces. Pure; time is linear in the text, whatever the text and the secrets.

What is masked: every occurrence of every form of every secret (see `secret_forms`), overlapping ones included, and the
user part of every URL (`https://user:password@host`), known as a secret or not. Secrets of two or three characters are
masked as whole words only, single characters not at all. The result doesn't depend on how the text is cut into pieces:
text that may be the beginning of something to mask is kept back until more of it is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from shared.logs.secret_forms import MINIMUM_LENGTH, MINIMUM_TOKEN_LENGTH, forms_of

MASK = "***"

# `://`, also with the escaped slashes of JSON.
_URL_START = re.compile(r":\\?/\\?/")
_URL_START_PREFIX = re.compile(r":(?:\\|\\?/\\?)?\Z")
_MAXIMUM_AUTHORITY = 2048
_AUTHORITY = re.compile(r"[^\s/?#\"'<>`]{0,2049}")
# The user that every ssh URL of a git host names; not a credential.
_HARMLESS_USERS = frozenset({"git"})

_Interval = tuple[int, int]


class _Literal:
    """Finds all occurrences of one text, as intervals that may overlap.

    Uses `str.find`, which is linear. Occurrences that overlap by a period of at most half the length ("aaaa") come as
    one interval, or a long run of them would be quadratic.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._period = _smallest_period(text)
        self._run: re.Pattern[str] | None = None
        if 2 * self._period <= len(text):
            shift = len(text) % self._period
            unit = text[shift : self._period] + text[:shift]
            self._run = re.compile(f"(?:{re.escape(unit)})*+")

    def find(self, buffer: str) -> Iterator[_Interval]:
        length = len(self.text)
        start = buffer.find(self.text)
        while start >= 0:
            end = start + length
            following = start + self._period
            if self._run is not None and (run := self._run.match(buffer, end)):
                end = run.end()
                following = end - length + 1
            yield start, end
            start = buffer.find(self.text, following)


class Redactor:
    """Immutable and safe from any thread; each stream of text gets its own `stream()`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        tokens: set[str] = set()
        for value in secrets:
            secret = value.replace("\0", "\ufffd")
            if len(secret.strip()) >= MINIMUM_LENGTH:
                forms |= forms_of(secret)
            elif len(secret.strip()) >= MINIMUM_TOKEN_LENGTH:
                tokens.add(secret.strip())
        self._literals = [_Literal(form) for form in sorted(forms)]
        self._tokens = sorted(tokens)
        self._token_pattern = (
            re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(tokens, key=len, reverse=True)))})(?!\w)")
            if tokens
            else None
        )
        # Characters that can come last in an unfinished form; most pieces end in a newline, which is none of them.
        self._unfinished = {character for form in forms for character in form[:-1]}
        self._unfinished |= {character for token in tokens for character in token}

    def mask(self, text: str) -> str:
        stream = self.stream()
        return stream.feed(text) + stream.flush()

    def stream(self) -> RedactionStream:
        return RedactionStream(self)

    def intervals(self, buffer: str) -> list[_Interval]:
        """Where to mask, in any order."""
        found = [interval for literal in self._literals for interval in literal.find(buffer)]
        if self._token_pattern is not None:
            found += [match.span() for match in self._token_pattern.finditer(buffer)]
        for match in _URL_START.finditer(buffer):
            authority = _AUTHORITY.match(buffer, match.end())
            user = authority.group().rpartition("@")[0] if authority else ""
            if user and user not in _HARMLESS_USERS:
                found.append((match.end(), match.end() + len(user)))
        return found

    def settled(self, buffer: str) -> int:
        """Up to where nothing that follows the buffer can change what is masked."""
        end = len(buffer)
        if not buffer:
            return end
        hold = end
        if buffer[-1] in self._unfinished:
            for literal in self._literals:
                hold = min(hold, _unfinished_start(buffer, literal.text, len(literal.text) - 1))
            for token in self._tokens:
                # One character more: whether the word ends here shows with the next character.
                hold = min(hold, _unfinished_start(buffer, token, len(token)))
        if prefix := _URL_START_PREFIX.search(buffer, max(0, end - 4)):
            hold = min(hold, prefix.start())
        for match in _URL_START.finditer(buffer, max(0, end - _MAXIMUM_AUTHORITY - 8)):
            authority = _AUTHORITY.match(buffer, match.end())
            if authority and authority.end() == end and end - match.end() <= _MAXIMUM_AUTHORITY:
                hold = min(hold, match.start())
        return hold


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
        for start, stop in sorted(self._redactor.intervals(buffer)):
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


def _unfinished_start(buffer: str, text: str, longest: int) -> int:
    """Where the longest end of `buffer` begins that is a beginning of `text`, of at most `longest` characters."""
    end = len(buffer)
    start = buffer.find(text[0], max(0, end - longest))
    while start >= 0:
        if text.startswith(buffer[start:]):
            return start
        start = buffer.find(text[0], start + 1)
    return end


def _smallest_period(text: str) -> int:
    """Knuth, Morris, Pratt: the length minus that of the longest border."""
    borders = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = borders[length - 1]
        length += text[index] == text[length]
        borders[index] = length
    return len(text) - borders[-1]
