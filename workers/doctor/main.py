"""`python -m workers.doctor.main`: examines an installation from this machine; `cloudify doctor` starts it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import msgspec
import structlog

from shared.db.database import Database
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.routing.log import RouteLog
from shared.routing.routers import RouterRepository
from shared.settings import Settings, SettingsError, load_settings
from shared.storage.object_store import S3ArtifactStore
from shared.text.written import escaped
from workers.doctor.findings import Check, Finding, Status, examine, ok, problem
from workers.doctor.machine import check_registries, check_routers, check_sandbox, check_workers
from workers.doctor.object_store import check_object_store
from workers.doctor.servers import check_clock, check_postgres, check_redis

_ANSWER_SECONDS = 5.0
_CONNECTIONS = 4
_MARKS = {Status.OK: "ok", Status.WARNING: "warning", Status.PROBLEM: "PROBLEM"}


def main(arguments: list[str] | None = None) -> int:
    """0 if all is well or there are only warnings, 1 with problems, 2 for invalid settings."""
    parser = argparse.ArgumentParser(prog="cloudify doctor", description="Examines the platform from this machine.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    # What the parts log is among the findings.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    findings, code = diagnose(os.environ)
    _show(findings, as_json=options.json)
    return code


def diagnose(environment: Mapping[str, str]) -> tuple[list[Finding], int]:
    """The findings, and the exit code."""
    try:
        settings = load_settings(environment)
    except SettingsError as error:
        advice = "docs/settings.md has every setting; correct these and try again."
        return [problem("settings", text, advice) for text in error.problems], 2
    findings = [ok("settings", "They can be used."), *_examine_all(settings)]
    return findings, int(any(finding.status is Status.PROBLEM for finding in findings))


def _examine_all(settings: Settings) -> list[Finding]:
    """All checks at the same time, each bounded by its own timeouts; their findings in a fixed order."""
    database = Database(
        settings.database.url,
        maximum_connections=_CONNECTIONS,
        timeout_seconds=_ANSWER_SECONDS,
        answer_seconds=_ANSWER_SECONDS,
        name="cloudify doctor",
        is_pooled=settings.database.is_pooled,
    )
    redis = connect_redis(settings.queue.redis_url, timeout_seconds=_ANSWER_SECONDS, client_name="cloudify-doctor")
    with closing(database), closing(redis), ThreadPoolExecutor() as threads:
        checks = _checks(settings, database, RedisJobQueue(redis))
        running = [threads.submit(check) for check in checks]
        return [finding for examination in running for finding in examination.result()]


def _checks(settings: Settings, database: Database, queue: RedisJobQueue) -> list[Callable[[], list[Finding]]]:
    store = S3ArtifactStore(
        settings.object_store,
        retry_seconds=0.0,
        timeout_seconds=_ANSWER_SECONDS,
        connections=1,
        ca_bundle=settings.network.ca_bundle,
    )
    routers, log = RouterRepository(database), RouteLog(database)
    database_advice = "Check CLOUDIFY_DATABASE_URL, that PostgreSQL runs and that this machine may connect to it."
    redis_advice = "Check CLOUDIFY_REDIS_URL, that Redis runs and that this machine may connect to it."
    rows: list[tuple[str, Check, str]] = [
        ("PostgreSQL", lambda: check_postgres(database, settings.database.url), database_advice),
        ("Redis", lambda: check_redis(queue), redis_advice),
        ("clock", lambda: check_clock(database, queue), database_advice),
        (
            "object store",
            lambda: check_object_store(store, settings.object_store, settings.network),
            "Check CLOUDIFY_S3_ENDPOINT, the keys and the bucket's permissions.",
        ),
        (
            "sandbox",
            lambda: check_sandbox(settings),
            "Only workers of install and build need it; see workers/executors.",
        ),
        ("routers", lambda: check_routers(routers, log), database_advice),
        ("workers", lambda: check_workers(queue), redis_advice),
        ("registries", lambda: check_registries(settings.network), "Check this machine's way out."),
    ]
    return [_examined(*row) for row in rows]


def _examined(subject: str, check: Check, advice: str) -> Callable[[], list[Finding]]:
    return lambda: examine(subject, check, advice)


def _show(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode({"findings": findings}).decode() + "\n")
        return
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        line = f"{_MARKS[finding.status]:<8} {finding.subject:<{width}}  {finding.message}"
        print(escaped(line))  # noqa: T201 - the report
        if finding.advice:
            print(escaped(f"{'':<8} {'':<{width}}  → {finding.advice}"))  # noqa: T201 - the report
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    print(f"{counts[Status.PROBLEM]} problems, {counts[Status.WARNING]} warnings.")  # noqa: T201 - the report


if __name__ == "__main__":
    raise SystemExit(main())
