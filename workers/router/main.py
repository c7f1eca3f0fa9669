"""`python -m workers.router.main`: the agent of one machine's web server of sites."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
from importlib.metadata import version

from shared.clock_guard import ClockGuard
from shared.db.database import Database
from shared.db.schema_version import MigrationError, check_schema
from shared.logging import configure_logging
from shared.private_files import keep_files_private
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.routing.bell import RouteBell, RouteListener
from shared.routing.log import RouteLog
from shared.routing.routers import RouterRepository
from shared.settings import Settings, SettingsError, load_settings
from shared.stop_signals import on_stop_signals
from shared.storage.object_store import S3ArtifactStore
from shared.tracing import export_spans
from workers.artifacts.reader import ArtifactReader
from workers.router.agent import RouterAgent, RouterIdentity
from workers.router.fetcher import SiteFetcher
from workers.router.listener import RouterListener
from workers.router.peers import Peers
from workers.router.probe import SiteProbe
from workers.router.site_directory import SiteDirectory

# The agent asks from its one loop; fetches and visitors' questions are short.
_CONNECTIONS = 3
# A database that doesn't answer must not keep the agent from noticing that.
_ANSWER_SECONDS = 3.0
# Visitors may wait for an object store that doesn't answer, before other routers are asked for the files.
_STORE_RETRY_SECONDS = 2.0
_STORE_ANSWER_SECONDS = 5.0


def main() -> int:
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - shown where the process was started
        return 2
    configure_logging("router", settings.logs.level)
    stop = threading.Event()
    on_stop_signals(stop.set)
    keep_files_private(settings.directories.home)
    try:
        check_schema(settings.database.url)
    except MigrationError as error:
        print(error, file=sys.stderr)  # noqa: T201 - shown where the process was started
        return 1
    end_tracing = export_spans(settings.tracing, "router")
    try:
        run_router(settings, stop)
    finally:
        end_tracing()
    return 0


def run_router(settings: Settings, stop: threading.Event) -> None:
    """Runs until `stop` is set."""
    database = Database(
        settings.database.url,
        maximum_connections=_CONNECTIONS,
        timeout_seconds=_ANSWER_SECONDS,
        answer_seconds=_ANSWER_SECONDS,
        name=f"cloudify router {settings.router.name}".strip(),
        is_pooled=settings.database.is_pooled,
    )
    redis = connect_redis(settings.queue.redis_url, connect_timeout_seconds=0.5, timeout_seconds=0.5)
    listening_redis = connect_redis(settings.queue.redis_url, connect_timeout_seconds=1, timeout_seconds=10)
    directory = SiteDirectory(settings.directories.sites)
    directory.sweep()
    probe = SiteProbe(settings.router.web_url, settings.sites.domain)
    peers = Peers(settings.directories.home / "router-peers.json")
    store = S3ArtifactStore(
        settings.object_store,
        retry_seconds=_STORE_RETRY_SECONDS,
        timeout_seconds=_STORE_ANSWER_SECONDS,
        ca_bundle=settings.network.ca_bundle,
    )
    artifacts = ArtifactReader(store, settings.directories.cache, may_repair=False, others=peers)
    fetcher = SiteFetcher(artifacts, directory, probe, maximum_bytes=settings.router.sites_bytes)
    log = RouteLog(database)
    agent = RouterAgent(
        identity=identity_of(settings),
        log=log,
        routers=RouterRepository(database),
        bell=RouteBell(redis),
        directory=directory,
        fetcher=fetcher,
        probe=probe,
        peers=peers,
        position_file=settings.directories.home / "router-position.json",
    )
    listener = RouterListener(
        settings.router.listen_host,
        settings.router.listen_port,
        agent=agent,
        fetcher=fetcher,
        artifacts=artifacts,
        domain=settings.sites.domain,
        names=settings.api.hosts,
    )
    # Sites are served whatever the clock says; only the log tells that it is wrong.
    guard = ClockGuard({"PostgreSQL": database.server_time, "Redis": RedisJobQueue(redis).server_time})
    ringing = RouteListener(listening_redis, agent.wake)
    fetcher.start()
    listener.start()
    agent.start()
    ringing.start()
    guard.start()
    stop.wait()
    guard.stop()
    # The web server serves on; only releases no longer wait for this router.
    ringing.stop()
    agent.stop()
    fetcher.stop()
    listener.stop()
    for connection in (probe, redis, listening_redis, database):
        connection.close()


def identity_of(settings: Settings) -> RouterIdentity:
    router = settings.router
    machine = socket.gethostname()
    folder = hashlib.sha256(str(settings.directories.home).encode()).hexdigest()[:8]
    return RouterIdentity(
        id=router.name or f"{machine}-{folder}",
        machine=machine,
        version=version("cloudify"),
        url=router.peer_url or f"http://{router.listen_host}:{router.listen_port}",
    )


if __name__ == "__main__":
    raise SystemExit(main())
