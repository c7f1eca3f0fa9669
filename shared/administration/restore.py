"""Restores a backup into an empty database, so that a platform can start on it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from shared.accounts.session_repository import SessionRepository
from shared.accounts.ticket_repository import StreamTicketRepository
from shared.administration.backup_file import BackupFile, BackupManifest, open_backup
from shared.db.database import Connection, Database
from shared.db.dump import DumpError, direct_connection, empty, other_clients, relations, restore, server_major
from shared.db.migrate import begin_restoring, end_restoring, migrate, migrations
from shared.db.schema_version import RESTORING, is_restoring
from shared.deployments.stage_run_repository import StageRunRepository
from shared.queue.base import PoolStats
from shared.routing.log import RouteLog
from shared.routing.routers import RouterRepository
from shared.secrets_box import key_fingerprint
from shared.text.wording import counted

_RECORD = "INSERT INTO restores (backup_created_at, backup_version) VALUES (%(created_at)s, %(version)s)"


class RestoreRefused(Exception):
    """Nothing was changed. The message says why and what to do."""


class RestoredQueue(Protocol):
    """The part of shared.queue.job_queue that a restore uses. Every call may raise QueueUnavailable."""

    def stats(self) -> list[PoolStats]: ...

    def clear(self) -> None: ...


def restore_backup(
    database_url: str,
    path: Path,
    *,
    queue: RestoredQueue,
    encryption_keys: Mapping[str, bytes],
    is_forced: bool,
) -> BackupManifest:
    """Restores the backup and brings the database to this version.

    `is_forced`: replaces what the database and the queue hold. Until everything is done, no process starts on the
    database; after a crash the restore can be repeated. Raises RestoreRefused, BackupInvalid, DumpError,
    MigrationError, Unavailable, OSError.
    """
    with open_backup(path) as backup:
        _check_manifest(backup.manifest, encryption_keys)
        backup.check()
        with direct_connection(database_url) as connection:
            _check_target(connection, queue, is_forced=is_forced)
            begin_restoring(connection)
            empty(connection, keep=RESTORING)
            _restore_dump(database_url, connection, backup)
        migrate(database_url, in_restore=True)
        # Its jobs belong to another state of the database.
        queue.clear()
        _prepare_start(database_url, backup.manifest)
        return backup.manifest


def _check_manifest(manifest: BackupManifest, keys: Mapping[str, bytes]) -> None:
    known = {name for name, _ in migrations()}
    newer = [migration.name for migration in manifest.migrations if migration.name not in known]
    if newer:
        raise RestoreRefused(
            f"The backup is of a newer version of Cloudify ({manifest.version}, with the migration {newer[-1]}); "
            "restore it with that version."
        )
    absent = [key_id for key_id in manifest.encryption_keys if key_id not in keys]
    if absent:
        raise RestoreRefused(
            f"Secrets of the backup are encrypted with {', '.join(map(repr, absent))}, which CLOUDIFY_ENCRYPTION_KEYS "
            "doesn't list; add the keys of the platform that the backup is of."
        )
    for key_id, fingerprint in manifest.encryption_keys.items():
        if fingerprint not in (None, key_fingerprint(keys[key_id])):
            raise RestoreRefused(
                f"The key {key_id!r} in CLOUDIFY_ENCRYPTION_KEYS is not that of the backup; set the keys of the "
                "platform that the backup is of."
            )


def _check_target(connection: Connection, queue: RestoredQueue, *, is_forced: bool) -> None:
    others = other_clients(connection)
    if others:
        raise RestoreRefused(
            f"The database is in use ({', '.join(others)}). Stop the platform; its last connections end "
            "within a minute."
        )
    # What an unfinished restore left is of no use.
    found = [] if is_restoring(connection) else relations(connection)
    if found and not is_forced:
        raise RestoreRefused(
            f"The database is not empty (it has {', '.join(found)}, …); name an empty one, or replace everything that "
            "it holds with --force."
        )
    jobs = sum(row.depth + row.inflight + row.delayed + row.dead for row in queue.stats())
    if jobs and not is_forced:
        raise RestoreRefused(
            f"The queue in Redis is not empty ({counted(jobs, 'job')}); name an empty Redis, or delete the jobs with "
            "--force."
        )


def _restore_dump(database_url: str, connection: Connection, backup: BackupFile) -> None:
    manifest = backup.manifest
    with backup.dump() as source:
        restore(database_url, server_major=server_major(connection), dumped_major=manifest.postgres, source=source)
    restored = connection.fetch_values(str, "SELECT name FROM schema_migrations ORDER BY name")
    if restored != [migration.name for migration in manifest.migrations]:
        raise DumpError("The backup is damaged: its dump and its manifest are of different versions.")


def _prepare_start(database_url: str, manifest: BackupManifest) -> None:
    """Ends what belongs to the platform that the backup is of, and lets processes start."""
    database = Database(database_url)
    try:
        with database.transaction() as connection:
            SessionRepository(database).end_all(connection)
            StreamTicketRepository(database).delete_all(connection)
            # The reconciler enqueues the deployments again.
            StageRunRepository(database).interrupt_all(connection, message="The platform was restored from a backup.")
            RouterRepository(database).forget_all(connection)
            RouteLog(database).renew_epoch(connection, uuid.uuid4().hex)
            connection.execute(_RECORD, {"created_at": manifest.created_at, "version": manifest.version})
            end_restoring(connection)
    finally:
        database.close()


def accept_restore(database: Database) -> bool:
    """Says that nothing else will be restored: objects that no deployment needs may be deleted again.

    Returns whether that changes anything.
    """
    with database.transaction() as connection:
        return connection.execute("UPDATE restores SET is_complete = true WHERE NOT is_complete").rowcount > 0
