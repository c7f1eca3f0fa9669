"""API tokens as rows. Only the hash of a token is stored.

A token that another one made ends no later than that one, and is revoked with it: the view `live_api_tokens` looks at
all the tokens that it descends from, so that one revoked row is enough, also beside a child that is being made.
"""

from __future__ import annotations

from typing import Any

from shared.db.database import Connection, Database, Row
from shared.db.paging import Page, PageRequest, keyset_clause, page_of

SORTABLE = {"created_at": "created_at"}

_COLUMNS = "id, name, prefix, scopes, expires_at, last_used_at, created_at"

_INSERT = f"""
INSERT INTO api_tokens (id, user_id, name, prefix, token_hash, scopes, expires_at, ancestor_ids)
VALUES (%(id)s, %(user_id)s, %(name)s, %(prefix)s, %(token_hash)s, %(scopes)s, %(expires_at)s, %(ancestor_ids)s)
RETURNING {_COLUMNS}
"""  # noqa: S608 - constants only

_LOCK_USER = "SELECT id FROM users WHERE id = %(id)s FOR NO KEY UPDATE"

_COUNT_OF = "SELECT count(*) AS total FROM live_api_tokens WHERE user_id = %(user_id)s"

_REVOKE_OLDEST = """
UPDATE api_tokens SET revoked_at = now() WHERE revoked_at IS NULL AND id = (
  SELECT id FROM live_api_tokens WHERE user_id = %(user_id)s AND name = %(name)s ORDER BY created_at, id LIMIT 1
)
"""

_FIND_PARENT = """
SELECT id, ancestor_ids, expires_at, expires_at <= now() AS is_expired FROM live_api_tokens
WHERE id = %(id)s AND user_id = %(user_id)s
"""

# The last use is written at most once a minute, so that reading stays reading.
_FIND_ACTIVE = """
SELECT k.id, k.scopes, k.expires_at <= now() AS is_expired, u.id AS user_id, u.email, u.is_platform_administrator,
       k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 minute' AS is_use_due
FROM live_api_tokens k JOIN users u ON u.id = k.user_id
WHERE k.token_hash = %(token_hash)s
"""


class TokenRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def lock_user(self, connection: Connection, user_id: str) -> bool:
        """False when there is no such user. Serialises creations, so that the bound on their number is exact."""
        parameters = {"id": user_id}
        return connection.execute(_LOCK_USER, parameters).fetchone() is not None

    def insert(self, connection: Connection, token: dict[str, Any]) -> Row:
        row = connection.execute(_INSERT, token).fetchone()
        assert row is not None
        return row

    def page(self, user_id: str, request: PageRequest) -> Page[Row]:
        keyset, order, parameters = keyset_clause(request, column=SORTABLE[request.sort], id_column="id")
        where = "user_id = %(user_id)s"
        parameters["user_id"] = user_id
        rows = self._database.fetch_all(
            f"SELECT {_COLUMNS} FROM live_api_tokens WHERE {where} AND {keyset} {order}",  # noqa: S608 - constants only
            parameters,
        )
        total = self._count(where, parameters) if request.with_total else None
        return page_of(rows, request, total)

    def _count(self, where: str, parameters: dict[str, Any]) -> int:
        query = f"SELECT count(*) AS total FROM live_api_tokens WHERE {where}"  # noqa: S608 - constants only
        row = self._database.fetch_one(query, parameters)
        return row["total"] if row else 0

    def count_of(self, connection: Connection, user_id: str) -> int:
        row = connection.execute(_COUNT_OF, {"user_id": user_id}).fetchone()
        return row["total"] if row else 0

    def find(self, user_id: str, token_id: str) -> Row | None:
        return self._database.fetch_one(
            f"SELECT {_COLUMNS} FROM live_api_tokens "  # noqa: S608 - constants only
            "WHERE id = %(id)s AND user_id = %(user_id)s",
            {"id": token_id, "user_id": user_id},
        )

    def find_parent(self, user_id: str, token_id: str) -> Row | None:
        """What a child needs to know of the token that makes it; None when that one is revoked."""
        return self._database.fetch_one(_FIND_PARENT, {"id": token_id, "user_id": user_id})

    def revoke(self, user_id: str, token_id: str) -> bool:
        """Ends the token and all that descend from it. False when the user has no such token that lives."""
        row = self._database.fetch_one(
            "UPDATE api_tokens SET revoked_at = now() WHERE revoked_at IS NULL "
            "AND id = (SELECT id FROM live_api_tokens WHERE id = %(id)s AND user_id = %(user_id)s) RETURNING id",
            {"id": token_id, "user_id": user_id},
        )
        return row is not None

    def revoke_oldest(self, connection: Connection, user_id: str, name: str) -> None:
        """Ends the oldest of the user's tokens that have this name, where there is one."""
        connection.execute(_REVOKE_OLDEST, {"user_id": user_id, "name": name})

    def find_active(self, token_hash: bytes) -> Row | None:
        """The token and its user; also notes the use."""
        with self._database.transaction() as connection:
            row = connection.execute(_FIND_ACTIVE, {"token_hash": token_hash}).fetchone()
            if row is not None and row["is_use_due"] and not row["is_expired"]:
                connection.execute(
                    "UPDATE api_tokens SET last_used_at = now() WHERE id = %(id)s "
                    "AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')",
                    {"id": row["id"]},
                )
        return row
