"""Database access to logins and their refresh tokens.

Only a login's row in `logins` decides whether the login is valid. A refresh locks that row before it reads anything
else, and a revocation changes it. So a refresh either commits before the revocation, which then ends its new token, or
sees the revocation.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from shared.db.database import Connection, Database


class NewSession(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a new refresh token; `family_id` is its login."""

    id: str
    family_id: str
    user_id: str
    refresh_token_hash: bytes
    user_agent: str | None
    address: str | None
    expires_at: datetime


class SessionRow(msgspec.Struct, frozen=True):
    """A refresh token. `revoked_at` is its login's; the other times are its own."""

    id: str
    family_id: str
    user_id: str
    replaced_at: datetime | None
    expires_at: datetime
    revoked_at: datetime | None


class SessionUser(msgspec.Struct, frozen=True):
    """A user, and whether the login in question is neither revoked nor expired."""

    user_id: str
    email: str
    is_platform_administrator: bool
    is_live: bool


class SessionHolderRow(msgspec.Struct, frozen=True):
    """A refresh token and its user. `is_live`: whether its login is neither revoked nor expired."""

    family_id: str
    replaced_at: datetime | None
    is_live: bool
    user_id: str
    email: str
    is_platform_administrator: bool


class LoginRow(msgspec.Struct, frozen=True):
    """A login, with the client of its current refresh token and the time when that token was issued."""

    id: str
    user_agent: str | None
    address: str | None
    expires_at: datetime
    last_used_at: datetime
    created_at: datetime


_INSERT_LOGIN = """
INSERT INTO logins (id, user_id, expires_at) VALUES (%(id)s, %(user_id)s, %(expires_at)s)
"""

_INSERT = """
INSERT INTO sessions (id, family_id, user_id, refresh_token_hash, user_agent, address, expires_at)
VALUES (%(id)s, %(family_id)s, %(user_id)s, %(refresh_token_hash)s, %(user_agent)s, %(address)s, %(expires_at)s)
"""

_FIND_USER = """
SELECT u.id AS user_id, u.email, u.is_platform_administrator,
       EXISTS (SELECT 1 FROM logins l WHERE l.id = %(family_id)s AND l.user_id = u.id
               AND l.revoked_at IS NULL AND l.expires_at > %(now)s) AS is_live
FROM users u WHERE u.id = %(user_id)s
"""

_FIND_HOLDER = """
SELECT s.family_id, s.replaced_at, l.revoked_at IS NULL AND s.expires_at > %(now)s AS is_live,
       u.id AS user_id, u.email, u.is_platform_administrator
FROM sessions s JOIN logins l ON l.id = s.family_id JOIN users u ON u.id = s.user_id
WHERE s.refresh_token_hash = %(hash)s
"""

# The newest refresh token of a login shows its client and its last use.
_LIST = """
SELECT l.id, s.user_agent, s.address, l.expires_at, s.created_at AS last_used_at, l.created_at
FROM logins l CROSS JOIN LATERAL (
  SELECT * FROM sessions WHERE family_id = l.id ORDER BY created_at DESC, id DESC LIMIT 1
) s
WHERE l.user_id = %(user_id)s AND l.revoked_at IS NULL AND l.expires_at > %(now)s
ORDER BY s.created_at DESC, l.id DESC LIMIT 100
"""


class SessionRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def count_active(self) -> int:
        """The number of logins that are neither revoked nor expired."""
        query = "SELECT count(*) FROM logins WHERE revoked_at IS NULL AND expires_at > now()"
        return self._database.fetch_value(int, query) or 0

    def insert_login(self, connection: Connection, login_id: str, user_id: str, expires_at: datetime) -> None:
        connection.execute(_INSERT_LOGIN, {"id": login_id, "user_id": user_id, "expires_at": expires_at})

    def insert(self, connection: Connection, session: NewSession) -> None:
        """Adds a refresh token. The caller must have inserted or locked its login."""
        connection.execute(_INSERT, msgspec.structs.asdict(session))

    def prolong_login(self, connection: Connection, login_id: str, expires_at: datetime) -> None:
        connection.execute(
            "UPDATE logins SET expires_at = %(expires_at)s WHERE id = %(id)s",
            {"id": login_id, "expires_at": expires_at},
        )

    def find_locked(self, connection: Connection, refresh_token_hash: bytes) -> SessionRow | None:
        """Locks the login of the refresh token and returns the token's row. None for an unknown token.

        Takes three statements: a single one that waited for the lock would still see the rows from before the wait.
        """
        parameters = {"hash": refresh_token_hash}
        family_id = connection.fetch_value(
            str, "SELECT family_id FROM sessions WHERE refresh_token_hash = %(hash)s", parameters
        )
        if family_id is None:
            return None
        connection.execute("SELECT id FROM logins WHERE id = %(family_id)s FOR UPDATE", {"family_id": family_id})
        return connection.fetch_one(
            SessionRow,
            "SELECT s.id, s.family_id, s.user_id, s.replaced_at, s.expires_at, l.revoked_at "
            "FROM sessions s JOIN logins l ON l.id = s.family_id "
            "WHERE s.refresh_token_hash = %(hash)s",
            parameters,
        )

    def set_replaced(self, connection: Connection, session_id: str, now: datetime) -> None:
        connection.execute(
            "UPDATE sessions SET replaced_at = COALESCE(replaced_at, %(now)s) WHERE id = %(id)s",
            {"id": session_id, "now": now},
        )

    def revoke(self, connection: Connection, login_id: str, user_id: str, now: datetime) -> bool:
        """Ends the login. Returns False if the user has no such login or it has already ended."""
        return (
            connection.execute(
                "UPDATE logins SET revoked_at = %(now)s "
                "WHERE id = %(id)s AND user_id = %(user_id)s AND revoked_at IS NULL",
                {"id": login_id, "user_id": user_id, "now": now},
            ).rowcount
            > 0
        )

    def find_user(self, user_id: str, family_id: str, now: datetime) -> SessionUser | None:
        return self._database.fetch_one(
            SessionUser, _FIND_USER, {"user_id": user_id, "family_id": family_id, "now": now}
        )

    def find_holder(self, refresh_token_hash: bytes, now: datetime) -> SessionHolderRow | None:
        return self._database.fetch_one(SessionHolderRow, _FIND_HOLDER, {"hash": refresh_token_hash, "now": now})

    def list_of(self, user_id: str, now: datetime) -> list[LoginRow]:
        """Returns the 100 most recently used valid logins."""
        return self._database.fetch_all(LoginRow, _LIST, {"user_id": user_id, "now": now})

    def end_all(self, connection: Connection) -> None:
        """Ends every login of every user. For a database that was restored."""
        connection.execute("DELETE FROM logins")

    def delete_expired(self, now: datetime) -> int:
        """Deletes expired logins with their refresh tokens, and expired refresh tokens of other logins. Returns the
        number of deleted logins."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE expires_at < %(now)s", {"now": now})
            return connection.execute("DELETE FROM logins WHERE expires_at < %(now)s", {"now": now}).rowcount
