"""Every metric of the platform, as the code declares it."""

from __future__ import annotations

import re
from collections.abc import Collection
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


# A series' name, and its labels where some are given.
_SERIES = re.compile(r"\b(cloudify_\w+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
_BY = re.compile(r"\b(?:by|on|without)\s*\(([^)]*)\)")


def unknown_names(query: str, *, more_labels: Collection[str] = ()) -> list[str]:
    """The series that no process exposes, and the labels that they don't have, of a PromQL query."""
    labels_of = {name: {*family.labels, "le"} for family in families() for name in family.series()}
    found = [(name, _LABEL.findall(labels or "")) for name, labels in _SERIES.findall(query)]
    unknown = [name for name, _ in found if name not in labels_of]
    unknown += [
        f"{name}{{{label}}}"
        for name, labels in found
        for label in labels
        if label not in labels_of.get(name, set()) | set(more_labels)
    ]
    # Grouping keeps labels of some series of the query.
    known = {"queue"} | set(more_labels) | {label for name, _ in found for label in labels_of.get(name, set())}
    grouped = {label.strip() for group in _BY.findall(query) for label in group.split(",") if label.strip()}
    return unknown + sorted(grouped - known)


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
