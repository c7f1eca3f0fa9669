"""Checks resources against the schemas of Kubernetes in the package kubernetes-validate, and of operators' resources.

The package's own function reads all definitions, some megabytes, for each resource; here they are read once.
"""

from __future__ import annotations

import functools
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource

# The schemas of custom resource definitions without descriptions, with unknown fields refused.
CUSTOM = Path(__file__).resolve().parents[1] / "fixtures" / "crds"
_SCHEMAS = files("kubernetes_validate") / "kubernetes-json-schema"


def validate(resource: dict[str, Any], version: str) -> None:
    """`version`: of Kubernetes, like 1.35. Unknown fields are refused. Raises jsonschema.ValidationError."""
    _validate(json.dumps(resource), version)


@functools.cache
def _validate(text: str, version: str) -> None:
    """Most resources are the same whatever the values."""
    resource = json.loads(text)
    custom = CUSTOM / f"{resource['kind']}.json"
    if custom.is_file():
        jsonschema.Draft202012Validator(json.loads(custom.read_text())).validate(resource)
    else:
        # rbac.authorization.k8s.io/v1 → rbac-v1
        api_version = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", resource["apiVersion"])
        _validator(f"{resource['kind'].lower()}-{api_version}.json", version).validate(resource)


@functools.cache
def _validator(name: str, version: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((_SCHEMAS / f"v{version}.0-local-strict" / name).read_text())
    registry = Resource.from_contents(schema) @ _definitions(version)
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _definitions(version: str) -> Registry[Any]:
    text = (_SCHEMAS / f"v{version}.0-local-strict" / "_definitions.json").read_text()
    registry: Registry[Any] = Registry()
    return Resource.from_contents(json.loads(text)) @ registry
