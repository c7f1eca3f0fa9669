"""Sessions as rows: one row a refresh token, one family a login."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from shared.db.database import Connection, Database, Row

_INSERT = """
INSERT INTO sessions (id, family_id, user_id, refresh_token_hash, user_agent, address, expires_at)
VALUES (%(id)s, %(family_id)s, %(user_id)s, %(refresh_token_hash)s, %(user_agent)s, %(address)s, %(expires_at)s)
"""

_FIND_USER = """
SELECT u.id AS user_id, u.email, u.is_platform_administrator,
       EXISTS (SELECT 1 FROM sessions s WHERE s.family_id = %(family_id)s AND s.user_id = u.id
               AND s.revoked_at IS NULL AND s.expires_at > %(now)s) AS is_live
FROM users u WHERE u.id = %(user_id)s
"""

_FIND_HOLDER = """
SELECT s.family_id, s.replaced_at, s.revoked_at IS NULL AND s.expires_at > %(now)s AS is_live,
       u.id AS user_id, u.email, u.is_platform_administrator
FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.refresh_token_hash = %(hash)s
"""

# A family is shown by the row that holds its present refresh token; a family began when its first row was written.
_LIST = """
SELECT s.family_id AS id, s.user_agent, s.address, s.expires_at, s.created_at AS last_used_at,
       (SELECT min(first.created_at) FROM sessions first WHERE first.family_id = s.family_id) AS created_at
FROM (
  SELECT DISTINCT ON (family_id) * FROM sessions
  WHERE user_id = %(user_id)s AND revoked_at IS NULL AND expires_at > %(now)s
  ORDER BY family_id, created_at DESC, id DESC
) s
ORDER BY s.created_at DESC, s.family_id DESC LIMIT 100
"""


class SessionRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, connection: Connection, session: dict[str, Any]) -> None:
        connection.execute(_INSERT, session)

    def find_locked(self, connection: Connection, refresh_token_hash: bytes) -> Row | None:
        """The row of the refresh token, locked; two uses at once see each other."""
        return connection.execute(
            "SELECT * FROM sessions WHERE refresh_token_hash = %(hash)s FOR UPDATE", {"hash": refresh_token_hash}
        ).fetchone()

    def set_replaced(self, connection: Connection, session_id: str, now: datetime) -> None:
        connection.execute(
            "UPDATE sessions SET replaced_at = COALESCE(replaced_at, %(now)s) WHERE id = %(id)s",
            {"id": session_id, "now": now},
        )

    def revoke_family(self, connection: Connection, family_id: str, user_id: str, now: datetime) -> int:
        """How many rows it revoked; 0 when the family has none that live."""
        return connection.execute(
            "UPDATE sessions SET revoked_at = %(now)s "
            "WHERE family_id = %(family_id)s AND user_id = %(user_id)s AND revoked_at IS NULL",
            {"family_id": family_id, "user_id": user_id, "now": now},
        ).rowcount

    def find_user(self, user_id: str, family_id: str, now: datetime) -> Row | None:
        """The user, and as `is_live` whether the login is neither revoked nor over."""
        return self._database.fetch_one(_FIND_USER, {"user_id": user_id, "family_id": family_id, "now": now})

    def find_holder(self, refresh_token_hash: bytes, now: datetime) -> Row | None:
        """The refresh token with its user; `is_live`: whether its login is neither revoked nor over."""
        return self._database.fetch_one(_FIND_HOLDER, {"hash": refresh_token_hash, "now": now})

    def list_of(self, user_id: str, now: datetime) -> list[Row]:
        """The 100 latest logins that live."""
        return self._database.fetch_all(_LIST, {"user_id": user_id, "now": now})

    def delete_expired(self, now: datetime) -> int:
        with self._database.transaction() as connection:
            return connection.execute("DELETE FROM sessions WHERE expires_at < %(now)s", {"now": now}).rowcount
