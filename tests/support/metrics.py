"""Every metric of the platform, as the code declares it."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

import api.streams.metrics
import shared.metrics
import workers.router.metrics
from workers.exporter.gauges import GAUGES

# Their metrics are declared where they are imported.
_DECLARING = (api.streams.metrics, shared.metrics, workers.router.metrics)
PREFIX = "cloudify_"


@dataclass(frozen=True, slots=True, order=True)
class Family:
    """`name` is the exposed one without the prefix; a histogram has series with further endings."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def exposed_name(self) -> str:
        return PREFIX + self.name

    def series(self) -> list[str]:
        if self.kind == "histogram":
            return [f"{self.exposed_name}{ending}" for ending in ("_bucket", "_sum", "_count")]
        return [self.exposed_name]


def families() -> list[Family]:
    declared = [wrapper for wrapper in list(REGISTRY._collector_to_names) if isinstance(wrapper, MetricWrapperBase)]
    found = {
        Family(
            wrapper._name.removeprefix(PREFIX) + ("_total" if wrapper._type == "counter" else ""),
            wrapper._type,
            tuple(wrapper._labelnames),
            wrapper._documentation,
        )
        for wrapper in declared
        if wrapper._name.startswith(PREFIX)
    }
    exported = {
        Family(name, "gauge, exporter", () if label is None else (label,), meaning)
        for name, (meaning, label) in GAUGES.items()
    }
    return sorted(found | exported)
