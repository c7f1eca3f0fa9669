"""API tokens as rows. Only the hash of a token is stored."""

from __future__ import annotations

from typing import Any

from shared.db.database import Database, Row
from shared.repositories.paging import Page, PageRequest, keyset_clause, page_of

SORTABLE = {"created_at": "created_at"}

_COLUMNS = "id, name, prefix, scopes, expires_at, last_used_at, created_at"

_INSERT = f"""
INSERT INTO api_tokens (id, user_id, name, prefix, token_hash, scopes, expires_at)
VALUES (%(id)s, %(user_id)s, %(name)s, %(prefix)s, %(token_hash)s, %(scopes)s, %(expires_at)s)
RETURNING {_COLUMNS}
"""  # noqa: S608 - constants only

# The last use is written at most once a minute, so that reading stays reading.
_FIND_ACTIVE = """
SELECT k.id, k.scopes, k.expires_at <= now() AS is_expired, u.id AS user_id, u.email, u.is_platform_administrator,
       k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 minute' AS is_use_due
FROM api_tokens k JOIN users u ON u.id = k.user_id
WHERE k.token_hash = %(token_hash)s AND k.revoked_at IS NULL
"""


class TokenRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, token: dict[str, Any]) -> Row:
        row = self._database.fetch_one(_INSERT, token)
        assert row is not None
        return row

    def page(self, user_id: str, request: PageRequest) -> Page[Row]:
        keyset, order, parameters = keyset_clause(request, column=SORTABLE[request.sort], id_column="id")
        where = "user_id = %(user_id)s AND revoked_at IS NULL"
        parameters["user_id"] = user_id
        rows = self._database.fetch_all(
            f"SELECT {_COLUMNS} FROM api_tokens WHERE {where} AND {keyset} {order}",  # noqa: S608 - constants only
            parameters,
        )
        total = self._count(where, parameters) if request.with_total else None
        return page_of(rows, request, total)

    def _count(self, where: str, parameters: dict[str, Any]) -> int:
        query = f"SELECT count(*) AS total FROM api_tokens WHERE {where}"  # noqa: S608 - constants only
        row = self._database.fetch_one(query, parameters)
        return row["total"] if row else 0

    def count_of(self, user_id: str) -> int:
        return self._count("user_id = %(user_id)s AND revoked_at IS NULL", {"user_id": user_id})

    def find(self, user_id: str, token_id: str) -> Row | None:
        return self._database.fetch_one(
            f"SELECT {_COLUMNS} FROM api_tokens "  # noqa: S608 - constants only
            "WHERE id = %(id)s AND user_id = %(user_id)s AND revoked_at IS NULL",
            {"id": token_id, "user_id": user_id},
        )

    def revoke(self, user_id: str, token_id: str) -> bool:
        row = self._database.fetch_one(
            "UPDATE api_tokens SET revoked_at = now() "
            "WHERE id = %(id)s AND user_id = %(user_id)s AND revoked_at IS NULL RETURNING id",
            {"id": token_id, "user_id": user_id},
        )
        return row is not None

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
