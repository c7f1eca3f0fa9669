"""The form of API tokens: `cfy_` + 30 random base62 characters + a CRC-32 of both as 6 base62 characters.

The checksum lets a typo be refused without a look-up, and scanners of leaked secrets tell a token from noise.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib

PREFIX = "cfy_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PATTERN = re.compile(r"cfy_[0-9A-Za-z]{36}")


def new_token() -> str:
    body = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(30))
    return body + _checksum(body)


def is_token(text: str) -> bool:
    """Whether the form and the checksum are right; says nothing about whether the token was ever issued."""
    return _PATTERN.fullmatch(text) is not None and secrets.compare_digest(_checksum(text[:-6]), text[-6:])


def token_hash(token: str) -> bytes:
    """32 bytes. A plain hash is enough: 30 base62 characters are 178 random bits."""
    return hashlib.sha256(token.encode()).digest()


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    characters: list[str] = []
    for _ in range(6):
        value, digit = divmod(value, 62)
        characters.append(_ALPHABET[digit])
    return "".join(reversed(characters))
