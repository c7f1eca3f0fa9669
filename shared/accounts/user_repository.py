"""Users as rows."""

from __future__ import annotations

from typing import Any

from shared.db.database import Connection, Database, Row, UniqueViolation

_SELECT = """
SELECT u.id, u.email, u.name, u.image, u.password_hash, u.is_platform_administrator, t.id AS tenant_id, t.plan
FROM users u JOIN tenants t ON t.personal_user_id = u.id
"""

_INSERT = """
INSERT INTO users (id, email, name, password_hash, is_platform_administrator)
VALUES (%(id)s, %(email)s, %(name)s, %(password_hash)s, %(is_platform_administrator)s)
"""


class EmailTaken(Exception):
    """Another user has this address."""


class UserRepository:
    """Rows carry the user's columns and `tenant_id` and `plan` of the personal tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, connection: Connection, user: dict[str, Any]) -> None:
        """Raises EmailTaken; the transaction is then of no more use."""
        try:
            connection.execute(_INSERT, user)
        except UniqueViolation as error:
            raise EmailTaken(user["email"]) from error

    def find(self, user_id: str) -> Row | None:
        return self._database.fetch_one(_SELECT + "WHERE u.id = %(id)s", {"id": user_id})

    def find_by_email(self, email: str) -> Row | None:
        return self._database.fetch_one(_SELECT + "WHERE u.email = %(email)s", {"email": email})

    def set_password_hash(self, user_id: str, password_hash: str, *, expected: str) -> None:
        """Changes nothing when the hash is no longer the expected one."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE users SET password_hash = %(hash)s, updated_at = now() "
                "WHERE id = %(id)s AND password_hash = %(expected)s",
                {"id": user_id, "hash": password_hash, "expected": expected},
            )
