"""Renders the Helm chart with the real engine, without a cluster."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "cloudify"

Resource = dict[str, Any]
Values = Mapping[str, Any]

# All that an operator has to say.
FIVE_VALUES: Values = {
    "domain": "example.com",
    "image": "registry.example:5000/cloudify:0.1.0",
    "database": {"existingSecret": "database"},
    "redis": {"existingSecret": "redis"},
    "objectStore": {"existingSecret": "object-store"},
}
_WORKLOADS = {"Deployment", "StatefulSet", "Job"}
_TEXT = ".txt"


@functools.cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def values_of(name: str) -> dict[str, Any]:
    """The values of a file of the chart."""
    return yaml.safe_load((CHART / name).read_text())


def merged(*layers: Values) -> dict[str, Any]:
    """Values over values, as Helm merges several files."""
    whole: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            known = whole.get(key)
            both = isinstance(known, dict) and isinstance(value, Mapping)
            whole[key] = merged(known, value) if both else (merged(value) if isinstance(value, Mapping) else value)
    return whole


def evaluation_values() -> dict[str, Any]:
    own = {"domain": "example.com", "image": "cloudify:0.1.0", "evaluation": {"password": "p" * 24}}
    return merged(values_of("values-evaluation.yaml"), own)


def render_texts(values: Values, *, name: str = "cloudify", namespace: str = "cloudify-system") -> dict[str, str]:
    """Template → text. Raises helm_python.HelmError with what the chart refuses."""
    return dict(_texts(json.dumps(values), name, namespace))


def render(values: Values, *, name: str = "cloudify", namespace: str = "cloudify-system") -> list[Resource]:
    return json.loads(_resources(json.dumps(values), name, namespace))


@functools.cache
def _texts(values: str, name: str, namespace: str) -> Mapping[str, str]:
    texts = chart().render(json.loads(values), name=name, namespace=namespace)
    return {Path(path).name: text for path, text in texts.items()}


@functools.cache
def _resources(values: str, name: str, namespace: str) -> str:
    """As JSON, from which each caller gets its own."""
    documents = [
        # Of the loaders, the one in C.
        yaml.load_all(text, yaml.CSafeLoader)
        for template, text in _texts(values, name, namespace).items()
        if not template.endswith(_TEXT)
    ]
    return json.dumps([resource for resources in documents for resource in resources if resource])


def of_kind(resources: list[Resource], kind: str) -> dict[str, Resource]:
    """The resources of a kind by name; those of one name in several namespaces by `namespace/name`."""
    found = [resource for resource in resources if resource["kind"] == kind]
    names = [resource["metadata"]["name"] for resource in found]
    return {
        (name if names.count(name) == 1 else f"{resource['metadata']['namespace']}/{name}"): resource
        for name, resource in zip(names, found, strict=True)
    }


def pod_specs(resources: list[Resource]) -> Iterator[tuple[str, dict[str, Any]]]:
    for resource in resources:
        if resource["kind"] in _WORKLOADS:
            yield f"{resource['kind']}/{resource['metadata']['name']}", resource["spec"]["template"]["spec"]


def variables(resources: list[Resource], workload: str) -> dict[str, str]:
    """The settings of the first container of a workload, those of its ConfigMap included."""
    container = dict(pod_specs(resources))[workload]["containers"][0]
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= of_kind(resources, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    return found | {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
