"""Database access to stream tickets. Only the hash of a ticket is stored."""

from __future__ import annotations

from datetime import datetime

import msgspec

from shared.db.database import Connection, Database


class NewTicket(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a new ticket; it was requested with either `token_id` or `session_id`."""

    ticket_hash: bytes
    user_id: str
    token_id: str | None
    session_id: str | None
    deployment_id: str | None
    expires_at: datetime


class TakenTicket(msgspec.Struct, frozen=True):
    """A ticket with its user and the scopes of its token. `is_live`: the token or login that requested it is
    neither revoked nor expired."""

    token_id: str | None
    session_id: str | None
    deployment_id: str | None
    is_expired: bool
    user_id: str
    email: str
    is_platform_administrator: bool
    scopes: list[str]
    is_live: bool


_INSERT = """
INSERT INTO stream_tickets (ticket_hash, user_id, token_id, session_id, deployment_id, expires_at)
VALUES (%(ticket_hash)s, %(user_id)s, %(token_id)s, %(session_id)s, %(deployment_id)s, %(expires_at)s)
"""

# If two clients present the same ticket at once, the second waits for the deletion and then finds no row.
_TAKE = """
WITH taken AS (
  DELETE FROM stream_tickets WHERE ticket_hash = %(ticket_hash)s
  RETURNING user_id, token_id, session_id, deployment_id, expires_at
)
SELECT t.token_id, t.session_id, t.deployment_id, t.expires_at <= %(now)s AS is_expired,
       u.id AS user_id, u.email, u.is_platform_administrator, COALESCE(k.scopes, '{}') AS scopes,
       CASE WHEN t.token_id IS NOT NULL
            THEN k.id IS NOT NULL AND (k.expires_at IS NULL OR k.expires_at > now())
            ELSE EXISTS (SELECT 1 FROM logins l WHERE l.id = t.session_id AND l.user_id = t.user_id
                         AND l.revoked_at IS NULL AND l.expires_at > %(now)s)
       END AS is_live
FROM taken t JOIN users u ON u.id = t.user_id
LEFT JOIN live_api_tokens k ON k.id = t.token_id AND k.user_id = t.user_id
"""


class StreamTicketRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, ticket: NewTicket) -> None:
        with self._database.transaction() as connection:
            connection.execute(_INSERT, msgspec.structs.asdict(ticket))

    def take(self, ticket_hash: bytes, now: datetime) -> TakenTicket | None:
        """Deletes and returns the ticket. None if it is unknown."""
        return self._database.fetch_one(TakenTicket, _TAKE, {"ticket_hash": ticket_hash, "now": now})

    def delete_all(self, connection: Connection) -> None:
        connection.execute("DELETE FROM stream_tickets")

    def delete_expired(self, now: datetime) -> int:
        with self._database.transaction() as connection:
            return connection.execute("DELETE FROM stream_tickets WHERE expires_at < %(now)s", {"now": now}).rowcount
