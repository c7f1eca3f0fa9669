"""Passwords, hashed with argon2id.

19 MiB, 2 passes, 1 lane: the minimum of OWASP's Password Storage Cheat Sheet, which keeps the API's memory small.
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
    """`rehash`: the hash was made with other parameters; store a new one."""

    is_correct: bool
    rehash: bool = False


class Passwords:
    """Safe from any thread. At most `concurrency` hashes are worked at once, which bounds memory and processor."""

    def __init__(self, *, memory_kib: int = 19 * 1024, passes: int = 2, concurrency: int = 2) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1, type=Type.ID)
        self._slots = threading.BoundedSemaphore(concurrency)
        # What unknown accounts are compared with, so that they take the same time.
        self._decoy = self._hasher.hash("no account has this password")

    def hash(self, password: str) -> str:
        with self._slots:
            return self._hasher.hash(password)

    def verify(self, password_hash: str | None, password: str) -> Verified:
        """None stands for an unknown account: never correct, as slow as a known one."""
        with self._slots:
            try:
                self._hasher.verify(password_hash or self._decoy, password)
            except (VerificationError, InvalidHashError):
                return Verified(is_correct=False)
        if password_hash is None:
            return Verified(is_correct=False)
        return Verified(is_correct=True, rehash=self._hasher.check_needs_rehash(password_hash))
