"""The required settings, as environment variables."""

from __future__ import annotations

ENVIRONMENT = {
    "CLOUDIFY_DATABASE_URL": "postgresql://nobody@127.0.0.1/none",
    "CLOUDIFY_REDIS_URL": "redis://127.0.0.1",
    "CLOUDIFY_S3_ENDPOINT": "http://127.0.0.1",
    "CLOUDIFY_S3_ACCESS_KEY": "a",
    "CLOUDIFY_S3_SECRET_KEY": "b",
    "CLOUDIFY_SECRET_KEY": "s" * 32,
    "CLOUDIFY_ENCRYPTION_KEYS": "k:" + "A" * 43 + "=",
    "CLOUDIFY_EXECUTOR": "docker",
}
