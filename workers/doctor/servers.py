"""Checks of PostgreSQL and Redis."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from shared.clock_guard import BOUND_SECONDS, ClockGuard
from shared.db.database import Database, check_connection
from shared.db.migrate import migrations
from shared.queue.job_queue import RedisJobQueue
from workers.doctor.findings import Finding, ok, problem, warning

# The oldest versions that the tests have run on.
_POSTGRES_VERSION = 15
_REDIS_VERSION = (6, 2)
_VALKEY_VERSION = (7, 2)
_WARN_SECONDS = 1.0
_WARN_SHARE = 0.8

_MIGRATE = "Run `cloudify migrate` with this version."
_POSTGRES = """
SELECT current_setting('server_version_num')::int8 / 10000 AS version, current_setting('server_version') AS name,
  current_setting('max_connections')::int8 AS maximum,
  (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
  to_regclass('schema_migrations') IS NOT NULL AS has_history, pg_is_in_recovery() AS is_replica
"""


class _Postgres(msgspec.Struct, frozen=True):
    version: int
    name: str
    maximum: int
    used: int
    has_history: bool
    is_replica: bool


def check_postgres(database: Database, url: str) -> Iterator[Finding]:
    """Raises Unavailable with the reason why no connection can be made."""
    check_connection(url)
    row = database.fetch_one(_Postgres, _POSTGRES)
    assert row is not None, "the query has one row"
    if row.version < _POSTGRES_VERSION:
        yield problem("PostgreSQL", f"It is version {row.name}.", f"Use version {_POSTGRES_VERSION} or newer.")
    else:
        yield ok("PostgreSQL", f"It answers and is version {row.name}.")
    if row.is_replica:
        yield problem("PostgreSQL", "It is a replica, which accepts no writes.", "Name the primary in the settings.")
    share = f"{row.used} of {row.maximum} connections are used"
    if row.used > row.maximum * _WARN_SHARE:
        advice = "Raise max_connections, or put PgBouncer in between; docs/operations.md says what the processes need."
        yield warning("PostgreSQL connections", f"{share}.", advice)
    else:
        yield ok("PostgreSQL connections", f"{share}.")
    yield _check_migrations(database, has_history=row.has_history)


def _check_migrations(database: Database, *, has_history: bool) -> Finding:
    subject = "migrations"
    if not has_history:
        return problem(subject, "The database is empty.", _MIGRATE)
    applied = set(database.fetch_values(str, "SELECT name FROM schema_migrations"))
    known = [name for name, _sql in migrations()]
    missing = [name for name in known if name not in applied]
    newer = sorted(applied - set(known))
    if missing:
        return problem(subject, f"{len(missing)} are missing; the first is {missing[0]}.", _MIGRATE)
    if newer:
        return warning(
            subject, f"A newer version has applied {newer[-1]}.", "Install that version on this machine, too."
        )
    return ok(subject, f"All {len(known)} are applied.")


def check_redis(queue: RedisJobQueue) -> Iterator[Finding]:
    info = queue.server_info()
    yield _version_of_redis(info)
    if info.get("role") not in (None, "master"):
        yield problem("Redis", "It is a replica, which accepts no writes.", "Name the primary in the settings.")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        yield ok("Redis eviction", "Nothing is evicted.")
    elif info.get("maxmemory", "0") == "0":
        yield warning(
            "Redis eviction", f"The policy is {policy}, without a limit of memory.", "Set maxmemory-policy noeviction."
        )
    else:
        yield problem(
            "Redis eviction",
            f"The policy is {policy}: under memory pressure, Redis deletes jobs and leases.",
            "Set maxmemory-policy noeviction.",
        )
    if info.get("aof_enabled") == "1":
        yield ok("Redis persistence", "The append-only file is on.")
    else:
        yield warning(
            "Redis persistence",
            "The append-only file is off: a restart loses the queue, which the reconciler rebuilds within a minute.",
            "Set appendonly yes.",
        )
    if info.get("rdb_last_bgsave_status", "ok") != "ok" or info.get("aof_last_write_status", "ok") != "ok":
        yield problem("Redis persistence", "Its last write to the disk failed.", "Look at its log and its disk.")


def _version_of_redis(info: dict[str, str]) -> Finding:
    is_valkey = "valkey_version" in info
    name, text = ("Valkey", info["valkey_version"]) if is_valkey else ("Redis", info.get("redis_version", "0"))
    least = _VALKEY_VERSION if is_valkey else _REDIS_VERSION
    number = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if number < least:
        return problem("Redis", f"It is {name} {text}.", f"Use {name} {'.'.join(map(str, least))} or newer.")
    return ok("Redis", f"It answers and is {name} {text}.")


def check_clock(database: Database, queue: RedisJobQueue) -> Iterator[Finding]:
    ahead = ClockGuard({"PostgreSQL": database.server_time, "Redis": queue.server_time}).differences()
    for name, seconds in ahead.items():
        subject = f"clock and {name}"
        text = f"This machine's clock is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} {name}'s."
        advice = "Synchronise the clocks of both machines, for example with chrony or systemd-timesyncd."
        if abs(seconds) > BOUND_SECONDS:
            yield problem(subject, f"{text} Workers don't start.", advice)
        elif abs(seconds) > _WARN_SECONDS:
            yield warning(subject, text, advice)
        else:
            yield ok(subject, "They agree.")
