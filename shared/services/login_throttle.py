"""Slows down guessing of passwords: by account and address, within this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol

from shared.clock import Clock
from shared.errors import ErrorCode, Unavailable


class LoginThrottled(Unavailable):
    code = ErrorCode.LOGIN_THROTTLED


class LoginThrottle(Protocol):
    """Safe from any thread."""

    def check(self, email: str, address: str) -> None:
        """Raises LoginThrottled when the account or the address has failed too often lately."""
        ...

    def failed(self, email: str, address: str) -> None: ...


class LocalLoginThrottle:
    """Counts failures of the last `window_seconds`: `per_account` for an account from an address, and `per_address`
    for an address over all accounts. Remembers at most `maximum_keys` of them, the latest."""

    def __init__(
        self,
        clock: Clock,
        *,
        per_account: int = 10,
        per_address: int = 100,
        window_seconds: float = 300.0,
        maximum_keys: int = 10_000,
    ) -> None:
        self._clock = clock
        self._per_account = per_account
        self._per_address = per_address
        self._window_seconds = window_seconds
        self._maximum_keys = maximum_keys
        self._failures: OrderedDict[tuple[str, str], list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, email: str, address: str) -> None:
        now = self._clock.monotonic()
        with self._lock:
            for key, limit in (((email, address), self._per_account), (("", address), self._per_address)):
                recent = self._recent(key, now)
                if len(recent) >= limit:
                    wait = int(recent[0] + self._window_seconds - now) + 1
                    raise LoginThrottled(
                        f"Too many failed sign-ins; try again in {wait} seconds.", retry_after_seconds=wait
                    )

    def failed(self, email: str, address: str) -> None:
        now = self._clock.monotonic()
        with self._lock:
            for key in ((email, address), ("", address)):
                self._failures[key] = [*self._recent(key, now), now][-self._per_address :]
                self._failures.move_to_end(key)
            while len(self._failures) > self._maximum_keys:
                self._failures.popitem(last=False)

    def _recent(self, key: tuple[str, str], now: float) -> list[float]:
        return [moment for moment in self._failures.get(key, ()) if moment > now - self._window_seconds]
