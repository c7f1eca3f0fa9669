"""Database access to responses by idempotency key, stored in the transaction of the request's effect."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import LiteralString

import msgspec

from shared.db.database import Connection, Database

_KEPT: LiteralString = "interval '24 hours'"

_FIND: LiteralString = f"""
SELECT fingerprint, response_status, response_body, response_location FROM idempotency_keys
WHERE principal_id = %(principal_id)s AND method = %(method)s AND path = %(path)s AND key = %(key)s
  AND created_at > now() - {_KEPT}
"""  # noqa: S608 - constants only

_INSERT: LiteralString = f"""
INSERT INTO idempotency_keys AS kept
  (principal_id, method, path, key, fingerprint, response_status, response_body, response_location)
VALUES (%(principal_id)s, %(method)s, %(path)s, %(key)s, %(fingerprint)s, %(status)s, %(body)s, %(location)s)
ON CONFLICT (principal_id, method, path, key) DO UPDATE
SET fingerprint = excluded.fingerprint, response_status = excluded.response_status,
    response_body = excluded.response_body, response_location = excluded.response_location, created_at = now()
WHERE kept.created_at <= now() - {_KEPT}
"""  # noqa: S608 - constants only


@dataclass(frozen=True, slots=True)
class IdempotencyScope:
    """The scope of a key. The same key in another scope is unrelated."""

    principal_id: str
    method: str
    path: str
    key: str

    def as_parameters(self) -> dict[str, str]:
        return {"principal_id": self.principal_id, "method": self.method, "path": self.path, "key": self.key}

    def lock_number(self) -> int:
        """Returns a signed 64-bit number for an advisory lock."""
        digest = hashlib.sha256("\x00".join(self.as_parameters().values()).encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """`body` is the JSON of the response's `data`; `fingerprint` is a 32-byte digest of the request's body."""

    fingerprint: bytes
    status: int
    body: bytes = field(repr=False)
    location: str | None


class _KeptRow(msgspec.Struct, frozen=True):
    fingerprint: bytes
    response_status: int
    response_body: bytes
    response_location: str | None


class IdempotencyRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, scope: IdempotencyScope) -> KeptAnswer | None:
        with self._database.transaction() as connection:
            return self.find_in(connection, scope)

    def find_in(self, connection: Connection, scope: IdempotencyScope) -> KeptAnswer | None:
        row = connection.fetch_one(_KeptRow, _FIND, scope.as_parameters())
        if row is None:
            return None
        return KeptAnswer(row.fingerprint, row.response_status, row.response_body, row.response_location)

    def try_lock(self, connection: Connection, scope: IdempotencyScope) -> bool:
        """Locks the key until the transaction ends. Returns False if another transaction holds the lock."""
        query = "SELECT pg_try_advisory_xact_lock(%(number)s)"
        return connection.fetch_value(bool, query, {"number": scope.lock_number()}) is True

    def insert(self, connection: Connection, scope: IdempotencyScope, answer: KeptAnswer) -> bool:
        """Returns False if the key already has a response."""
        parameters = scope.as_parameters() | {
            "fingerprint": answer.fingerprint,
            "status": answer.status,
            "body": answer.body,
            "location": answer.location,
        }
        return connection.execute(_INSERT, parameters).rowcount == 1

    def delete_expired(self) -> int:
        """Deletes responses older than 24 hours. For a periodic job."""
        with self._database.transaction() as connection:
            return connection.execute(
                f"DELETE FROM idempotency_keys WHERE created_at <= now() - {_KEPT}"  # noqa: S608 - constants only
            ).rowcount
