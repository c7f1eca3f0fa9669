"""Metrics of a site router, served by its own listener."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from shared.routing.changes import ChangeKind

_FETCH_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_ready = Gauge("cloudify_router_ready", "Whether sites may be asked for here.", multiprocess_mode="livemin")
_offline = Gauge("cloudify_router_offline", "Whether the database can't be reached.", multiprocess_mode="livemax")
_applied = Gauge(
    "cloudify_router_applied_number", "The last route change that is applied here.", multiprocess_mode="livemin"
)
_sites = Gauge("cloudify_router_sites", "Deployments on the disk.", multiprocess_mode="livesum")
_bytes = Gauge("cloudify_router_sites_bytes", "Size of the deployments on the disk.", multiprocess_mode="livesum")
_changes = Counter("cloudify_router_changes", "Route changes applied.", ["kind"])
_fetches = Counter("cloudify_router_fetches", "Fetches of deployments to this router.", ["outcome"])
_fetch_duration = Histogram(
    "cloudify_router_fetch_duration_seconds",
    "Time to bring a deployment here, from the object store to the verified site.",
    buckets=_FETCH_BUCKETS,
)
_evictions = Counter("cloudify_router_evictions", "Deployments deleted for others, as the disk's bound was reached.")


def show_state(*, is_ready: bool, is_offline: bool, applied_number: int | None) -> None:
    _ready.set(is_ready)
    _offline.set(is_offline)
    if applied_number is not None:
        _applied.set(applied_number)


def show_sites(count: int, size: int) -> None:
    _sites.set(count)
    _bytes.set(size)


def count_change(kind: ChangeKind) -> None:
    _changes.labels(kind.value).inc()


def observe_fetch(outcome: str, seconds: float) -> None:
    """`outcome`: placed, present (its files were here already) or failed."""
    _fetches.labels(outcome).inc()
    _fetch_duration.observe(seconds)


def count_eviction() -> None:
    _evictions.inc()
