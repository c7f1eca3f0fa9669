"""Finds many fixed texts in a buffer in linear time. Pure.

Searching for hundreds of texts one by one takes hundreds of passes. A sieve therefore examines every twelfth position
of the buffer (every fourth for shorter texts, every one for the shortest) and tells from the four bytes there which
texts may occur: mostly none. Only those are searched for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

Interval = tuple[int, int]

_GROUP_BYTES = 4
# Strides of the sieves. A text is long enough for a stride if it contains an examined group at any position.
_STRIDES = (12, 4, 1)
# For fewer texts, one pass for each costs less than a sieve.
_MINIMUM_SIEVED = 8
# Maximum positions of a text's head near the end of a buffer that are tried one by one, before a full search.
_MAXIMUM_TRIES = 32
_HEAD_LENGTH = 8


class Literal:
    """One text. `str.find` finds its occurrences in linear time.

    Occurrences that overlap by a period of at most half the length ("aaaa") are merged into one interval; otherwise a
    long run of them would take quadratic time.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def _borders(self) -> list[int]:
        """Computed when the text first occurs: most never do, and long ones take a while."""
        return _borders(self.text)

    @cached_property
    def _period(self) -> int:
        return len(self.text) - self._borders[-1]

    @cached_property
    def _run(self) -> re.Pattern[str] | None:
        """Matches further periods after an occurrence."""
        length, period = len(self.text), self._period
        if 2 * period > length:
            return None
        unit = self.text[length - period :]
        return re.compile(f"(?:{re.escape(unit)})*+")

    def find(self, buffer: str) -> Iterator[Interval]:
        """Intervals that cover all occurrences; they may overlap."""
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

    def unfinished_start(self, buffer: str) -> int:
        """The start of the longest suffix of `buffer` that is a proper prefix of the text, else the buffer's length."""
        end = len(buffer)
        head = self.text[:_HEAD_LENGTH]
        start = buffer.find(head, max(0, end - len(self.text) + 1))
        tries = 0
        while start >= 0:
            if self.text.startswith(buffer[start:]):
                return start
            tries += 1
            if tries > _MAXIMUM_TRIES:
                return end - self._overlap(buffer[max(0, end - len(self.text) + 1) :])
            start = buffer.find(head, start + 1)
        for size in range(min(len(head) - 1, end), 0, -1):
            if buffer.endswith(head[:size]):
                return end - size
        return end

    def _overlap(self, tail: str) -> int:
        """Knuth, Morris, Pratt: the length of the longest suffix of `tail` that is a proper prefix of the text."""
        borders, length = self._borders, 0
        for character in tail:
            while length and character != self.text[length]:
                length = borders[length - 1]
            length += character == self.text[length]
        return length


class LiteralSet:
    """Many texts of at least four characters, without NUL. Immutable and safe from any thread."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = sorted(set(texts))
        self._literals = [Literal(text) for text in self.texts]
        self._sieves: list[_Sieve] = []
        unsieved = self._literals
        for stride in _STRIDES:
            longest = [literal for literal in unsieved if len(_encode(literal.text)) >= stride + _GROUP_BYTES - 1]
            if len(longest) >= _MINIMUM_SIEVED:
                self._sieves.append(_Sieve(longest, stride))
                taken = set(longest)
                unsieved = [literal for literal in unsieved if literal not in taken]
        self._unsieved = unsieved
        # For quick proof that no suffix of a buffer is a prefix of a text. NUL is in no text and in no buffer.
        self._beginnings = "\0".join(text[:-1] for text in self.texts)
        self._inner = frozenset(self._beginnings)
        self._heads = [frozenset(text[:size] for text in self.texts) for size in (1, 2)]

    def find(self, buffer: str) -> Iterator[Interval]:
        """Intervals that cover all occurrences of all texts, in any order; they may overlap."""
        candidates = list(self._unsieved)
        if self._sieves:
            data = _encode(buffer)
            for sieve in self._sieves:
                candidates += sieve.candidates(data)
        for literal in candidates:
            yield from literal.find(buffer)

    def unfinished_start(self, buffer: str) -> int:
        """The start of the longest suffix of `buffer` that is a proper prefix of a text, else the buffer's length."""
        end = len(buffer)
        if not buffer or buffer[-1] not in self._inner:
            return end
        hold = end
        for size in (1, 2):
            if buffer[-size:] in self._heads[size - 1]:
                hold = end - size
        last = buffer[-3:]
        if len(last) == 3 and last in self._beginnings:
            candidates = (literal for literal in self._literals if last in literal.text)
            hold = min([hold, *(literal.unfinished_start(buffer) for literal in candidates)])
        return hold


class _Sieve:
    """Finds which texts may occur, from every `stride`-th byte and the three after it."""

    def __init__(self, literals: Sequence[Literal], stride: int) -> None:
        self._stride = stride
        self._groups: dict[int, list[Literal]] = {}
        for literal in literals:
            data = _encode(literal.text)
            alone = [literal]
            for group in {data[start : start + _GROUP_BYTES] for start in range(stride)}:
                self._add(int.from_bytes(group, sys.byteorder), alone)

    def _add(self, key: int, alone: list[Literal]) -> None:
        """Most groups belong to one text, and all groups of a text share one list."""
        others = self._groups.get(key)
        if others is None:
            self._groups[key] = alone
        elif len(others) == 1:
            self._groups[key] = others + alone
        else:
            others += alone

    def candidates(self, data: bytes) -> set[Literal]:
        step = max(1, self._stride // _GROUP_BYTES)
        seen: set[int] = set()
        for offset in range(0, _GROUP_BYTES, self._stride):
            whole = offset + (len(data) - offset) // _GROUP_BYTES * _GROUP_BYTES
            seen.update(memoryview(data)[offset:whole].cast("I")[::step])
        return {literal for key in self._groups.keys() & seen for literal in self._groups[key]}


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _borders(text: str) -> list[int]:
    """Knuth, Morris, Pratt: for each prefix, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = borders[length - 1]
        length += text[index] == text[length]
        borders[index] = length
    return borders
