"""A backup is one moment of the database; restored, it is a platform that can start."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import psycopg
import pytest

from schemas.messages import Job
from shared.administration.backup import take_backup
from shared.administration.backup_file import BackupInvalid, open_backup
from shared.administration.restore import RestoreRefused, accept_restore, restore_backup
from shared.db import dump as dump_module
from shared.db.database import Database
from shared.db.dump import DumpError
from shared.db.migrate import MigrationError, begin_restoring, is_migrated, migrate, migrations
from shared.db.postgres_programs import PostgresProgram
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.routing.log import RouteLog
from shared.stack.postgres import PostgresServer
from tests.support.databases import fresh_database

pytestmark = pytest.mark.integration

KEYS = {"first": b"1" * 32, "second": b"2" * 32}
DIGEST = "a" * 64


class Restore(Protocol):
    def __call__(self, url: str, file: Path, *, is_forced: bool = ..., keys: Mapping[str, bytes] = ...) -> None: ...


ROWS = """
INSERT INTO users (id, email, password_hash) VALUES ('user_1', 'ada@example.com', 'x');
INSERT INTO tenants (id, name, personal_user_id) VALUES ('tenant_1', 'x', 'user_1');
INSERT INTO api_tokens (id, user_id, name, prefix, token_hash) VALUES ('tok_1', 'user_1', 'ci', 'p', sha256('t'));
INSERT INTO sessions (id, family_id, user_id, refresh_token_hash, expires_at)
VALUES ('s', 'login_1', 'user_1', sha256('s'), now() + interval '1 day');
INSERT INTO stream_tickets (ticket_hash, user_id, token_id, expires_at)
VALUES (sha256('x'), 'user_1', 'tok_1', now() + interval '1 minute');
INSERT INTO projects (id, tenant_id, name, slug, release_sequence) VALUES ('proj_1', 'tenant_1', 'hello', 'hello', 2);
INSERT INTO environment_variables (id, project_id, key, targets, key_id, wrapped_key, ciphertext)
VALUES ('var_1', 'proj_1', 'A', '{production}', 'first', '\\x01', '\\x02');
INSERT INTO deployments (id, tenant_id, project_id, status, repository_url, branch, release_sequence, host, site_state,
  manifest_digest, is_active, finished_at)
VALUES ('depl_1', 'tenant_1', 'proj_1', 'ready', 'https://x.example/r', 'main', 1, 'hello', 'published',
  repeat('a', 64), true, now());
