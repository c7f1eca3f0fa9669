"""Bounds the bytes of request bodies in memory at once, from their arrival until their requests are answered."""

from __future__ import annotations

from collections import Counter

from shared.errors import Unavailable
from shared.metrics import count_refusal

_MEBIBYTE = 1024 * 1024
# The beginning of a body is part of what a connection costs: small requests are answered whatever others send.
UNCOUNTED_BYTES = 16 * 1024
_RETRY_SECONDS = 2


class BodyBudget:
    """A caller may hold `of_a_caller` bytes. When all callers hold `in_all`, each may still have an equal share of it:
    a few with large bodies don't keep others from sending one. Belongs to one event loop."""

    def __init__(self, *, of_a_caller: int = 8 * _MEBIBYTE, in_all: int = 32 * _MEBIBYTE) -> None:
        self._of_a_caller = of_a_caller
        self._in_all = in_all
        self._held: Counter[str] = Counter()
        self._total = 0

    def take(self, caller: str, size: int) -> None:
        """Raises Unavailable and takes nothing if the caller would hold too much."""
        held = self._held.get(caller, 0) + size
        share = self._of_a_caller
        if self._total + size > self._in_all:
            share = min(share, self._in_all // (len(self._held) + (caller not in self._held)))
        if held > share:
            count_refusal("bodies")
            raise Unavailable(
                f"Too many large bodies are being received; send fewer at once, and this one again in {_RETRY_SECONDS} "
                "seconds.",
                retry_after_seconds=_RETRY_SECONDS,
            )
        self._held[caller] = held
        self._total += size

    def give_back(self, caller: str, size: int) -> None:
        self._held[caller] -= size
        self._total -= size
        if not self._held[caller]:
            del self._held[caller]


class HeldBody:
    """The bytes that one request holds."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._uncounted = UNCOUNTED_BYTES
        self._parts: Counter[str] = Counter()

    def grow(self, caller: str, size: int) -> None:
        """Raises Unavailable."""
        uncounted = min(size, self._uncounted)
        self._uncounted -= uncounted
        if size > uncounted:
            self._budget.take(caller, size - uncounted)
            self._parts[caller] += size - uncounted

    def release(self) -> None:
        for caller, size in self._parts.items():
            self._budget.give_back(caller, size)
        self._parts.clear()
