"""The servers that the platform keeps its data in, and its cache of them."""

from __future__ import annotations

from shared.settings.declaration import part, setting
from shared.settings.kinds import BOOLEAN, SECONDS, TEXT, mebibytes, url


@part
class DatabaseSettings:
    """PostgreSQL, where everything is recorded."""

    url: str = setting(
        "DATABASE_URL",
        url("postgresql", "postgres"),
        "Address of the database: `postgresql://user:password@host:port/database`.",
        is_secret=True,
    )
    is_pooled: bool = setting(
        "DATABASE_POOLED",
        BOOLEAN,
        "Whether the address is that of PgBouncer (or another pooler) in transaction mode.",
        default=False,
    )


@part
class QueueSettings:
    """Redis or Valkey, and the queue on it."""

    redis_url: str = setting(
        "REDIS_URL",
        url("redis", "rediss", "unix"),
        "Address of the server, for the queue, leases, limits and notifications: `redis://:password@host:port`.",
        is_secret=True,
    )
    lease_seconds: float = setting(
        "LEASE_SECONDS",
        SECONDS,
        "Time after which a job is given to another worker if its own has not renewed the lease.",
        default=30.0,
    )
    reconcile_seconds: float = setting(
        "RECONCILE_SECONDS",
        SECONDS,
        "Pause between two passes of the reconciler.",
        default=10.0,
    )


@part
class ObjectStoreSettings:
    """The S3 server that keeps snapshots, artifacts and archived logs."""

    endpoint: str = setting("S3_ENDPOINT", url("http", "https"), "Address of the object store: `https://host:port`.")
    access_key: str = setting("S3_ACCESS_KEY", TEXT, "Access key of the object store.")
    secret_key: str = setting("S3_SECRET_KEY", TEXT, "Secret key of the object store.", is_secret=True)
    bucket: str = setting("S3_BUCKET", TEXT, "Bucket, which is created if it doesn't exist.", default="cloudify")
    region: str = setting("S3_REGION", TEXT, "Region of the bucket.", default="us-east-1")
    link_endpoint: str = setting(
        "S3_LINK_ENDPOINT",
        url("http", "https"),
        "Address of the object store for the pods of builds and sites, if it is another one: `https://host:port`.",
        default="",
        default_text="CLOUDIFY_S3_ENDPOINT",
    )


@part
class CacheSettings:
    """What a worker keeps of the object store on its disk."""

    maximum_bytes: int = setting(
        "CACHE_MB",
        mebibytes(100, 10_000_000),
        "Size in MiB of a worker's local cache of snapshots.",
        default=10_240 * 1024 * 1024,
    )
