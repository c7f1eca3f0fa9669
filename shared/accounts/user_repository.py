"""Database access to users."""

from __future__ import annotations

from typing import LiteralString

import msgspec

from shared.db.database import Connection, Database, UniqueViolation
from shared.db.rows import columns_of
from shared.plans import Plan


class UserRow(msgspec.Struct, frozen=True):
    """A user; `tenant_id` and `plan` belong to the personal tenant."""

    id: str
    email: str
    name: str
    image: str | None
    password_hash: str
    is_platform_administrator: bool
    tenant_id: str
    plan: Plan


class NewUser(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a new user."""

    id: str
    email: str
    name: str
    password_hash: str
    is_platform_administrator: bool


_SELECT: LiteralString = f"""
SELECT {columns_of(UserRow, "u", tenant_id="t.id", plan="t.plan")}
FROM users u JOIN tenants t ON t.personal_user_id = u.id
"""  # noqa: S608 - constants only

_INSERT = """
INSERT INTO users (id, email, name, password_hash, is_platform_administrator)
VALUES (%(id)s, %(email)s, %(name)s, %(password_hash)s, %(is_platform_administrator)s)
"""


class EmailTaken(Exception):
    """Another user has this address."""


class UserRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, connection: Connection, user: NewUser) -> None:
        """Raises EmailTaken, after which the transaction can only be rolled back."""
        try:
            connection.execute(_INSERT, msgspec.structs.asdict(user))
        except UniqueViolation as error:
            raise EmailTaken(user.email) from error

    def find(self, user_id: str) -> UserRow | None:
        return self._database.fetch_one(UserRow, _SELECT + "WHERE u.id = %(id)s", {"id": user_id})

    def find_by_email(self, email: str) -> UserRow | None:
        return self._database.fetch_one(UserRow, _SELECT + "WHERE u.email = %(email)s", {"email": email})

    def set_password_hash(self, user_id: str, password_hash: str, *, expected: str) -> None:
        """Does nothing if the stored hash is not the expected one."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE users SET password_hash = %(hash)s, updated_at = now() "
                "WHERE id = %(id)s AND password_hash = %(expected)s",
                {"id": user_id, "hash": password_hash, "expected": expected},
            )
