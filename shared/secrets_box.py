"""Envelope encryption: AES-256-GCM with one data key for each record, wrapped by a key-encryption key with an id.

To rotate, put a new key first in the settings. Old records remain readable as long as their key is listed. Wrapping
their data keys again (`cloudify admin rotate-keys`) makes the old key unnecessary; the values are not changed.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

_NONCE_BYTES = 12
_KEY_BYTES = 32
_WRAP_CONTEXT = b"cloudify data key\x00"


class SecretUnreadable(Exception):
    """The record's key is not in the settings, or the record was changed or moved."""


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """`wrapped_key` and `ciphertext` each consist of a nonce (12 bytes) and AES-GCM output."""

    key_id: str
    wrapped_key: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


class SecretsBox:
    """Seals with the first of `keys` (id → 32 bytes) and opens with all of them. Safe from any thread."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ValueError("At least one key-encryption key is needed; set CLOUDIFY_ENCRYPTION_KEYS.")
        self._keys = dict(keys)
        self._current = next(iter(keys))

    def seal(self, plaintext: bytes, context: bytes) -> SealedSecret:
        """Encrypts a value. `context` identifies the record; it is authenticated but not stored."""
        data_key = os.urandom(_KEY_BYTES)
        return SealedSecret(
            key_id=self._current,
            wrapped_key=_encrypt(self._keys[self._current], data_key, _WRAP_CONTEXT + context),
            ciphertext=_encrypt(data_key, plaintext, context),
        )

    @property
    def current_key_id(self) -> str:
        return self._current

    def open(self, sealed: SealedSecret, context: bytes) -> bytes:
        """Raises SecretUnreadable."""
        return _decrypt(self._unwrap(sealed, context), sealed.ciphertext, context)

    def rewrap(self, sealed: SealedSecret, context: bytes) -> SealedSecret:
        """Wraps the data key with the current key. Raises SecretUnreadable."""
        data_key = self._unwrap(sealed, context)
        wrapped = _encrypt(self._keys[self._current], data_key, _WRAP_CONTEXT + context)
        return SealedSecret(self._current, wrapped, sealed.ciphertext)

    def _unwrap(self, sealed: SealedSecret, context: bytes) -> bytes:
        wrapper = self._keys.get(sealed.key_id)
        if wrapper is None:
            raise SecretUnreadable(
                f"The key {sealed.key_id!r} is not in CLOUDIFY_ENCRYPTION_KEYS; add it again to read what it sealed."
            )
        return _decrypt(wrapper, sealed.wrapped_key, _WRAP_CONTEXT + context)


def key_fingerprint(key: bytes) -> str:
    """Tells two keys apart, and reveals nothing of either: a key is 32 random bytes."""
    return hmac.new(key, b"cloudify key fingerprint", "sha256").hexdigest()[:32]


# The library takes about 10 MB; a worker without variables never loads it.


def _encrypt(key: bytes, plaintext: bytes, context: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, context)


def _decrypt(key: bytes, data: bytes, context: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], context)
    except (InvalidTag, ValueError) as error:
        raise SecretUnreadable(
            "A sealed value was changed or moved to another record, or the id of its key now belongs to another"
            " key in CLOUDIFY_ENCRYPTION_KEYS."
        ) from error
