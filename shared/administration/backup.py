"""Takes a backup: the database as it was at one moment, and what else has to be there to restore it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, LiteralString

from psycopg import sql

from shared.administration.backup_file import AppliedMigration, BackupManifest, NeededArtifact, write_backup
from shared.db.database import Connection
from shared.db.dump import Dumped, DumpError, Snapshot, dump, snapshot
from shared.db.migrate import check_not_restoring
from shared.releases.route_repair import SERVED
from shared.secrets_box import key_fingerprint

# Every table whose rows are encrypted has this column.
_ENCRYPTED_TABLES = """
SELECT table_name::text FROM information_schema.columns
WHERE table_schema = 'public' AND column_name = 'key_id' ORDER BY 1
"""
_ARTIFACTS: LiteralString = f"""
SELECT tenant_id, manifest_digest, array_agg(host ORDER BY host) AS hosts FROM ({SERVED}) AS served
GROUP BY tenant_id, manifest_digest ORDER BY tenant_id, manifest_digest
"""  # noqa: S608 - constants only


def take_backup(database_url: str, path: Path, *, encryption_keys: Mapping[str, bytes]) -> BackupManifest:
    """Writes a backup of the database to `path`. The platform may be running.

    `encryption_keys` (id → key) are recorded by fingerprint. Raises DumpError, MigrationError, OSError.
    """
    with snapshot(database_url) as seen:
        if seen.connection.fetch_value(bool, "SELECT to_regclass('schema_migrations') IS NULL"):
            raise DumpError("The database holds no platform; there is nothing to back up.")
        check_not_restoring(seen.connection)

        def write(target: IO[bytes]) -> BackupManifest:
            return _manifest(seen, dump(database_url, seen, target), encryption_keys)

        return write_backup(path, write)


def _manifest(seen: Snapshot, dumped: Dumped, keys: Mapping[str, bytes]) -> BackupManifest:
    used = encryption_key_ids(seen.connection)
    return BackupManifest(
        version=version("cloudify"),
        created_at=datetime.now(UTC),
        postgres=seen.server_major,
        migrations=seen.connection.fetch_all(
            AppliedMigration, "SELECT name, checksum FROM schema_migrations ORDER BY name"
        ),
        encryption_keys={key_id: key_fingerprint(keys[key_id]) if key_id in keys else None for key_id in used},
        artifacts=needed_artifacts(seen.connection),
        dump_digest=dumped.digest,
        dump_bytes=dumped.size_bytes,
    )


def encryption_key_ids(connection: Connection) -> list[str]:
    """The ids of the keys that stored secrets are encrypted with."""
    found: set[str] = set()
    for table in connection.fetch_values(str, _ENCRYPTED_TABLES):
        query = sql.SQL("SELECT DISTINCT key_id FROM public.{}").format(sql.Identifier(table))
        found.update(str(key_id) for (key_id,) in connection.execute(query).fetchall())
    return sorted(found)


def needed_artifacts(connection: Connection) -> list[NeededArtifact]:
    """What the sites that should be served need of the object store."""
    return connection.fetch_all(NeededArtifact, _ARTIFACTS)
