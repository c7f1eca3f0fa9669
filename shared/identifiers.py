"""Prefixed, time-ordered identifiers: `depl_` + a UUIDv7 in lower-case Crockford base32.

The first 10 of the 26 characters are the time in milliseconds, so identifiers sort by creation. The rest is random,
except the version and variant bits. UUIDv7: RFC 9562, section 5.7.
"""

from __future__ import annotations

import re
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PATTERN = re.compile(r"[a-z]{2,6}_[0-9a-hjkmnp-tv-z]{26}")

# Prefixes that several modules know. One that a single service gives out is that module's.
USER = "user"
TENANT = "ten"
PROJECT = "proj"
DEPLOYMENT = "depl"


def uuid7() -> int:
    """Returns a UUIDv7 as a 128-bit integer."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & 0xFFFFFFFFFFFF) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    return value & ~(0x3 << 62) | 0x2 << 62


def new_identifier(prefix: str) -> str:
    value = uuid7()
    characters: list[str] = []
    for _ in range(26):
        characters.append(_ALPHABET[value & 31])
        value >>= 5
    return f"{prefix}_{''.join(reversed(characters))}"


def is_identifier(text: str, prefix: str) -> bool:
    return text.startswith(prefix + "_") and _PATTERN.fullmatch(text) is not None


def random_part(identifier: str, length: int = 8) -> str:
    """The last `length` characters, which are random bits only (the UUID's `rand_b`); `length` at most 12."""
    return identifier[-length:]
