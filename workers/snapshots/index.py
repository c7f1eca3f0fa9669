"""Which snapshot holds a stage's output, found by the digest of the stage's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import msgspec
from psycopg.types.json import Jsonb

from shared.db.database import Database
from shared.db.rows import columns_of


class SnapshotRecord(msgspec.Struct, frozen=True):
    """`digest` and `size_bytes` are of the snapshot; `output` is what the stage put out when it made it."""

    scope: str
    kind: str
    key: str
    group: str
    digest: str
    size_bytes: int
    components: dict[str, str]
    output: dict[str, Any]


_COLUMNS = columns_of(SnapshotRecord, group="group_name")


class SnapshotIndex:
    """Records are per tenant and scope: a build reads several scopes (its own first) and writes to its own.

    `group` gathers the outputs that succeed each other (a project's installs, say), so that a miss can be explained
    by comparing with the latest. A record doesn't promise that the object store still has the snapshot.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    _FIND: LiteralString = f"""
        SELECT {_COLUMNS} FROM snapshots
        WHERE tenant_id = %(tenant_id)s AND scope = ANY(%(scopes)s) AND kind = %(kind)s AND key = %(key)s
        ORDER BY array_position(%(scopes)s::text[], scope) LIMIT 1
    """  # noqa: S608 - constants only

    def find(self, tenant_id: str, scopes: Sequence[str], kind: str, key: str) -> SnapshotRecord | None:
        """The record in the first of the scopes that has one."""
        parameters = {"tenant_id": tenant_id, "scopes": list(scopes), "kind": kind, "key": key}
        return self._database.fetch_one(SnapshotRecord, self._FIND, parameters)

    _LATEST: LiteralString = f"""
        SELECT {_COLUMNS} FROM snapshots
        WHERE tenant_id = %(tenant_id)s AND scope = ANY(%(scopes)s) AND kind = %(kind)s AND group_name = %(group)s
        ORDER BY last_used_at DESC LIMIT 1
    """  # noqa: S608 - constants only

    def latest(self, tenant_id: str, scopes: Sequence[str], kind: str, group: str) -> SnapshotRecord | None:
        """The group's record that was made or used last, in any of the scopes."""
        parameters = {"tenant_id": tenant_id, "scopes": list(scopes), "kind": kind, "group": group}
        return self._database.fetch_one(SnapshotRecord, self._LATEST, parameters)

    _BEYOND: LiteralString = f"""
        SELECT {_COLUMNS} FROM snapshots
        WHERE tenant_id = %(tenant_id)s AND scope = %(scope)s AND kind = %(kind)s
        ORDER BY last_used_at DESC, key OFFSET %(count)s
    """  # noqa: S608 - constants only

    def beyond(self, tenant_id: str, scope: str, kind: str, count: int) -> list[SnapshotRecord]:
        """The scope's records of this kind except the `count` that were made or used last."""
        parameters = {"tenant_id": tenant_id, "scope": scope, "kind": kind, "count": count}
        return self._database.fetch_all(SnapshotRecord, self._BEYOND, parameters)

    _RECORD = """
        INSERT INTO snapshots (tenant_id, scope, kind, key, group_name, digest, size_bytes, components, output)
        VALUES (%(tenant_id)s, %(scope)s, %(kind)s, %(key)s, %(group)s, %(digest)s, %(size_bytes)s, %(components)s,
          %(output)s)
        ON CONFLICT (tenant_id, scope, kind, key) DO UPDATE SET
          group_name = excluded.group_name, digest = excluded.digest, size_bytes = excluded.size_bytes,
          components = excluded.components, output = excluded.output, last_used_at = now()
    """

    def record(
        self,
        *,
        tenant_id: str,
        scope: str,
        kind: str,
        key: str,
        group: str,
        digest: str,
        size_bytes: int,
        components: Mapping[str, str],
        output: Mapping[str, Any],
    ) -> None:
        """Records an output, in place of an earlier one of the same key. May be repeated."""
        parameters = {
            "tenant_id": tenant_id,
            "scope": scope,
            "kind": kind,
            "key": key,
            "group": group,
            "digest": digest,
            "size_bytes": size_bytes,
            "components": Jsonb(dict(components)),
            "output": Jsonb(dict(output)),
        }
        with self._database.transaction() as connection:
            connection.execute(self._RECORD, parameters)

    _TOUCH = """
        UPDATE snapshots SET last_used_at = now()
        WHERE tenant_id = %(tenant_id)s AND scope = %(scope)s AND kind = %(kind)s AND key = %(key)s
          AND last_used_at < now() - interval '1 minute'
    """

    def touch(self, tenant_id: str, record: SnapshotRecord) -> None:
        """Notes that the record was used, to the minute: a commit that writes waits for the disk, in every stage."""
        parameters = {"tenant_id": tenant_id, "scope": record.scope, "kind": record.kind, "key": record.key}
        with self._database.transaction() as connection:
            connection.execute(self._TOUCH, parameters)

    _FORGET = """
        DELETE FROM snapshots
        WHERE tenant_id = %(tenant_id)s AND scope = %(scope)s AND kind = %(kind)s AND key = %(key)s
          AND digest = %(digest)s
    """

    def forget(self, tenant_id: str, record: SnapshotRecord) -> None:
        """Removes a record whose snapshot turned out to be gone; a newer one under the same key stays."""
        parameters = {
            "tenant_id": tenant_id,
            "scope": record.scope,
            "kind": record.kind,
            "key": record.key,
            "digest": record.digest,
        }
        with self._database.transaction() as connection:
            connection.execute(self._FORGET, parameters)

    _IS_REFERENCED = "SELECT 1 FROM snapshots WHERE tenant_id = %(tenant_id)s AND digest = %(digest)s LIMIT 1"

    def is_referenced(self, tenant_id: str, digest: str) -> bool:
        """Whether any record leads to the snapshot."""
        parameters = {"tenant_id": tenant_id, "digest": digest}
        return self._database.exists(self._IS_REFERENCED, parameters)
