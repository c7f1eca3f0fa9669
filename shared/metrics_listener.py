"""The internal listener that serves a process's metrics.

On one machine the processes share a directory (PROMETHEUS_MULTIPROC_DIR), and one listener serves them all. Otherwise
each process has its own.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from wsgiref.simple_server import WSGIServer

import msgspec
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.registry import REGISTRY, Collector

from schemas.envelope import ErrorBody, Failure
from shared.errors import ErrorCode
from shared.hosts import Hosts
from shared.process_health import ProcessHealth

METRICS_PATH = "/api/metrics/prometheus"


def own_metrics() -> bytes:
    """The metrics of this process alone as plain text, for a listener of another kind."""
    return generate_latest(REGISTRY)


def start_metrics_listener(
    port: int,
    *,
    host: str = "127.0.0.1",
    collectors: Iterable[Collector] = (),
    names: Iterable[str] = (),
    health: ProcessHealth | None = None,
) -> WSGIServer:
    """Serves `/api/metrics/prometheus` from a thread, on another address than the API.

    `names`: the names in CLOUDIFY_API_HOSTS; see shared.hosts. `health`: answers to probes, for a process without
    another listener for them.
    """
    hosts = Hosts(names)
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.MultiProcessCollector(registry)
    else:
        registry = REGISTRY
    for collector in collectors:
        registry.register(collector)
    application = make_wsgi_app(registry)

    def serve(environ: dict[str, object], start_response: Callable[..., object]) -> object:
        given = environ.get("HTTP_HOST")
        if not (hosts.admits(str(given)) if given else environ.get("SERVER_PROTOCOL") == "HTTP/1.0"):
            start_response("421 Misdirected Request", [("Content-Type", "application/json")])
            message = "This listener answers to addresses, localhost and the names in CLOUDIFY_API_HOSTS."
            error = ErrorBody(
                code=ErrorCode.MISDIRECTED_REQUEST.value,
                message=message,
                request_id=f"req_{secrets.token_hex(10)}",
            )
            return [msgspec.json.encode(Failure(error=error))]
        found = health.answer(str(environ.get("PATH_INFO"))) if health is not None else None
        if found is not None:
            is_well, text = found
            start_response("200 OK" if is_well else "503 Service Unavailable", [("Content-Type", "text/plain")])
            return [f"{text}\n".encode()]
        if environ.get("PATH_INFO") != METRICS_PATH:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"metrics are at " + METRICS_PATH.encode() + b"\n"]
        return application(environ, start_response)

    server, _thread = _start(serve, port, host)
    return server


def _start(application: Callable[..., object], port: int, host: str) -> tuple[WSGIServer, object]:
    import threading
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    class QuietHandler(WSGIRequestHandler):
        # A client that sends nothing must not block its thread.
        timeout = 30

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Scrapes are not logged."""

    server = make_server(host, port, application, Server, QuietHandler)  # pyright: ignore[reportArgumentType]
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    return server, thread
