"""The embedded servers start, keep their data over a restart, and listen on loopback only."""

from __future__ import annotations

import io
from importlib import resources

import redis
from minio import Minio

from shared.db.database import Database
from shared.settings import ObjectStoreSettings


def test_database_is_migrated_and_the_tests_own(database: Database) -> None:
    migrations = [entry for entry in resources.files("shared.db.migrations").iterdir() if entry.name.endswith(".sql")]
    assert database.fetch_value(int, "SELECT count(*) FROM schema_migrations") == len(migrations)
    database.exists("SELECT 1 FROM users")


def test_redis_answers(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert client.ping()


def test_object_store_keeps_an_object(object_store_settings: ObjectStoreSettings) -> None:
    settings = object_store_settings
    endpoint = settings.endpoint.removeprefix("http://")
    client = Minio(endpoint, settings.access_key, settings.secret_key, secure=False, region=settings.region)
    client.put_object(settings.bucket, "a/b", io.BytesIO(b"x" * 100_000), 100_000)
    with client.get_object(settings.bucket, "a/b") as answer:
        assert answer.read() == b"x" * 100_000
