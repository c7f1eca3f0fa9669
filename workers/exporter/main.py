"""`python -m workers.exporter.main`: serves the figures that are read from the stores; one for a platform."""

from __future__ import annotations

import os
import sys
import threading

from shared.db.schema_version import MigrationError, check_schema
from shared.logging import configure_logging
from shared.metrics_listener import start_metrics_listener
from shared.process_health import ProcessHealth
from shared.queue.registration import Registration
from shared.settings import SettingsError, load_settings
from shared.stop_signals import on_stop_signals
from workers.exporter.sources import PlatformFigures


def main() -> int:
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - shown where the process was started
        return 2
    configure_logging("exporter", settings.logs.level)
    stop = threading.Event()
    on_stop_signals(stop.set)
    try:
        check_schema(settings.database.url)
    except MigrationError as error:
        print(error, file=sys.stderr)  # noqa: T201 - shown where the process was started
        return 1
    figures = PlatformFigures(settings)
    # It answers while the stores are away: that is one of its figures.
    health = ProcessHealth()
    health.set_ready()
    try:
        server = start_metrics_listener(
            settings.metrics.port,
            host=settings.metrics.host,
            collectors=[figures.collector],
            names=settings.api.hosts,
            health=health,
        )
    except OSError as error:
        sys.stderr.write(f"Port {settings.metrics.port} can't be used ({error}); set CLOUDIFY_METRICS_PORT.\n")
        return 1
    registration = Registration(figures.queue, "exporter", threads=1, reason=lambda: "")
    registration.start()
    stop.wait()
    registration.stop()
    server.shutdown()
    server.server_close()
    figures.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
