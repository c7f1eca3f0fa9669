"""Credentials of projects' repositories as rows, sealed before they get here, and the keys of SSH hosts."""

from __future__ import annotations

from typing import Any

from shared.db.database import Connection, Database, Row

_UPSERT = """
INSERT INTO repository_credentials AS c
  (project_id, kind, origin, username, fingerprint, public_key, key_id, wrapped_key, ciphertext)
VALUES (%(project_id)s, %(kind)s, %(origin)s, %(username)s, %(fingerprint)s, %(public_key)s, %(key_id)s,
        %(wrapped_key)s, %(ciphertext)s)
ON CONFLICT (project_id) DO UPDATE
SET kind = excluded.kind, origin = excluded.origin, username = excluded.username, fingerprint = excluded.fingerprint,
    public_key = excluded.public_key, key_id = excluded.key_id, wrapped_key = excluded.wrapped_key,
    ciphertext = excluded.ciphertext, updated_at = now()
RETURNING kind, origin, username, fingerprint, public_key, updated_at
"""

# The first one wins; whoever comes later learns which that was.
_PIN = """
INSERT INTO repository_host_keys AS k (project_id, host, host_key) VALUES (%(project_id)s, %(host)s, %(host_key)s)
ON CONFLICT (project_id, host) DO UPDATE SET host_key = k.host_key RETURNING host_key
"""


class RepositoryCredentialRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def lock_project(self, connection: Connection, tenant_id: str, project_id: str) -> Row | None:
        """The project's repository_url; None when the tenant has no such project. It doesn't change meanwhile."""
        return connection.execute(
            "SELECT repository_url FROM projects WHERE id = %(id)s AND tenant_id = %(tenant_id)s "
            "AND deleting_at IS NULL FOR NO KEY UPDATE",
            {"id": project_id, "tenant_id": tenant_id},
        ).fetchone()

    def replace_address(self, connection: Connection, project_id: str, repository_url: str) -> None:
        """For an address of a locked project that credentials are moved out of."""
        connection.execute(
            "UPDATE projects SET repository_url = %(url)s WHERE id = %(id)s", {"id": project_id, "url": repository_url}
        )

    def upsert(self, connection: Connection, credentials: dict[str, Any]) -> Row:
        row = connection.execute(_UPSERT, credentials).fetchone()
        assert row is not None
        return row

    def find(self, tenant_id: str, project_id: str) -> Row | None:
        """What may be shown of them."""
        return self._database.fetch_dict(
            "SELECT c.kind, c.origin, c.username, c.fingerprint, c.public_key, c.updated_at "
            "FROM repository_credentials c JOIN projects p ON p.id = c.project_id "
            "WHERE p.id = %(project_id)s AND p.tenant_id = %(tenant_id)s AND p.deleting_at IS NULL",
            {"project_id": project_id, "tenant_id": tenant_id},
        )

    def find_sealed(self, project_id: str) -> Row | None:
        return self._database.fetch_dict(
            "SELECT project_id, kind, origin, key_id, wrapped_key, ciphertext FROM repository_credentials "
            "WHERE project_id = %(project_id)s",
            {"project_id": project_id},
        )

    def delete(self, connection: Connection, project_id: str) -> bool:
        deleted = connection.execute(
            "DELETE FROM repository_credentials WHERE project_id = %(project_id)s RETURNING project_id",
            {"project_id": project_id},
        )
        return deleted.fetchone() is not None

    def wrapped_by_others(self, key_id: str, *, after: str, limit: int) -> list[Row]:
        """Those of all projects that another key than `key_id` wrapped, by the project's id."""
        return self._database.fetch_dicts(
            "SELECT project_id, kind, origin, key_id, wrapped_key, ciphertext FROM repository_credentials "
            "WHERE key_id <> %(key_id)s AND project_id > %(after)s ORDER BY project_id LIMIT %(limit)s",
            {"key_id": key_id, "after": after, "limit": limit},
        )

    def replace_wrapping(self, project_id: str, *, key_id: str, wrapped_key: bytes, former: bytes) -> bool:
        """False when they were set anew meanwhile: those have a wrapping of their own."""
        row = self._database.fetch_dict(
            "UPDATE repository_credentials SET key_id = %(key_id)s, wrapped_key = %(wrapped_key)s "
            "WHERE project_id = %(project_id)s AND wrapped_key = %(former)s RETURNING project_id",
            {"project_id": project_id, "key_id": key_id, "wrapped_key": wrapped_key, "former": former},
        )
        return row is not None

    def find_host_key(self, project_id: str, host: str) -> str | None:
        row = self._database.fetch_dict(
            "SELECT host_key FROM repository_host_keys WHERE project_id = %(project_id)s AND host = %(host)s",
            {"project_id": project_id, "host": host},
        )
        return None if row is None else row["host_key"]

    def pin_host_key(self, project_id: str, host: str, host_key: str) -> str:
        """Keeps the key unless the host has one already; returns the one that holds."""
        row = self._database.fetch_dict(_PIN, {"project_id": project_id, "host": host, "host_key": host_key})
        assert row is not None
        return row["host_key"]

    def forget_host_keys(self, connection: Connection, project_id: str) -> None:
        connection.execute(
            "DELETE FROM repository_host_keys WHERE project_id = %(project_id)s", {"project_id": project_id}
        )
