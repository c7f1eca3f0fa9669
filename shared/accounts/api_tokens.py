"""The format of API tokens: `cfy_` + 30 random base62 characters + a CRC-32 of both as 6 base62 characters.

The checksum rejects typing errors without a look-up, and helps secret scanners to tell tokens from other text.
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
    """Whether the format and the checksum are valid. The token may never have been issued."""
    return _PATTERN.fullmatch(text) is not None and secrets.compare_digest(_checksum(text[:-6]), text[-6:])


def token_hash(token: str) -> bytes:
    """SHA-256, 32 bytes. No slow hash is needed: 30 base62 characters are 178 random bits."""
    return hashlib.sha256(token.encode()).digest()


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    characters: list[str] = []
    for _ in range(6):
        value, digit = divmod(value, 62)
        characters.append(_ALPHABET[digit])
    return "".join(reversed(characters))
