"""Prometheus metrics. Labels have few values: enums and route templates, never identifiers.

On one machine the processes share a directory (PROMETHEUS_MULTIPROC_DIR), and one internal listener serves them all.
Otherwise each process has its own listener.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from wsgiref.simple_server import WSGIServer

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.registry import REGISTRY, Collector

from schemas.envelope import ErrorBody, Failure
from shared.errors import ErrorCode
from shared.hosts import Hosts
from shared.process_health import ProcessHealth
from shared.queue.base import PoolStats
from shared.queue.records import WorkerRecord

_BUILD_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800)
_WAIT_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 1800)

METRICS_PATH = "/api/metrics/prometheus"

_http_requests = Counter("cloudify_http_requests", "HTTP requests.", ["route", "method", "status"])
_http_duration = Histogram("cloudify_http_request_duration_seconds", "Time to answer.", ["route", "method"])
_deployments = Counter("cloudify_deployments", "Deployments that ended.", ["outcome", "target", "code"])
_deploy_duration = Histogram(
    "cloudify_deploy_duration_seconds", "From request to live.", ["target"], buckets=_BUILD_BUCKETS
)
_builds = Counter("cloudify_builds", "Build commands that ended.", ["executor", "framework", "outcome", "target"])
_phases = Histogram(
    "cloudify_build_phase_duration_seconds", "Time in a stage.", ["phase", "outcome"], buckets=_BUILD_BUCKETS
)
_cache = Counter("cloudify_build_cache_requests", "Look-ups of stage outputs.", ["kind", "result"])
_rollbacks = Counter("cloudify_rollbacks", "Rollbacks and promotions.", ["kind", "outcome"])
_messages = Counter("cloudify_messages", "Jobs that a worker took up.", ["queue", "outcome"])
_message_duration = Histogram("cloudify_message_duration_seconds", "Time a job ran.", ["queue"], buckets=_BUILD_BUCKETS)
_message_wait = Histogram("cloudify_message_wait_seconds", "Time a job waited.", ["queue"], buckets=_WAIT_BUCKETS)
_refusals = Counter("cloudify_http_refusals", "Requests refused because too many of their kind waited.", ["lane"])
_log_compactions = Counter("cloudify_log_compactions", "Finished logs moved to the object store.", ["outcome"])


def observe_request(route: str, method: str, status: int, seconds: float) -> None:
    """`route` is the template (`/api/projects/{project_id}`), never the path; status is counted by class."""
    _http_requests.labels(route, method, f"{status // 100}xx").inc()
    _http_duration.labels(route, method).observe(seconds)


def observe_stage(stage: str, outcome: str, seconds: float) -> None:
    _phases.labels(stage, outcome).observe(seconds)
    observe_message(stage, outcome, seconds)


def observe_message(queue: str, outcome: str, seconds: float) -> None:
    _messages.labels(queue, outcome).inc()
    _message_duration.labels(queue).observe(seconds)


def observe_wait(queue: str, seconds: float) -> None:
    _message_wait.labels(queue).observe(seconds)


def count_deployment(outcome: str, target: str, code: str) -> None:
    _deployments.labels(outcome, target, code).inc()


def observe_deployment(target: str, seconds: float) -> None:
    _deploy_duration.labels(target).observe(seconds)


def count_build(*, executor: str, framework: str, outcome: str, target: str) -> None:
    _builds.labels(executor, framework, outcome, target).inc()


def count_cache(kind: str, *, is_hit: bool) -> None:
    _cache.labels(kind, "hit" if is_hit else "miss").inc()


def count_release(kind: str, outcome: str) -> None:
    _rollbacks.labels(kind, outcome).inc()


def count_log_compaction(outcome: str) -> None:
    """`outcome`: archived, gone (deleted meanwhile), damaged or unavailable (both are retried later)."""
    _log_compactions.labels(outcome).inc()


def count_refusal(lane: str) -> None:
    """`lane`: a name in api.edge.lanes."""
    _refusals.labels(lane).inc()


class QueueCollector(Collector):
    """Reads the queue at each scrape. Only one exporter of a platform registers it, so that nothing is counted twice.

    `workers` returns the live worker processes. A pool without workers has no worker series: alert on their absence.
    """

    def __init__(self, stats: Callable[[], list[PoolStats]], workers: Callable[[], list[WorkerRecord]]) -> None:
        self._stats = stats
        self._workers = workers

    def collect(self) -> Iterable[Metric]:
        try:
            pools, workers = self._stats(), self._workers()
        except Exception:  # noqa: BLE001 - a scrape must answer while the queue is down
            yield _gauge("dependency_up", "Whether a dependency answers.", "dependency", {"queue": 0.0})
            return
        yield _gauge("dependency_up", "Whether a dependency answers.", "dependency", {"queue": 1.0})
        yield _gauge("queue_depth", "Jobs ready to run.", "queue", {s.pool: s.depth for s in pools})
        yield _gauge("queue_inflight", "Jobs that run.", "queue", {s.pool: s.inflight for s in pools})
        yield _gauge("queue_delayed", "Jobs for later.", "queue", {s.pool: s.delayed for s in pools})
        yield _gauge("queue_dead", "Dead letters.", "queue", {s.pool: s.dead for s in pools})
        yield _gauge(
            "queue_oldest_age_seconds",
            "Wait of the oldest job.",
            "queue",
            {s.pool: s.oldest_age_seconds for s in pools},
        )
        waiting = GaugeMetricFamily("cloudify_builds_waiting_quota", "Jobs that wait for a slot of their plan.")
        waiting.add_metric([], sum(s.waiting_for_slot for s in pools))
        yield waiting
        yield from _workers_of(workers)


def _workers_of(workers: Iterable[WorkerRecord]) -> Iterable[Metric]:
    threads: dict[str, float] = {}
    busy: dict[str, float] = {}
    seen: dict[str, float] = {}
    for worker in workers:
        threads[worker.pool] = threads.get(worker.pool, 0) + worker.threads
        busy[worker.pool] = busy.get(worker.pool, 0) + worker.busy
        seen[worker.pool] = max(seen.get(worker.pool, 0.0), worker.seen_at)
    yield _gauge("worker_threads", "Threads of live workers.", "pool", threads)
    yield _gauge("worker_busy_threads", "Threads that run a job.", "pool", busy)
    yield _gauge("worker_heartbeat_timestamp_seconds", "When a worker of the pool last reported.", "pool", seen)


def _gauge(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(f"cloudify_{name}", text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


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
