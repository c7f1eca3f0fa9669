"""The cookie that tells which accounts this browser or client has signed in to before.

It gives no rights. It only gives its holder an attempt count and a place in line of its own, so that strangers who
guess at an account can't lock its user out. Each entry is bound to one account by a signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from litestar.datastructures import Cookie

from schemas.accounts import DEVICE_COOKIE
from shared.accounts.access_tokens import derive_key
from shared.clock import Clock

LIFETIME_SECONDS = 365 * 24 * 3600
# Accounts of one browser, the latest first.
_MAXIMUM_ENTRIES = 5
_ENTRY = re.compile(r"([A-Za-z0-9_-]{22})\.([0-9]{1,12})\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{22})")


@dataclass(frozen=True, slots=True)
class Device:
    """`account`: a pseudonym of the account that the device has signed in to, the same for all its devices."""

    name: str
    account: str


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    issued: str
    account: str
    signature: str

    def __str__(self) -> str:
        return f"{self.name}.{self.issued}.{self.account}.{self.signature}"


class DeviceCookies:
    """Safe from any thread."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._key = derive_key(secret, "device cookie")
        self._clock = clock

    def device_of(self, cookie: str | None, email: str) -> str | None:
        """The device's name, when the cookie proves that it has signed in to the account of this address."""
        account = self._account(email)
        return next((entry.name for entry in self._valid(cookie) if entry.account == account), None)

    def latest(self, cookie: str | None) -> Device | None:
        """The device, with the account that it signed in to last."""
        return next((Device(entry.name, entry.account) for entry in self._valid(cookie)), None)

    def signed_in(self, cookie: str | None, email: str) -> Cookie:
        """The cookie to set after the device has signed in to the account; the accounts in `cookie` stay in it."""
        device = self.device_of(cookie, email) or secrets.token_urlsafe(16)
        issued, account = str(int(self._clock.now().timestamp())), self._account(email)
        others = [entry for entry in _entries(cookie) if entry.name != device]
        entries = [_Entry(device, issued, account, self._sign(device, issued, account)), *others][:_MAXIMUM_ENTRIES]
        return Cookie(
            key=DEVICE_COOKIE,
            value="~".join(map(str, entries)),
            max_age=LIFETIME_SECONDS,
            path="/",
            secure=True,
            httponly=True,
            samesite="strict",
        )

    def _valid(self, cookie: str | None) -> Iterator[_Entry]:
        now = int(self._clock.now().timestamp())
        for entry in _entries(cookie):
            is_signed = hmac.compare_digest(entry.signature, self._sign(entry.name, entry.issued, entry.account))
            if is_signed and now - LIFETIME_SECONDS < int(entry.issued):
                yield entry

    def _account(self, email: str) -> str:
        return self._sign("account", email)

    def _sign(self, *parts: str) -> str:
        digest = hmac.new(self._key, "\n".join(parts).encode(errors="replace"), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def _entries(cookie: str | None) -> Iterator[_Entry]:
    for part in (cookie or "")[:1000].split("~")[:_MAXIMUM_ENTRIES]:
        if match := _ENTRY.fullmatch(part):
            yield _Entry(*match.groups())
