"""The cookie that says to which accounts this browser or client has signed in before.

It gives no rights. It only gives its holder an attempt count of its own, so that strangers who guess at an account
can't lock its user out. Each entry is bound to one account by a signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator

from litestar.datastructures import Cookie

from shared.access_tokens import derive_key
from shared.clock import Clock

DEVICE_COOKIE = "__Host-cloudify_device"
LIFETIME_SECONDS = 365 * 24 * 3600
# Accounts that one browser signs in to, the latest first.
_MAXIMUM_ENTRIES = 5
_ENTRY = re.compile(r"([A-Za-z0-9_-]{22})\.([0-9]{1,12})\.([A-Za-z0-9_-]{22})")


class DeviceCookies:
    """Safe from any thread."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._key = derive_key(secret, "device cookie")
        self._clock = clock

    def device_of(self, cookie: str | None, email: str) -> str | None:
        """The device's name, when the cookie proves that it has signed in to the account of this address."""
        now = int(self._clock.now().timestamp())
        for device, issued, signature in _entries(cookie):
            is_signed = hmac.compare_digest(signature, self._sign(device, issued, email))
            if is_signed and now - LIFETIME_SECONDS < int(issued):
                return device
        return None

    def signed_in(self, cookie: str | None, email: str) -> Cookie:
        """The cookie to set after the device has signed in to the account; the accounts in `cookie` stay in it."""
        device = self.device_of(cookie, email) or secrets.token_urlsafe(16)
        issued = str(int(self._clock.now().timestamp()))
        others = [entry for entry in _entries(cookie) if entry[0] != device]
        entries = [(device, issued, self._sign(device, issued, email)), *others][:_MAXIMUM_ENTRIES]
        return Cookie(
            key=DEVICE_COOKIE,
            value="~".join(".".join(entry) for entry in entries),
            max_age=LIFETIME_SECONDS,
            path="/",
            secure=True,
            httponly=True,
            samesite="strict",
        )

    def _sign(self, device: str, issued: str, email: str) -> str:
        signed = f"{device}\n{issued}\n{email}".encode(errors="replace")
        digest = hmac.new(self._key, signed, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def _entries(cookie: str | None) -> Iterator[tuple[str, str, str]]:
    for part in (cookie or "")[:1000].split("~")[:_MAXIMUM_ENTRIES]:
        if match := _ENTRY.fullmatch(part):
            yield match[1], match[2], match[3]
