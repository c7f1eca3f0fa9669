"""Every figure of the exporter: name, meaning and label."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

# Name without prefix → (meaning, label or None).
GAUGES: Mapping[str, tuple[str, str | None]] = {
    "queue_depth": ("Jobs in line.", "queue"),
    "queue_inflight": ("Jobs that run.", "queue"),
    "queue_delayed": ("Jobs for later.", "queue"),
    "queue_dead": ("Dead letters.", "queue"),
    "queue_paused": ("Whether the pool is paused.", "queue"),
    "queue_oldest_age_seconds": ("Wait of the oldest job in line.", "queue"),
    "builds_waiting_quota": ("Jobs in line that wait for a slot of their plan.", None),
    "worker_threads": ("Threads of live workers; a pool without workers has no series.", "pool"),
    "worker_busy_threads": ("Threads that run a job.", "pool"),
    "worker_heartbeat_timestamp_seconds": ("When a worker of the pool last reported.", "pool"),
    "deployments_stuck": ("Unfinished deployments without progress for two hours.", "state"),
    "active_sessions": ("Logins that are neither ended nor expired.", None),
    "routers": ("Site routers that have reported in the last day: ready, not_ready or silent.", "state"),
    "routers_lag_changes": ("Route changes that the slowest live router has still to apply.", None),
    "certificate_expiry_timestamp_seconds": (
        "When the certificate expires that a server shows, or the first of a bundle.",
        "certificate",
    ),
    "dependency_up": ("Whether a dependency answers: database, redis or object_store.", "dependency"),
    "exporter_read_timestamp_seconds": ("When figures were last read; a source that fails has no series.", "source"),
}


def gauge(name: str, values: Mapping[str, float] | float) -> Metric:
    """The family of a gauge: its value, or a value for each value of its label."""
    meaning, label = GAUGES[name]
    family = GaugeMetricFamily(f"cloudify_{name}", meaning, labels=[] if label is None else [label])
    if isinstance(values, Mapping):
        for value, number in values.items():
            family.add_metric([value], number)
    else:
        family.add_metric([], values)
    return family
