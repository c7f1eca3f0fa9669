"""Database access to API tokens. Only the hash of a token is stored.

A token that was created with another one expires no later than that one and is revoked with it: the view
`live_api_tokens` checks all ancestors, so revoking one row is enough, even while a child is being created.
"""

from __future__ import annotations

from datetime import datetime
from typing import LiteralString

import msgspec

from shared.db.database import Connection, Database
from shared.db.paging import Page, PageRequest, keyset_clause, page_of
from shared.db.rows import columns_of

SORTABLE: dict[str, LiteralString] = {"created_at": "created_at"}


class TokenRow(msgspec.Struct, frozen=True):
    """The part of a token that its owner may see."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a new token. `ancestor_ids`: the tokens that it was created with, oldest first."""

    id: str
    user_id: str
    name: str
    prefix: str
    token_hash: bytes
    scopes: list[str]
    expires_at: datetime | None
    ancestor_ids: list[str]


class ParentToken(msgspec.Struct, frozen=True):
    """The part of a token that a new child depends on."""

    id: str
    ancestor_ids: list[str]
    expires_at: datetime | None
    is_expired: bool


class ActiveToken(msgspec.Struct, frozen=True):
    """A token that is not revoked, and its user."""

    id: str
    scopes: list[str]
    is_expired: bool
    user_id: str
    email: str
    is_platform_administrator: bool
    is_use_due: bool


_COLUMNS = columns_of(TokenRow)

_INSERT: LiteralString = f"""
INSERT INTO api_tokens (id, user_id, name, prefix, token_hash, scopes, expires_at, ancestor_ids)
VALUES (%(id)s, %(user_id)s, %(name)s, %(prefix)s, %(token_hash)s, %(scopes)s, %(expires_at)s, %(ancestor_ids)s)
RETURNING {_COLUMNS}
"""  # noqa: S608 - constants only

_LOCK_USER = "SELECT id FROM users WHERE id = %(id)s FOR NO KEY UPDATE"

_COUNT_OF = "SELECT count(*) FROM live_api_tokens WHERE user_id = %(user_id)s"

_REVOKE_OLDEST = """
UPDATE api_tokens SET revoked_at = now() WHERE revoked_at IS NULL AND id = (
  SELECT id FROM live_api_tokens WHERE user_id = %(user_id)s AND name = %(name)s ORDER BY created_at, id LIMIT 1
)
"""

_FIND_PARENT = """
SELECT id, ancestor_ids, expires_at, COALESCE(expires_at <= now(), false) AS is_expired FROM live_api_tokens
WHERE id = %(id)s AND user_id = %(user_id)s
"""

# The last use is written at most once a minute, so that most requests only read.
_FIND_ACTIVE = """
SELECT k.id, k.scopes, COALESCE(k.expires_at <= now(), false) AS is_expired,
       u.id AS user_id, u.email, u.is_platform_administrator,
       k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 minute' AS is_use_due
FROM live_api_tokens k JOIN users u ON u.id = k.user_id
WHERE k.token_hash = %(token_hash)s
"""


class TokenRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def lock_user(self, connection: Connection, user_id: str) -> bool:
        """Serialises the creation of tokens, so that their limit is exact. Returns False if there is no such user."""
        return connection.exists(_LOCK_USER, {"id": user_id})

    def insert(self, connection: Connection, token: NewToken) -> TokenRow:
        row = connection.fetch_one(TokenRow, _INSERT, msgspec.structs.asdict(token))
        assert row is not None
        return row

    def page(self, user_id: str, request: PageRequest) -> Page[TokenRow]:
        keyset, order, parameters = keyset_clause(request, column=SORTABLE[request.sort], id_column="id")
        parameters["user_id"] = user_id
        query: LiteralString = f"""
            SELECT {_COLUMNS} FROM live_api_tokens WHERE user_id = %(user_id)s AND {keyset} {order}
        """  # noqa: S608 - constants only
        rows = self._database.fetch_all(TokenRow, query, parameters)
        total = None
        if request.with_total:
            total = self._database.fetch_value(int, _COUNT_OF, {"user_id": user_id})
        return page_of(rows, request, total)

    def count_of(self, connection: Connection, user_id: str) -> int:
        return connection.fetch_value(int, _COUNT_OF, {"user_id": user_id}) or 0

    def find(self, user_id: str, token_id: str) -> TokenRow | None:
        return self._database.fetch_one(
            TokenRow,
            f"SELECT {_COLUMNS} FROM live_api_tokens "  # noqa: S608 - constants only
            "WHERE id = %(id)s AND user_id = %(user_id)s",
            {"id": token_id, "user_id": user_id},
        )

    def find_parent(self, user_id: str, token_id: str) -> ParentToken | None:
        """Returns None if the token is revoked."""
        return self._database.fetch_one(ParentToken, _FIND_PARENT, {"id": token_id, "user_id": user_id})

    def revoke(self, user_id: str, token_id: str) -> bool:
        """Revokes the token and its descendants. Returns False if the user has no such valid token."""
        return self._database.exists(
            "UPDATE api_tokens SET revoked_at = now() WHERE revoked_at IS NULL "
            "AND id = (SELECT id FROM live_api_tokens WHERE id = %(id)s AND user_id = %(user_id)s) RETURNING id",
            {"id": token_id, "user_id": user_id},
        )

    def revoke_oldest(self, connection: Connection, user_id: str, name: str) -> None:
        """Revokes the oldest of the user's tokens with this name, if there is one."""
        connection.execute(_REVOKE_OLDEST, {"user_id": user_id, "name": name})

    def find_active(self, token_hash: bytes) -> ActiveToken | None:
        """Returns the token and its user, and records the use."""
        with self._database.transaction() as connection:
            row = connection.fetch_one(ActiveToken, _FIND_ACTIVE, {"token_hash": token_hash})
            if row is not None and row.is_use_due and not row.is_expired:
                connection.execute(
                    "UPDATE api_tokens SET last_used_at = now() WHERE id = %(id)s "
                    "AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')",
                    {"id": row.id},
                )
        return row