INSERT INTO deployments (id, tenant_id, project_id, status, repository_url, branch, release_sequence, host)
VALUES ('depl_2', 'tenant_1', 'proj_1', 'building', 'https://x.example/r', 'main', 2, 'hello');
INSERT INTO stage_runs (deployment_id, stage, fence, attempt, worker) VALUES ('depl_2', 'build', 7, 1, 'w');
INSERT INTO routers (id, machine, version, url, epoch, applied_number) VALUES ('r', 'm', '1', 'http://x', 'e', 1);
"""


@pytest.fixture
def source(database_url: str) -> str:
    with psycopg.connect(database_url) as connection:
        connection.execute(ROWS)
    return database_url


@pytest.fixture
def target(postgres_server: PostgresServer) -> Iterator[str]:
    with fresh_database(postgres_server, "template0") as url:
        yield url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "platform.backup"


@contextmanager
def rows_of(url: str) -> Iterator[Database]:
    with closing(Database(url)) as database:
        yield database


@pytest.fixture
def queue(redis_url: str) -> Iterator[RedisJobQueue]:
    with closing(connect_redis(redis_url)) as redis:
        yield RedisJobQueue(redis, lease_seconds=60)


@pytest.fixture
def restore(queue: RedisJobQueue) -> Restore:
    def run(url: str, file: Path, *, is_forced: bool = False, keys: Mapping[str, bytes] = KEYS) -> None:
        restore_backup(url, file, queue=queue, encryption_keys=keys, is_forced=is_forced)

    return run


def test_everything_is_there_again_but_what_belongs_to_the_former_platform(
    restore: Restore, source: str, target: str, file: Path
) -> None:
    manifest = take_backup(source, file, encryption_keys=KEYS)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [child.name for child in file.parent.iterdir()] == [file.name]
    assert [(one.tenant_id, one.manifest_digest, one.hosts) for one in manifest.artifacts] == [
        ("tenant_1", DIGEST, ["hello"])
    ]
    assert list(manifest.encryption_keys) == ["first"]
    with zipfile.ZipFile(file) as archive:
        assert b"1" * 32 not in archive.read("manifest.json")
    with rows_of(source) as before:
        epoch = RouteLog(before).position().epoch

    restore(target, file)
    assert is_migrated(target)
    with rows_of(target) as after:
        assert after.fetch_values(str, "SELECT id FROM deployments ORDER BY id") == ["depl_1", "depl_2"]
        assert after.fetch_values(str, "SELECT id FROM live_api_tokens") == ["tok_1"]
        for table in ("logins", "sessions", "stream_tickets", "routers"):
            assert after.fetch_value(int, f"SELECT count(*) FROM {table}") == 0, table  # type: ignore[arg-type]
        assert after.fetch_value(str, "SELECT status::text FROM stage_runs") == "retrying"
        assert after.fetch_value(str, "SELECT status::text FROM deployments WHERE id = 'depl_2'") == "building"
        assert RouteLog(after).position().epoch != epoch
        assert [accept_restore(after), accept_restore(after)] == [True, False]


def test_a_restored_database_can_be_backed_up_and_restored_again(
    restore: Restore, source: str, target: str, file: Path
) -> None:
    take_backup(source, file, encryption_keys=KEYS)
    restore(target, file)
    take_backup(target, file, encryption_keys=KEYS)
    restore(target, file, is_forced=True)
    with rows_of(target) as after:
        assert after.fetch_value(int, "SELECT count(*) FROM deployments") == 2


def test_a_database_that_holds_something_is_only_replaced_by_force(
    restore: Restore, source: str, target: str, file: Path
) -> None:
    take_backup(source, file, encryption_keys=KEYS)
    with psycopg.connect(target) as connection:
        connection.execute("CREATE TABLE precious (id int)")
    with pytest.raises(RestoreRefused, match=r"not empty \(it has precious"):
        restore(target, file)
    with rows_of(target) as untouched:
        assert untouched.exists("SELECT 1 WHERE to_regclass('precious') IS NOT NULL")
    restore(target, file, is_forced=True)
    with rows_of(target) as after:
        assert not after.exists("SELECT 1 WHERE to_regclass('precious') IS NOT NULL")


def test_a_database_in_use_is_not_replaced(restore: Restore, source: str, target: str, file: Path) -> None:
    take_backup(source, file, encryption_keys=KEYS)
    with psycopg.connect(target, application_name="cloudify worker"):
        with pytest.raises(RestoreRefused, match=r"in use \(cloudify worker\)"):
            restore(target, file, is_forced=True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"second": KEYS["second"]}, "encrypted with 'first', which CLOUDIFY_ENCRYPTION_KEYS doesn't list"),
        ({"first": KEYS["second"]}, "'first' in CLOUDIFY_ENCRYPTION_KEYS is not that of the backup"),
    ],
)
def test_secrets_that_could_not_be_read_are_refused(
    restore: Restore, source: str, target: str, file: Path, keys: dict[str, bytes], message: str
) -> None:
    take_backup(source, file, encryption_keys=KEYS)
    with pytest.raises(RestoreRefused, match=message):
        restore(target, file, keys=keys)
    with rows_of(target) as untouched:
        assert not untouched.exists("SELECT 1 FROM pg_tables WHERE schemaname = 'public'")


def test_a_backup_of_a_newer_version_is_refused(restore: Restore, source: str, target: str, file: Path) -> None:
    with psycopg.connect(source) as connection:
        connection.execute("INSERT INTO schema_migrations (name, checksum) VALUES ('9999_later.sql', 'x')")
    take_backup(source, file, encryption_keys=KEYS)
    with pytest.raises(RestoreRefused, match=r"newer version of Cloudify \(.*9999_later.sql"):
        restore(target, file)


def test_a_backup_of_an_older_version_is_brought_to_this_one(
    restore: Restore, postgres_server: PostgresServer, target: str, file: Path
) -> None:
    with fresh_database(postgres_server, "template0") as older:
        with psycopg.connect(older) as connection:
            connection.execute("CREATE TABLE schema_migrations (name text PRIMARY KEY, checksum text, applied_at date)")
            for name, statements in migrations():
                if name < "0012":
                    connection.execute(statements.encode())
                    checksum = hashlib.sha256(statements.encode()).hexdigest()
                    connection.execute("INSERT INTO schema_migrations VALUES (%s, %s)", (name, checksum))
        take_backup(older, file, encryption_keys=KEYS)
    restore(target, file)
    assert is_migrated(target)


def test_a_damaged_file_changes_nothing(restore: Restore, source: str, target: str, file: Path) -> None:
    take_backup(source, file, encryption_keys=KEYS)
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5000] + b"x" * 100 + whole[5100:], b"text", b""):
        file.write_bytes(damaged)
        with pytest.raises(BackupInvalid):
            restore(target, file)
    with rows_of(target) as untouched:
        assert not untouched.exists("SELECT 1 FROM pg_tables WHERE schemaname = 'public'")


def test_no_process_starts_on_a_restore_that_was_cut_off_and_it_can_be_repeated(
    restore: Restore, source: str, target: str, file: Path
) -> None:
    take_backup(source, file, encryption_keys=KEYS)
    restore(target, file)
    # As a crash between the dump and the last step leaves it.
    with psycopg.connect(target, autocommit=True) as connection:
        begin_restoring(connection)
    assert not is_migrated(target)
    for attempt in (lambda: migrate(target), lambda: take_backup(target, file, encryption_keys=KEYS)):
        with pytest.raises(MigrationError, match="has not finished"):
            attempt()
    restore(target, file)
    assert is_migrated(target)


def test_a_backup_sees_one_moment(
    restore: Restore, source: str, file: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed while it is taken is neither in the dump nor in the manifest."""
    find = dump_module.find_program

    def change_and_find(name: str, *, least_major: int) -> PostgresProgram:
        with psycopg.connect(source) as connection:
            connection.execute("UPDATE environment_variables SET key_id = 'second'")
        return find(name, least_major=least_major)

    monkeypatch.setattr(dump_module, "find_program", change_and_find)
    assert list(take_backup(source, file, encryption_keys=KEYS).encryption_keys) == ["first"]
    monkeypatch.undo()
    restore(target, file)
    with rows_of(target) as after:
        assert after.fetch_value(str, "SELECT key_id FROM environment_variables") == "first"


