"""The object of a log goes with its deployment, whatever the compactor is about to do."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.administration.restore import accept_restore
from shared.db.database import Database
from shared.deployments.jobs import cleanup_job
from shared.logs.archive.compactor import LogCompactor
from shared.logs.archive.store import ArchiveReader, LogArchiveRemover
from shared.logs.base import LogHead
from shared.logs.store import PostgresLogStore
from shared.plans import LIMITS, Plan
from shared.settings import ObjectStoreSettings
from shared.storage.object_store import S3ArtifactStore
from tests.support.artifact_stores import MemoryArtifactStore, ObservedArtifactStore
from tests.support.deployment_world import create, settings, world
from tests.support.held_lease import HeldLease
from tests.support.log_rows import end, eventually, line, new_deployment, texts
from workers.jobs.cleanup_runner import CleanupRunner

__all__ = ["settings", "world"]
pytestmark = pytest.mark.integration


class Removal:
    """A platform on which deployments are made, ended and deleted, with an object store that is observed."""

    def __init__(self, world: Any, directory: Path) -> None:
        self.world = world
        self.memory = MemoryArtifactStore()
        self.store = ObservedArtifactStore(self.memory)
        self.compactor = LogCompactor(
            database=world.database, store=self.store, directory=directory / "archives", after_seconds=0.0
        )
        self.cleaner_store = ObservedArtifactStore(self.memory)
        self.cleaner = CleanupRunner(
            database=world.database,
            sites=world.sites,
            deployments=world.service,
            publisher=world.publisher,
            log_archives=LogArchiveRemover(self.cleaner_store),
        )
        self.reader = PostgresLogStore(world.database, ArchiveReader(self.memory))

    def ended(self) -> str:
        deployment_id = create(self.world)
        self.world.service.cancel(self.world.tenant_id, deployment_id)
        assert self.reader.head(deployment_id).is_closed
        return deployment_id

    def delete(self, deployment_id: str) -> None:
        self.world.service.delete(self.world.tenant_id, deployment_id)

    def clean_up(self, subject_id: str) -> str:
        job = cleanup_job(subject_id=subject_id, tenant_id=self.world.tenant_id, limits=LIMITS[Plan.FREE])
        lease = HeldLease(job, 1)
        self.cleaner.run(lease)
        return lease.outcome[0]

    def delete_project(self) -> None:
        with self.world.database.transaction() as connection:
            connection.execute("UPDATE projects SET deleting_at = now() WHERE id = %s", (self.world.project_id,))

    def keys_of(self, deployment_id: str) -> list[str]:
        return [key for key in self.memory.objects if deployment_id in key]


@pytest.fixture
def removal(world: Any, tmp_path: Path) -> Removal:
    return Removal(world, tmp_path)


def test_a_deleted_deployment_takes_its_object_along(removal: Removal) -> None:
    kept, gone = removal.ended(), removal.ended()
    assert removal.compactor.run_once() == 2
    removal.delete(gone)
    assert removal.clean_up(gone) == "done"
    assert removal.keys_of(gone) == []
    assert removal.world.sites.find(gone) is None
    assert len(removal.keys_of(kept)) == 1
    assert removal.clean_up(kept) == "done", "nobody asked for the removal of this one"
    assert len(removal.keys_of(kept)) == 1
    assert removal.reader.read(kept, after=0, limit=9)


def test_a_deleted_project_takes_the_objects_along(removal: Removal) -> None:
    logs = [removal.ended() for _ in range(3)]
    assert removal.compactor.run_once() == 3
    removal.delete_project()
    assert removal.clean_up(removal.world.project_id) == "done"
    assert removal.memory.objects == {}
    assert [removal.world.sites.find(log) for log in logs] == [None] * 3


def test_an_expired_preview_keeps_its_log(removal: Removal) -> None:
    log = removal.ended()
    assert removal.compactor.run_once() == 1
    with removal.world.database.transaction() as connection:
        connection.execute("UPDATE deployments SET site_state = 'removing' WHERE id = %s", (log,))
    assert removal.clean_up(log) == "done"
    assert removal.world.sites.find(log).site_state == "removed"
    assert removal.reader.read(log, after=0, limit=9)


def test_a_store_that_is_away_delays_the_removal(removal: Removal) -> None:
    log = removal.ended()
    assert removal.compactor.run_once() == 1
    removal.delete(log)
    removal.cleaner_store.is_away = True
    assert removal.clean_up(log) == "retry"
    assert removal.world.sites.find(log) is not None, "the row leads to the object"
    removal.cleaner_store.is_away = False
    assert removal.clean_up(log) == "done"
    assert removal.memory.objects == {}
    # Delivered once more, after an upload that was on its way arrived.
    removal.memory.put_bytes(f"logs/{removal.world.tenant_id}/{log}/late.zst", b"late")
    assert removal.clean_up(log) == "done"
    assert removal.memory.objects == {}


STEPS = ["before put_file", "after put_file", "before get_file", "after get_file"]


@pytest.mark.parametrize("is_project", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_removal_while_the_compactor_writes(removal: Removal, step: str, is_project: bool) -> None:
    log = removal.ended()

    def remove_all() -> None:
        if is_project:
            removal.delete_project()
            assert removal.clean_up(removal.world.project_id) == "done"
        else:
            removal.delete(log)
            assert removal.clean_up(log) == "done"

    during(removal, step, remove_all)
    assert removal.memory.objects == {}
    assert removal.world.sites.find(log) is None


@pytest.mark.parametrize("is_project", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_removal_that_begins_while_the_compactor_writes(removal: Removal, step: str, is_project: bool) -> None:
    """The request is accepted while the compactor works, the removal itself comes afterwards."""
    log = removal.ended()
    during(removal, step, removal.delete_project if is_project else lambda: removal.delete(log))
    assert removal.memory.objects == {}
    assert removal.clean_up(removal.world.project_id if is_project else log) == "done"
    assert removal.world.sites.find(log) is None
    assert removal.memory.objects == {}


def during(removal: Removal, step: str, act: Callable[[], None]) -> None:
    """Compacts, and acts at that step."""
    acted: list[str] = []

    def observe(seen: str) -> None:
        if seen == step and not acted:
            acted.append(seen)
            act()

    removal.store.observe = observe
    assert removal.compactor.run_once() == 0
    assert acted == [step]


def test_a_compactor_that_dies_while_the_deployment_goes_leaves_its_object_to_the_sweep(removal: Removal) -> None:
    class Death(BaseException):
        pass

    log = removal.ended()
    removal.delete(log)
    with removal.world.database.transaction() as connection:
        connection.execute("UPDATE deployments SET deleting_at = NULL WHERE id = %s", (log,))

    def observe(step: str) -> None:
        if step == "before put_file":
            with removal.world.database.transaction() as connection:
                connection.execute("UPDATE deployments SET deleting_at = now() WHERE id = %s", (log,))
            assert removal.clean_up(log) == "done"
        if step == "after put_file":
            raise Death

    removal.store.observe = observe
    with pytest.raises(Death):
        removal.compactor.run_once()
    assert len(removal.keys_of(log)) == 1
    # After a restore of an older backup, a newer one may need it.
    with removal.world.database.transaction() as connection:
        connection.execute("INSERT INTO restores (backup_created_at, backup_version) VALUES (now(), '1')")
    assert removal.compactor.sweep() == 0
    assert accept_restore(removal.world.database)
    assert removal.compactor.sweep() == 1
    assert removal.memory.objects == {}
    assert removal.compactor.sweep() == 0


def test_the_reconciler_process_moves_finished_logs(
    database_url: str, database: Database, redis_url: str, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> None:
    objects = S3ArtifactStore(object_store_settings)
    store = PostgresLogStore(database, ArchiveReader(objects))
    log = new_deployment(database)
    with database.transaction() as connection:
        # Of a deployment that the reconciler has nothing else to do with.
        connection.execute(
            "UPDATE deployments SET status = 'cancelled', finished_at = now() - interval '1 hour' WHERE id = %s", (log,)
        )
        store.append(connection, log, [line("a"), line("b"), end("cancelled")], fence=None)
        connection.execute("UPDATE log_heads SET closed_at = now() - interval '1 hour'")
    environment = {
        **os.environ,
        "CLOUDIFY_HOME": str(tmp_path),
        "CLOUDIFY_DATABASE_URL": database_url,
        "CLOUDIFY_REDIS_URL": redis_url,
        "CLOUDIFY_S3_ENDPOINT": object_store_settings.endpoint,
        "CLOUDIFY_S3_ACCESS_KEY": object_store_settings.access_key,
        "CLOUDIFY_S3_SECRET_KEY": object_store_settings.secret_key,
        "CLOUDIFY_S3_BUCKET": object_store_settings.bucket,
        "CLOUDIFY_SECRET_KEY": "x" * 32,
        "CLOUDIFY_ENCRYPTION_KEYS": "k1:" + base64.b64encode(b"1" * 32).decode(),
        "CLOUDIFY_METRICS_PORT": "0",
    }
    process = subprocess.Popen([sys.executable, "-m", "workers.reconciler"], env=environment)
    try:
        is_archived = "SELECT 1 FROM log_heads WHERE deployment_id = %(id)s AND is_archived"
        eventually(lambda: database.exists(is_archived, {"id": log}), 60)
        assert not database.exists("SELECT 1 FROM log_chunks")
        assert texts(store.read(log, after=0, limit=9)) == ["a", "b"]
        assert store.head(log) == LogHead(3, is_closed=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert len(list(objects.list("logs/"))) == 1
