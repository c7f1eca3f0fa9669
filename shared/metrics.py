"""Prometheus metrics. Labels have few values: enums and route templates, never identifiers.

`docs/metrics.md` lists all of them. Those that are read from the stores, such as the queue's depth, come from one
exporter (workers/exporter.py); shared/metrics_listener.py serves a process's own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from prometheus_client import Counter, Histogram

_BUILD_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800)
_WAIT_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 1800)
# An alert asks for half a second.
_QUERY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_COMMAND_BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5)
_OBJECT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_http_requests = Counter("cloudify_http_requests", "HTTP requests.", ["route", "method", "status"])
_http_duration = Histogram("cloudify_http_request_duration_seconds", "Time to answer.", ["route", "method", "status"])
_http_refusals = Counter("cloudify_http_refusals", "Requests refused because too many of their kind waited.", ["lane"])
_deployments = Counter("cloudify_deployments", "Deployments that ended.", ["outcome", "target", "code"])
_deploy_duration = Histogram(
    "cloudify_deploy_duration_seconds", "From request to end.", ["target", "outcome"], buckets=_BUILD_BUCKETS
)
_builds = Counter("cloudify_builds", "Build commands that ended.", ["executor", "framework", "outcome", "target"])
_phases = Histogram(
    "cloudify_build_phase_duration_seconds", "Time in a stage.", ["phase", "outcome"], buckets=_BUILD_BUCKETS
)
_cache = Counter("cloudify_build_cache_requests", "Look-ups of stage outputs.", ["kind", "result"])
_rollbacks = Counter("cloudify_rollbacks", "Rollbacks and promotions.", ["kind", "outcome"])
_messages = Counter("cloudify_messages", "Jobs that a worker took up.", ["queue", "actor", "outcome"])
_message_duration = Histogram("cloudify_message_duration_seconds", "Time a job ran.", ["queue"], buckets=_BUILD_BUCKETS)
_message_wait = Histogram(
    "cloudify_message_wait_seconds",
    "Time a job was in line before a worker took it, for a slot of its plan too.",
    ["queue"],
    buckets=_WAIT_BUCKETS,
)
_log_compactions = Counter("cloudify_log_compactions", "Finished logs moved to the object store.", ["outcome"])
_queries = Histogram("cloudify_db_query_duration_seconds", "Time until the database answered.", buckets=_QUERY_BUCKETS)
_commands = Histogram(
    "cloudify_redis_command_duration_seconds", "Time until Redis answered.", ["op"], buckets=_COMMAND_BUCKETS
)
_objects = Histogram(
    "cloudify_s3_request_duration_seconds", "Time of a request to the object store.", ["op"], buckets=_OBJECT_BUCKETS
)


def observe_request(route: str, method: str, status: int, seconds: float) -> None:
    """`route` is the template (`/api/projects/{project_id}`), never the path; status is counted by class."""
    status_class = f"{status // 100}xx"
    _http_requests.labels(route, method, status_class).inc()
    _http_duration.labels(route, method, status_class).observe(seconds)


def observe_stage(stage: str, outcome: str, seconds: float) -> None:
    _phases.labels(stage, outcome).observe(seconds)


def observe_message(queue: str, actor: str, outcome: str, seconds: float) -> None:
    """`outcome` is the name of one in workers.pipeline.outcome."""
    _messages.labels(queue, actor, outcome).inc()
    _message_duration.labels(queue).observe(seconds)


def observe_wait(queue: str, seconds: float) -> None:
    _message_wait.labels(queue).observe(seconds)


def count_deployment(outcome: str, target: str, code: str) -> None:
    _deployments.labels(outcome, target, code).inc()


def observe_deployment(target: str, outcome: str, seconds: float) -> None:
    _deploy_duration.labels(target, outcome).observe(seconds)


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
    _http_refusals.labels(lane).inc()


def observe_query(seconds: float) -> None:
    _queries.observe(seconds)


@contextmanager
def timed_object_request(op: str) -> Generator[None]:
    """`op`: get, put, head, delete, list or bucket."""
    started = time.perf_counter()
    try:
        yield
    finally:
        _objects.labels(op).observe(time.perf_counter() - started)


class CommandTimes:
    """The durations of commands of Redis. Finding a label's series takes as long as a tenth of a command, so each is
    looked up once. Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._observers: dict[str, Callable[[float], None]] = {}

    def observe(self, op: str, seconds: float) -> None:
        """`op`: the name of a script of ours, or of a command."""
        observer = self._observers.get(op)
        if observer is None:
            with self._lock:
                observer = self._observers[op] = _commands.labels(op).observe
        observer(seconds)