def test_a_failed_backup_leaves_the_former_one(source: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_backup(source, file, encryption_keys=KEYS)
    former = file.read_bytes()
    monkeypatch.setattr(dump_module, "find_program", lambda name, least_major: PostgresProgram(Path("/bin/false"), 18))
    with pytest.raises(DumpError, match="false ended with exit code 1"):
        take_backup(source, file, encryption_keys=KEYS)
    assert file.read_bytes() == former
    assert [child.name for child in file.parent.iterdir()] == [file.name]
    with open_backup(file) as backup:
        backup.check()


def test_a_queue_of_another_state_is_only_emptied_by_force(
    restore: Restore, source: str, target: str, file: Path, queue: RedisJobQueue
) -> None:
    take_backup(source, file, encryption_keys=KEYS)
    job = Job(id="depl_9:build", pool="build", actor="run_stage", tenant_id="tenant_1", payload={}, slot="depl_9")
    queue.enqueue(job)
    queue.hold_slot("tenant_1", "depl_9", limit=1, weight=1)
    with pytest.raises(RestoreRefused, match=r"queue in Redis is not empty \(1 job\)"):
        restore(target, file)
    restore(target, file, is_forced=True)
    assert queue.find(job.id) is None
    assert queue.running_set("tenant_1") == set()
