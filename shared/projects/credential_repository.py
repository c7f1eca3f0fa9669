"""Database access to sealed repository credentials and to the keys of SSH hosts."""

from __future__ import annotations

from datetime import datetime
from typing import LiteralString

import msgspec

from shared.db.database import Connection, Database
from shared.db.rows import columns_of
from shared.projects.repository_credentials import Kind
from shared.secrets_box import SealedSecret


class LockedProject(msgspec.Struct, frozen=True):
    repository_url: str | None


class CredentialsRow(msgspec.Struct, frozen=True):
    """The part of a repository's credentials that clients may see."""

    kind: Kind
    origin: str
    username: str | None
    fingerprint: str | None
    public_key: str | None
    updated_at: datetime


class NewCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """The values of new credentials."""

    project_id: str
    kind: Kind
    origin: str
    username: str | None
    fingerprint: str | None
    public_key: str | None
    key_id: str
    wrapped_key: bytes
    ciphertext: bytes


class SealedCredentials(msgspec.Struct, frozen=True):
    """Stored credentials, encrypted."""

    project_id: str
    kind: Kind
    origin: str
    key_id: str
    wrapped_key: bytes
    ciphertext: bytes

    @property
    def sealed(self) -> SealedSecret:
        return SealedSecret(self.key_id, self.wrapped_key, self.ciphertext)


_SHOWN = columns_of(CredentialsRow, "c")
_SEALED = columns_of(SealedCredentials)

_UPSERT: LiteralString = f"""
INSERT INTO repository_credentials AS c
  (project_id, kind, origin, username, fingerprint, public_key, key_id, wrapped_key, ciphertext)
VALUES (%(project_id)s, %(kind)s, %(origin)s, %(username)s, %(fingerprint)s, %(public_key)s, %(key_id)s,
        %(wrapped_key)s, %(ciphertext)s)
ON CONFLICT (project_id) DO UPDATE
SET kind = excluded.kind, origin = excluded.origin, username = excluded.username, fingerprint = excluded.fingerprint,
    public_key = excluded.public_key, key_id = excluded.key_id, wrapped_key = excluded.wrapped_key,
    ciphertext = excluded.ciphertext, updated_at = now()
RETURNING {_SHOWN}
"""  # noqa: S608 - constants only

# The first key wins; a later caller gets that key.
_PIN = """
INSERT INTO repository_host_keys AS k (project_id, host, host_key) VALUES (%(project_id)s, %(host)s, %(host_key)s)
ON CONFLICT (project_id, host) DO UPDATE SET host_key = k.host_key RETURNING host_key
"""


class RepositoryCredentialRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def lock_project(self, connection: Connection, tenant_id: str, project_id: str) -> LockedProject | None:
        """Locks the project until the transaction ends. Returns None if the tenant has no such project."""
        return connection.fetch_one(
            LockedProject,
            "SELECT repository_url FROM projects WHERE id = %(id)s AND tenant_id = %(tenant_id)s "
            "AND deleting_at IS NULL FOR NO KEY UPDATE",
            {"id": project_id, "tenant_id": tenant_id},
        )

    def replace_address(self, connection: Connection, project_id: str, repository_url: str) -> None:
        """Stores the address of a locked project after its credentials were moved out of it."""
        connection.execute(
            "UPDATE projects SET repository_url = %(url)s WHERE id = %(id)s", {"id": project_id, "url": repository_url}
        )

    def upsert(self, connection: Connection, credentials: NewCredentials) -> CredentialsRow:
        row = connection.fetch_one(CredentialsRow, _UPSERT, msgspec.structs.asdict(credentials))
        assert row is not None
        return row

    def find(self, tenant_id: str, project_id: str) -> CredentialsRow | None:
        return self._database.fetch_one(
            CredentialsRow,
            f"SELECT {_SHOWN} "  # noqa: S608 - constants only
            "FROM repository_credentials c JOIN projects p ON p.id = c.project_id "
            "WHERE p.id = %(project_id)s AND p.tenant_id = %(tenant_id)s AND p.deleting_at IS NULL",
            {"project_id": project_id, "tenant_id": tenant_id},
        )

    def find_sealed(self, project_id: str) -> SealedCredentials | None:
        return self._database.fetch_one(
            SealedCredentials,
            f"SELECT {_SEALED} FROM repository_credentials WHERE project_id = %(project_id)s",  # noqa: S608 - constants only
            {"project_id": project_id},
        )

    def delete(self, connection: Connection, project_id: str) -> bool:
        deleted = connection.execute(
            "DELETE FROM repository_credentials WHERE project_id = %(project_id)s", {"project_id": project_id}
        )
        return deleted.rowcount > 0

    def wrapped_by_others(self, key_id: str, *, after: str, limit: int) -> list[SealedCredentials]:
        """Returns credentials of all projects that were wrapped by another key than `key_id`, by project id."""
        return self._database.fetch_all(
            SealedCredentials,
            f"SELECT {_SEALED} FROM repository_credentials "  # noqa: S608 - constants only
            "WHERE key_id <> %(key_id)s AND project_id > %(after)s ORDER BY project_id LIMIT %(limit)s",
            {"key_id": key_id, "after": after, "limit": limit},
        )

    def replace_wrapping(self, project_id: str, *, key_id: str, wrapped_key: bytes, former: bytes) -> bool:
        """Returns False if new credentials have been set meanwhile, which are wrapped already."""
        return self._database.exists(
            "UPDATE repository_credentials SET key_id = %(key_id)s, wrapped_key = %(wrapped_key)s "
            "WHERE project_id = %(project_id)s AND wrapped_key = %(former)s RETURNING project_id",
            {"project_id": project_id, "key_id": key_id, "wrapped_key": wrapped_key, "former": former},
        )

    def find_host_key(self, project_id: str, host: str) -> str | None:
        return self._database.fetch_value(
            str,
            "SELECT host_key FROM repository_host_keys WHERE project_id = %(project_id)s AND host = %(host)s",
            {"project_id": project_id, "host": host},
        )

    def pin_host_key(self, project_id: str, host: str, host_key: str) -> str:
        """Stores the key unless the host already has one, and returns the stored key."""
        pinned = self._database.fetch_value(str, _PIN, {"project_id": project_id, "host": host, "host_key": host_key})
        assert pinned is not None
        return pinned

    def forget_host_keys(self, connection: Connection, project_id: str) -> None:
        connection.execute(
            "DELETE FROM repository_host_keys WHERE project_id = %(project_id)s", {"project_id": project_id}
        )
