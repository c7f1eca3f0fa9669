"""The chart's README, from the comments of values.yaml and from values.schema.json."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tests.support.helm_chart import CHART, FIVE_VALUES

README = CHART / "README.md"
# A chart can't read files outside of its folder.
COPIED = ("alerts.yaml", "dashboard.json")
_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z]\w*):(?P<value>.*)")

_BEGIN = """\
<!-- Made by `make docs` from values.yaml and values.schema.json. -->
# Chart cloudify

The platform on Kubernetes: the API, a worker pool for each queue, the reconciler, the exporter, the site routers and
the egress gateway.
PostgreSQL, Redis (or Valkey) and an S3 object store are yours; for a try, `values-evaluation.yaml` brings them.

## Install

Make the release's namespace, which every pod's Pod Security level is enforced in, and three Secrets:

```sh
kubectl create namespace cloudify-system
kubectl label namespace cloudify-system pod-security.kubernetes.io/enforce=restricted
kubectl -n cloudify-system create secret generic database --from-literal=url='postgresql://…'
kubectl -n cloudify-system create secret generic redis --from-literal=url='rediss://…'
kubectl -n cloudify-system create secret generic object-store --from-literal=endpoint='https://…' \\
  --from-literal=access-key='…' --from-literal=secret-key='…'
"""

_END_OF_INSTALL = """\
```

The release's notes name the next commands. The images come from the [Dockerfile](../../Dockerfile): `cloudify`, and
`cloudify-builder` with the same tag.

## The platform's keys

Sessions, variables and credentials are protected by keys that a hook makes at the first install and stores in the
Secret `<release>-keys`. They never pass through Helm. No upgrade makes new ones, and an uninstall leaves the Secret,
and it alone: nothing that they have encrypted can be read without them. Back them up as the notes say.

## Namespaces

The release's namespace holds the platform, the second one builds, the third one sites with pods of their own. The
chart makes the last two. Each denies all traffic that a NetworkPolicy doesn't allow, and each pod fulfils the Pod
Security level `restricted`. No Role has a wildcard; workers that run commands can create Secrets in the namespace of
builds, and read none.

## The way out of builds

Builds reach the object store alone. Installs reach the egress gateway as well, which admits each with credentials of
its own and lets it out to public addresses at ports 80 and 443, to `CLOUDIFY_EGRESS_ALLOWED_NETWORKS`, and through
`CLOUDIFY_EGRESS_PROXY` where that is set (in `settings`; the network policies follow). The gateways keep nothing that a
running install needs: it continues through any of them, restarted or new. Only the list of refused hosts in its log
lacks those that an ended gateway has refused.

## What is refused

A drain time below the time limit of stages, KEDA together with the HPA, a queue without a pool, secrets as values
outside of an evaluation, and namespaces that others share. All problems are named at once.

## Sites with pods of their own

They (`runtime: pods`) run in a namespace with a quota and network policies of its own; see `sitePods`.

## Values

`workers.pools.<pool>` takes every value of `workers.defaults` and is merged over it.

| value | type | default | meaning |
|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Documented:
    """A value with its comment. `path` has dots."""

    path: str
    about: str


def documented_values() -> Iterator[Documented]:
    """Every key of values.yaml with a comment above it. A part of the values needs none; its own have."""
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment.append(text[1:].strip())
            continue
        found = _KEY.fullmatch(line)
        if found is None:
            comment = []
            continue
        depth = len(found["indent"])
        path = [(other, key) for other, key in path if other < depth]
        path.append((depth, found["key"]))
        if comment:
            yield Documented(".".join(key for _, key in path), " ".join(comment))
        comment = []


def default_of(path: str) -> Any:
    value: Any = _values()
    for key in path.split("."):
        value = value[key]
    return value


def schema_of(path: str) -> dict[str, Any] | None:
    """The schema of a value; None if the schema doesn't know it."""
    found = _schema()
    for key in path.split("."):
        properties = found.get("properties", {})
        if key in properties:
            found = properties[key]
        elif isinstance(found.get("additionalProperties"), dict):
            found = found["additionalProperties"]
        else:
            return None
    return found


@functools.cache
def _values() -> dict[str, Any]:
    return yaml.safe_load((CHART / "values.yaml").read_text())


@functools.cache
def _schema() -> dict[str, Any]:
    return json.loads((CHART / "values.schema.json").read_text())


def readme() -> str:
    rows = "".join(_row(value) for value in documented_values())
    return _BEGIN + "\n" + _install_command() + _END_OF_INSTALL + rows


def _install_command() -> str:
    settings = [f"--set {path}={_value(path)}" for path in _paths(FIVE_VALUES)]
    return "helm install cloudify charts/cloudify -n cloudify-system \\\n  " + " \\\n  ".join(settings) + "\n"


def _paths(values: Any, before: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{before}{key}.")
        else:
            yield before + key


def _value(path: str) -> str:
    value: Any = FIVE_VALUES
    for key in path.split("."):
        value = value[key]
    return str(value)


def _row(value: Documented) -> str:
    schema = schema_of(value.path) or {}
    default = default_of(value.path)
    whole = (
        isinstance(default, dict)
        and bool(schema.get("properties"))
        and any(other.path.startswith(f"{value.path}.") for other in documented_values())
    )
    shown = "" if whole or default == "" else f"`{json.dumps(default, ensure_ascii=False)}`"
    cells = (f"`{value.path}`", _type(schema), shown, value.about)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    kinds = schema.get("type", "any")
    return " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
