"""`python -m api.main`: the API as a process. Settings come from the environment (`CLOUDIFY_…`)."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

import uvicorn
from litestar import Litestar

from api.app import create_app
from api.backends import connect_backends
from api.edge.connection import Connection, ConnectionState
from api.edge.lanes import request_threads
from api.edge.places import LOOPBACK, Places, connections_for
from api.edge.server import Server, collect_rarely
from api.services import build_services
from api.streams.account_hub import AccountHub
from api.streams.log_hub import LogHub
from api.streams.timing import StreamTiming
from shared.clock_guard import ClockGuard
from shared.db.schema_version import MigrationError, check_schema
from shared.logging import configure_logging
from shared.metrics_listener import start_metrics_listener
from shared.network.client_addresses import TrustedProxies
from shared.open_files import raise_file_limit
from shared.private_files import keep_files_private
from shared.queue.registration import Registration
from shared.settings import Settings, SettingsError, load_settings
from shared.tracing import export_spans

_GRACE_SECONDS = 5
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def main() -> int:
    """0 after a requested stop, 2 for invalid settings, 1 for any other failure."""
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging("api", settings.logs.level)
    return_large_blocks_early()
    keep_files_private(settings.directories.home)
    end_tracing = export_spans(settings.tracing, "api")
    try:
        check_schema(settings.database.url)
        return run(settings)
    except MigrationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        end_tracing()


def return_large_blocks_early() -> None:
    """Makes glibc return blocks from 1 MiB to the system when they are freed: it would keep the 19 MiB of each password
    hash after the first (mallopt(3), M_MMAP_THRESHOLD). Other C libraries have no such call and don't need it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        mallopt(_M_ARENA_MAX, 2)


def run(settings: Settings) -> int:
    backends = connect_backends(settings)
    guard = ClockGuard({"PostgreSQL": backends.database.server_time, "Redis": backends.queue.server_time})
    registration = Registration(backends.queue, "api", threads=request_threads(), reason=lambda: guard.problem or "")
    try:
        services = build_services(settings, backends)
        guard.start()
        registration.start()
        try:
            hubs = [services.log_hub, services.account_hub]
            return _serve(settings, create_app(services, lifespan=[services.running_hubs]), hubs)
        finally:
            registration.stop()
            guard.stop()
            services.health.close()
    finally:
        backends.close()


def _serve(settings: Settings, application: Litestar, hubs: Sequence[LogHub | AccountHub]) -> int:
    try:
        # 0 disables the listener; a socket would take it for any free port.
        port = settings.metrics.port
        metrics = start_metrics_listener(port, host=settings.metrics.host, names=settings.api.hosts) if port else None
    except OSError as error:
        sys.stderr.write(f"Port {settings.metrics.port} can't be used ({error}); set CLOUDIFY_METRICS_PORT.\n")
        return 1
    try:
        server = _server(settings, application, hubs)
        server.stop_on_signals()
        collect_rarely()
        server.run()
        return 0 if server.started else 1
    finally:
        if metrics is not None:
            metrics.shutdown()
            metrics.server_close()


def _server(settings: Settings, application: Litestar, hubs: Sequence[LogHub | AccountHub]) -> Server:
    timing = StreamTiming()
    places = Places(
        most=connections_for(raise_file_limit()),
        most_of_an_address=settings.api.connections_per_address,
        uncounted=[*LOOPBACK, *TrustedProxies(settings.api.trusted_proxies).networks],
    )
    config = uvicorn.Config(
        application,
        host=settings.api.host,
        port=settings.api.port,
        http=Connection,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.api.keep_alive_seconds,  # pyright: ignore[reportArgumentType]
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    silence_seconds = timing.stall + timing.slow_notice
    return Server(config, hubs, silence_seconds=silence_seconds, state=ConnectionState(places))


if __name__ == "__main__":
    sys.exit(main())
