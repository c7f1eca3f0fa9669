"""Limits password guesses across all processes.

An attempt is counted before its password is hashed and removed again when the password is correct. So the count covers
wrong passwords and attempts that are still being checked. Above a limit no password is checked: a correct one gets the
same answer as a wrong one.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from dataclasses import dataclass

from shared.errors import ErrorCode, Unavailable
from shared.limits.windows import Window, Windows
from shared.network.client_addresses import network_of

WINDOW_SECONDS = 60.0
PER_ACCOUNT = 5
PER_ADDRESS = 20


class LoginThrottled(Unavailable):
    code = ErrorCode.LOGIN_THROTTLED


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """A counted attempt."""

    event: str
    windows: tuple[Window, ...]


class LoginThrottle:
    """Allows, within a minute, `per_account` attempts on an account from all addresses together and `per_address`
    attempts from one address on all accounts together.

    A device that has signed in to the account before has `per_account` attempts of its own, which nobody else can use
    up. Safe from any thread.
    """

    def __init__(
        self,
        windows: Windows,
        *,
        per_account: int = PER_ACCOUNT,
        per_address: int = PER_ADDRESS,
        window_seconds: float = WINDOW_SECONDS,
    ) -> None:
        self._windows = windows
        self._per_account = per_account
        self._per_address = per_address
        self._seconds = window_seconds

    def begin(self, email: str, address: str, *, device: str | None) -> LoginAttempt:
        """Counts an attempt. `device` has proven that it signed in to this account before. Raises LoginThrottled."""
        account = _digest(email)
        if device is None:
            windows = (
                Window(f"login:account:{account}", self._per_account, self._seconds),
                Window(f"login:address:{_digest(network_of(address))}", self._per_address, self._seconds),
            )
        else:
            windows = (Window(f"login:device:{account}:{_digest(device)}", self._per_account, self._seconds),)
        attempt = LoginAttempt(secrets.token_hex(8), windows)
        wait = self._windows.take(windows, attempt.event)
        if wait:
            seconds = math.ceil(wait)
            raise LoginThrottled(
                f"Too many failed sign-ins; try again in {seconds} seconds.", retry_after_seconds=seconds
            )
        return attempt

    def take_back(self, attempt: LoginAttempt) -> None:
        """Removes the attempt from the count, because the password was correct or was not checked."""
        self._windows.give_back(attempt.windows, attempt.event)


def _digest(text: str) -> str:
    """Gives all keys one length and keeps addresses and names out of Redis."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:32]
