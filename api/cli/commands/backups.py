"""`cloudify admin backup`, `restore` and `missing-objects`."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from api.cli.platform_settings import platform_settings
from shared.text.wording import counted

if TYPE_CHECKING:
    from shared.administration.missing_objects import Comparison
    from shared.settings import Settings

_SHOWN_OBJECTS = 1000
_DATABASE_URL = click.option(
    "--database-url",
    metavar="URL",
    help="PostgreSQL itself, where CLOUDIFY_DATABASE_URL is a pooler's address.",
    envvar="CLOUDIFY_DIRECT_DATABASE_URL",
)
_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.command()
@_FILE
@_DATABASE_URL
def backup(file: Path, database_url: str | None) -> None:
    """Write a backup of the platform to FILE, which replaces a former one. The platform may be running.

    It holds the database. Secrets in it stay encrypted: keep the values of CLOUDIFY_ENCRYPTION_KEYS elsewhere. The
    objects are not in it: back up the bucket by its own means, not before the database.
    """
    from shared.administration.backup import take_backup
    from shared.db.dump import DumpError
    from shared.db.schema_version import MigrationError

    settings = platform_settings()
    try:
        manifest = take_backup(
            database_url or settings.database.url, file.absolute(), encryption_keys=settings.secrets.encryption_keys
        )
    except (DumpError, MigrationError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{file} can't be written: {error.strerror or error}.") from error
    sites = sum(len(artifact.hosts) for artifact in manifest.artifacts)
    keys = ", ".join(manifest.encryption_keys) or "none"
    for key_id, fingerprint in manifest.encryption_keys.items():
        if fingerprint is None:
            click.echo(f"Secrets are encrypted with {key_id!r}, which CLOUDIFY_ENCRYPTION_KEYS doesn't list.", err=True)
    click.echo(f"Wrote {file} ({file.stat().st_size / 1e6:.1f} MB): {counted(sites, 'site')}; encryption keys: {keys}.")


@click.command()
@_FILE
@_DATABASE_URL
@click.option("--force", is_flag=True, help="Delete everything that the database and the queue hold first.")
def restore(file: Path, database_url: str | None, *, force: bool) -> None:
    """Restore the backup FILE into an empty database. The platform must not run.

    Needs the encryption keys of the platform that the backup is of, and a bucket with its objects; objects of sites
    that are missing there are listed. Everyone has to sign in again; API tokens stay valid. Interrupted deployments
    continue when the platform starts. Without CLOUDIFY_DATABASE_URL, the database in CLOUDIFY_HOME is started for it.
    """
    from shared.administration.backup_file import BackupInvalid
    from shared.administration.restore import RestoreRefused, restore_backup
    from shared.db.dump import DumpError
    from shared.db.schema_version import MigrationError
    from shared.errors import Unavailable
    from shared.queue.connection import connect_redis
    from shared.queue.job_queue import RedisJobQueue

    with _stopped_platform() as settings, closing(connect_redis(settings.queue.redis_url)) as redis:
        queue = RedisJobQueue(redis, lease_seconds=settings.queue.lease_seconds)
        try:
            manifest = restore_backup(
                database_url or settings.database.url,
                file,
                queue=queue,
                encryption_keys=settings.secrets.encryption_keys,
                is_forced=force,
            )
        except (RestoreRefused, BackupInvalid, DumpError, MigrationError, Unavailable) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{file} can't be read: {error.strerror or error}.") from error
        click.echo(f"Restored the backup of {manifest.created_at:%Y-%m-%d %H:%M} UTC (Cloudify {manifest.version}).")
        comparison = _compare(settings, database_url)
        if isinstance(comparison, str):
            click.echo(f"Objects were not compared: {comparison} Run `cloudify admin missing-objects` later.", err=True)
        else:
            _show(comparison)


@click.command("missing-objects")
@_DATABASE_URL
@click.option(
    "--accept", is_flag=True, help="After a restore: what is missing stays missing, and no other one follows."
)
def missing_objects(database_url: str | None, *, accept: bool) -> None:
    """List the objects of live sites that the bucket lacks, as after a restore. Ends with 1 if there are any.

    Until --accept, a restored platform deletes no object for belonging to no deployment.
    """
    settings = platform_settings()
    if accept:
        _accept(settings, database_url)
    comparison = _compare(settings, database_url)
    if isinstance(comparison, str):
        raise click.ClickException(comparison)
    _show(comparison)
    if comparison.missing:
        raise click.exceptions.Exit(1)


def _accept(settings: Settings, database_url: str | None) -> None:
    from shared.administration.restore import accept_restore
    from shared.db.database import Database
    from shared.errors import Unavailable

    database = Database(database_url or settings.database.url, is_pooled=settings.database.is_pooled)
    try:
        if accept_restore(database):
            click.echo("The restore is complete; objects that no deployment needs are deleted again.", err=True)
    except Unavailable as error:
        raise click.ClickException(error.message) from error
    finally:
        database.close()


def _compare(settings: Settings, database_url: str | None) -> Comparison | str:
    """What is missing, or why that isn't known."""
    from shared.administration.missing_objects import ObjectComparison
    from shared.db.database import Database
    from shared.errors import PlatformError, Unavailable
    from shared.storage.object_store import S3ArtifactStore

    database = Database(database_url or settings.database.url, is_pooled=settings.database.is_pooled)
    try:
        return ObjectComparison(
            database, S3ArtifactStore(settings.object_store, ca_bundle=settings.network.ca_bundle)
        ).compare()
    except (Unavailable, PlatformError) as error:
        return str(error)
    finally:
        database.close()


def _show(comparison: Comparison) -> None:
    for found in comparison.missing[:_SHOWN_OBJECTS]:
        click.echo(f"{found.problem} {found.key} ({', '.join(found.hosts)})")
    if len(comparison.missing) > _SHOWN_OBJECTS:
        click.echo(f"… and {len(comparison.missing) - _SHOWN_OBJECTS} more")
    hosts = {host for found in comparison.missing for host in found.hosts}
    if hosts:
        text = (
            f"{counted(len(hosts), 'site')} of {comparison.sites} can't be served whole: "
            f"{counted(len(comparison.missing), 'object')} missing or damaged. Copy them into the bucket, or "
            "deploy again."
        )
    else:
        text = f"The bucket holds all objects of {counted(comparison.sites, 'site')}."
    click.echo(text, err=True)
    rest = [
        (comparison.rollback_manifests, "manifest", "deployments can't become production again"),
        (comparison.log_archives, "log archive", "these logs can't be read"),
        (comparison.snapshots, "snapshot", "builds make them again"),
    ]
    for count, noun, effect in rest:
        if count:
            click.echo(f"Also missing: {counted(count, noun)} ({effect}).", err=True)


@contextmanager
def _stopped_platform() -> Generator[Settings]:
    """The settings of the environment; without a database there, the stores of the home run in the block."""
    if os.environ.get("CLOUDIFY_DATABASE_URL") or os.environ.get("CLOUDIFY_DATABASE_URL_FILE"):
        yield platform_settings()
        return
    from shared.settings import SettingsError
    from shared.stack.errors import StackError
    from shared.stack.home import Home
    from shared.stack.stores import running_stores
    from shared.stack.supervisor import StopRequested

    home = Home(Path(os.environ.get("CLOUDIFY_HOME") or ".cloudify").absolute())
    try:
        with running_stores(home, os.environ, partial(click.echo, err=True)) as settings:
            yield settings
    except (StackError, SettingsError) as error:
        raise click.ClickException(str(error)) from error
    except StopRequested as error:
        raise click.Abort from error
