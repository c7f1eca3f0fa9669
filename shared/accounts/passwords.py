"""Passwords, hashed with argon2id.

The parameters (19 MiB, 2 passes, 1 lane) are the minimum of OWASP's Password Storage Cheat Sheet, which keeps the
API's memory use low.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

MINIMUM_LENGTH = 8
MAXIMUM_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Verified:
    """`rehash`: the hash has outdated parameters; store a new one."""

    is_correct: bool
    rehash: bool = False


class Passwords:
    """Computes at most `concurrency` hashes at once, which limits memory and CPU use. Safe from any thread."""

    def __init__(self, *, memory_kib: int = 19 * 1024, passes: int = 2, concurrency: int = 2) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1, type=Type.ID)
        self._slots = threading.BoundedSemaphore(concurrency)
        # Passwords for unknown accounts are compared with this hash, so that they take the same time.
        self._decoy = self._hasher.hash("no account has this password")

    def hash(self, password: str) -> str:
        with self._slots:
            return self._hasher.hash(password)

    def verify(self, password_hash: str | None, password: str) -> Verified:
        """Returns "not correct" for None, an unknown account, after the same time as for a known one."""
        with self._slots:
            try:
                self._hasher.verify(password_hash or self._decoy, password)
            except (VerificationError, InvalidHashError):
                return Verified(is_correct=False)
        if password_hash is None:
            return Verified(is_correct=False)
        return Verified(is_correct=True, rehash=self._hasher.check_needs_rehash(password_hash))
