"""Access tokens: short-lived JWTs, HS256, signed by a keyring so that keys can rotate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import jwt
import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.clock import Clock
from shared.errors import ErrorCode, Unauthenticated

LIFETIME = timedelta(minutes=10)
_ISSUER = "cloudify"
_ALGORITHM = "HS256"


def derive_key(secret: bytes, purpose: str) -> bytes:
    """Derives 32 bytes for one purpose (HKDF-SHA256, RFC 5869). One derived key reveals nothing about the others."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"cloudify {purpose}".encode()).derive(secret)


@dataclass(frozen=True, slots=True)
class AccessClaims:
    user_id: str
    family_id: str


class _Payload(msgspec.Struct, frozen=True):
    """The claims that this platform reads; `exp` is Unix time in seconds."""

    sub: str
    sid: str
    exp: float


class AccessTokens:
    """Signs with the first of `secrets` and verifies with all of them. Safe from any thread."""

    def __init__(self, secrets: Sequence[bytes], clock: Clock) -> None:
        keys = [derive_key(secret, "access token") for secret in secrets]
        self._keys = {hashlib.sha256(key).hexdigest()[:12]: key for key in keys}
        self._current = next(iter(self._keys))
        self._clock = clock

    def issue(self, claims: AccessClaims) -> str:
        now = self._clock.now()
        payload = {"iss": _ISSUER, "sub": claims.user_id, "sid": claims.family_id, "iat": now, "exp": now + LIFETIME}
        return jwt.encode(payload, self._keys[self._current], _ALGORITHM, headers={"kid": self._current})

    def verify(self, token: str) -> AccessClaims:
        """Raises Unauthenticated: TOKEN_EXPIRED for an expired token, otherwise UNAUTHENTICATED."""
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            # The expiry is compared below, with the clock of this class.
            decoded = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                options={"require": ["exp", "sub", "sid"], "verify_exp": False, "verify_iat": False},
            )
            payload = msgspec.convert(decoded, _Payload)
        except (jwt.PyJWTError, KeyError, TypeError, ValueError) as error:
            raise Unauthenticated("The access token is not valid; sign in again.") from error
        if payload.exp <= self._clock.now().timestamp():
            raise Unauthenticated(
                "The access token has expired; get a new one from POST /api/auth/refresh.", code=ErrorCode.TOKEN_EXPIRED
            )
        return AccessClaims(payload.sub, payload.sid)
