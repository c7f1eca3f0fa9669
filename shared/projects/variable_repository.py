"""Database access to environment variables with sealed values."""

from __future__ import annotations

from datetime import datetime
from typing import LiteralString

import msgspec

from shared.db.database import Connection, Database
from shared.db.rows import columns_of
from shared.deployments.state import Stage
from shared.secrets_box import SealedSecret


class VariableRow(msgspec.Struct, frozen=True):
    """The part of a variable that clients may see."""

    key: str
    targets: list[str]
    stages: list[Stage]
    created_at: datetime
    updated_at: datetime


class NewVariable(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a new variable."""

    id: str
    project_id: str
    key: str
    targets: list[str]
    stages: list[str]
    key_id: str
    wrapped_key: bytes
    ciphertext: bytes


class SealedVariable(msgspec.Struct, frozen=True):
    """A variable with its sealed value."""

    id: str
    project_id: str
    key: str
    targets: list[str]
    stages: list[Stage]
    key_id: str
    wrapped_key: bytes
    ciphertext: bytes

    @property
    def sealed(self) -> SealedSecret:
        return SealedSecret(self.key_id, self.wrapped_key, self.ciphertext)


class _Size(msgspec.Struct, frozen=True):
    total: int
    bytes: int


_SHOWN = columns_of(VariableRow, "v", targets="v.targets::text[]")
_SEALED = columns_of(SealedVariable, "v", targets="v.targets::text[]")

_UPSERT: LiteralString = f"""
INSERT INTO environment_variables AS v (id, project_id, key, targets, stages, key_id, wrapped_key, ciphertext)
VALUES (%(id)s, %(project_id)s, %(key)s, %(targets)s::variable_target[], %(stages)s, %(key_id)s, %(wrapped_key)s,
  %(ciphertext)s)
ON CONFLICT (project_id, key) DO UPDATE
SET targets = excluded.targets, stages = excluded.stages, key_id = excluded.key_id,
    wrapped_key = excluded.wrapped_key, ciphertext = excluded.ciphertext, updated_at = now()
RETURNING {_SHOWN}
"""  # noqa: S608 - constants only

_DELETE = "DELETE FROM environment_variables WHERE project_id = %(project_id)s AND key = %(key)s"

_NOTE_DELETION = "UPDATE projects SET variable_deleted_at = now() WHERE id = %(project_id)s"


class VariableRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def lock_project(self, connection: Connection, tenant_id: str, project_id: str) -> bool:
        """Serialises changes, so that the limit of variables is exact. Returns False if there is no such project."""
        return connection.exists(
            "SELECT id FROM projects WHERE id = %(id)s AND tenant_id = %(tenant_id)s AND deleting_at IS NULL "
            "FOR NO KEY UPDATE",
            {"id": project_id, "tenant_id": tenant_id},
        )

    def measure_others(self, connection: Connection, project_id: str, key: str) -> tuple[int, int]:
        """Returns the number of the project's other variables and the bytes of their names and sealed values."""
        row = connection.fetch_one(
            _Size,
            "SELECT count(*) AS total, COALESCE(sum(octet_length(ciphertext) + length(key)), 0) AS bytes "
            "FROM environment_variables WHERE project_id = %(project_id)s AND key <> %(key)s",
            {"project_id": project_id, "key": key},
        )
        return (row.total, row.bytes) if row else (0, 0)

    def upsert(self, connection: Connection, variable: NewVariable) -> VariableRow:
        row = connection.fetch_one(VariableRow, _UPSERT, msgspec.structs.asdict(variable))
        assert row is not None
        return row

    def list_of(self, tenant_id: str, project_id: str) -> list[VariableRow]:
        """Returns the variables by key."""
        return self._database.fetch_all(
            VariableRow,
            f"SELECT {_SHOWN} "  # noqa: S608 - constants only
            "FROM environment_variables v JOIN projects p ON p.id = v.project_id "
            "WHERE p.id = %(project_id)s AND p.tenant_id = %(tenant_id)s ORDER BY v.key",
            {"project_id": project_id, "tenant_id": tenant_id},
        )

    def sealed_for(self, project_id: str, target: str) -> list[SealedVariable]:
        """Returns the variables of the target, by key."""
        return self._database.fetch_all(
            SealedVariable,
            f"SELECT {_SEALED} FROM environment_variables v "  # noqa: S608 - constants only
            "WHERE v.project_id = %(project_id)s AND %(target)s::variable_target = ANY(v.targets) ORDER BY v.key",
            {"project_id": project_id, "target": target},
        )

    def readable_values(self, tenant_id: str, project_id: str) -> list[SealedVariable]:
        """Returns the variables for development, by key."""
        return self._database.fetch_all(
            SealedVariable,
            f"SELECT {_SEALED} "  # noqa: S608 - constants only
            "FROM environment_variables v JOIN projects p ON p.id = v.project_id "
            "WHERE p.id = %(project_id)s AND p.tenant_id = %(tenant_id)s AND 'development' = ANY(v.targets) "
            "ORDER BY v.key",
            {"project_id": project_id, "tenant_id": tenant_id},
        )

    def wrapped_by_others(self, key_id: str, *, after: str, limit: int) -> list[SealedVariable]:
        """Returns variables of all projects that were wrapped by another key than `key_id`, by id."""
        return self._database.fetch_all(
            SealedVariable,
            f"SELECT {_SEALED} FROM environment_variables v "  # noqa: S608 - constants only
            "WHERE v.key_id <> %(key_id)s AND v.id > %(after)s ORDER BY v.id LIMIT %(limit)s",
            {"key_id": key_id, "after": after, "limit": limit},
        )

    def replace_wrapping(self, variable_id: str, *, key_id: str, wrapped_key: bytes, former: bytes) -> bool:
        """Returns False if a new value has been set meanwhile, which is wrapped already."""
        return self._database.exists(
            "UPDATE environment_variables SET key_id = %(key_id)s, wrapped_key = %(wrapped_key)s "
            "WHERE id = %(id)s AND wrapped_key = %(former)s RETURNING id",
            {"id": variable_id, "key_id": key_id, "wrapped_key": wrapped_key, "former": former},
        )

    def delete(self, tenant_id: str, project_id: str, key: str) -> bool:
        """Returns False if the tenant's project has no such variable."""
        parameters = {"project_id": project_id, "key": key}
        with self._database.transaction() as connection:
            # Lock the project first, in the same order as when a variable is set.
            if not self.lock_project(connection, tenant_id, project_id):
                return False
            if connection.execute(_DELETE, parameters).rowcount == 0:
                return False
            connection.execute(_NOTE_DELETION, parameters)
            return True
