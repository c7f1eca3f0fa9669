"""`python -m api.main`: the API as a process. Settings come from the environment (`CLOUDIFY_…`)."""

from __future__ import annotations

import os
import socket
import sys
from functools import partial
from typing import Any

import uvicorn

from api.app import create_app
from api.composition import build_services, build_stream_hub, connect_backends, running_hub
from api.streams.hub import StreamHub
from shared.logging import configure_logging
from shared.metrics import start_metrics_listener
from shared.settings import Settings, SettingsError, load_settings

_GRACE_SECONDS = 5


class Server(uvicorn.Server):
    """uvicorn, which tells the streams to end before it waits for connections to drain."""

    def __init__(self, config: uvicorn.Config, hub: StreamHub) -> None:
        super().__init__(config)
        self._hub = hub

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._hub.begin_shutdown()
        await super().shutdown(sockets)


def main() -> int:
    """0 after a stop that was asked for, 2 when the settings can't be used, 1 for anything else."""
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging("api", settings.log_level)
    return run(settings)


def run(settings: Settings) -> int:
    backends = connect_backends(settings)
    try:
        hub = build_stream_hub(settings, backends)
        services = build_services(settings, backends, stream_hub=hub)
        try:
            return _serve(settings, create_app(services, lifespan=[partial(running_hub, hub)]), hub)
        finally:
            services.health.close()
    finally:
        backends.close()


def _serve(settings: Settings, application: Any, hub: StreamHub) -> int:
    try:
        metrics = start_metrics_listener(settings.metrics_port)
    except OSError as error:
        sys.stderr.write(f"Port {settings.metrics_port} can't be used ({error}); set CLOUDIFY_METRICS_PORT.\n")
        return 1
    try:
        server = Server(
            uvicorn.Config(
                application,
                host=settings.api_host,
                port=settings.api_port,
                http="httptools",
                loop="uvloop",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            ),
            hub,
        )
        server.run()
        return 0 if server.started else 1
    finally:
        metrics.shutdown()
        metrics.server_close()


if __name__ == "__main__":
    sys.exit(main())
