"""A stream's position in the sequences of its tenants, as an opaque word: the id of its events.

The word is base64url (RFC 4648, without padding) of: a version byte; for each tenant 8 bytes that stand for its id and
its position as a LEB128 number; a CRC-32, so that a truncated or altered word is refused instead of misread. One
tenant takes some 20 characters, each further one some 13. It grants nothing: positions of tenants that the caller may
not see are ignored.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache

from shared.errors import CloudifyError, ErrorCode

_VERSION = b"\x01"
_TAG_BYTES = 8
_CHECK_BYTES = 4
_MAXIMUM_CHARACTERS = 64 * 1024
_ALPHABET = re.compile(r"[A-Za-z0-9_-]+")
# bigint, as PostgreSQL keeps it.
_GREATEST_NUMBER = 2**63 - 1


def encode_cursor(positions: Mapping[str, int]) -> str:
    """`positions` maps tenants to the numbers of the last events sent, 0 before the first."""
    parts = [_VERSION]
    for tenant_id, position in positions.items():
        parts += (_tag(tenant_id), _number(position))
    body = b"".join(parts)
    return base64.urlsafe_b64encode(body + zlib.crc32(body).to_bytes(_CHECK_BYTES)).decode().rstrip("=")


def decode_cursor(text: str, tenant_ids: Iterable[str]) -> dict[str, int]:
    """Positions of those of the tenants that the cursor knows. Raises CloudifyError (INVALID_CURSOR)."""
    by_tag = _tags(_body(text))
    return {tenant_id: by_tag[_tag(tenant_id)] for tenant_id in tenant_ids if _tag(tenant_id) in by_tag}


def invalid_cursor() -> CloudifyError:
    return CloudifyError(
        "The position is not the id of an event of this stream; begin again without a position.",
        code=ErrorCode.INVALID_CURSOR,
    )


def _body(text: str) -> bytes:
    if len(text) > _MAXIMUM_CHARACTERS or not _ALPHABET.fullmatch(text):
        raise invalid_cursor()
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise invalid_cursor() from error
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if not body.startswith(_VERSION) or zlib.crc32(body).to_bytes(_CHECK_BYTES) != check:
        raise invalid_cursor()
    return body


def _tags(body: bytes) -> dict[bytes, int]:
    positions: dict[bytes, int] = {}
    at = len(_VERSION)
    while at < len(body):
        tag = body[at : at + _TAG_BYTES]
        position, at = _read_number(body, at + _TAG_BYTES)
        if tag in positions:
            raise invalid_cursor()
        positions[tag] = position
    return positions


@lru_cache(maxsize=4096)
def _tag(tenant_id: str) -> bytes:
    return hashlib.sha256(tenant_id.encode()).digest()[:_TAG_BYTES]


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            if value > _GREATEST_NUMBER:
                break
            return value, at
    raise invalid_cursor()
