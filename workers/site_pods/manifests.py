"""The objects of a site with pods of its own: a Deployment, a Service, a Secret and, with several pods, a disruption
budget. Their name follows from the deployment and its artifact; the Secret's also from its content. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shared.routing.changes import SiteArtifact
from workers.site_pods.pod_request import PORT, PodRequest

LABEL = "cloudify.io/"
NAME_LABEL, DEPLOYMENT_LABEL, PROJECT_LABEL = f"{LABEL}site", f"{LABEL}deployment", f"{LABEL}project"
SELECTOR = "app.kubernetes.io/managed-by=cloudify,app.kubernetes.io/component=site"
_REQUEST = "request.json"
_REQUEST_DIRECTORY, _DIRECTORY = "/run/cloudify/site", "/site"
_USER = 10001
# Of directories, of the list of files, and of blocks that files don't fill.
_DISK_MARGIN_BYTES = 64 * 1024 * 1024
_MARGIN_OF_A_FILE = 8192
# Requests that are already on their way reach a pod for some seconds after its end was decided.
_STOP_DELAY_SECONDS, _STOP_SECONDS = 5, 20


@dataclass(frozen=True, slots=True)
class SitePodSpec:
    """The pods that a deployment should have."""

    artifact: SiteArtifact
    project_id: str
    replicas: int

    @property
    def name(self) -> str:
        return name_of(self.artifact.deployment_id, self.artifact.manifest_digest)


def name_of(deployment_id: str, manifest_digest: str) -> str:
    """At most 63 characters of a DNS label. Another artifact of the same deployment has other pods."""
    identifier = re.sub(r"[^a-z0-9]", "", deployment_id.partition("_")[2])
    return f"site-{identifier}"[:50].rstrip("-") + f"-{manifest_digest[:8]}"


def secret_name_of(spec: SitePodSpec, request: PodRequest) -> str:
    """Another request, such as one with a token of another key, has another Secret."""
    return f"{spec.name}-{hashlib.sha256(msgspec.json.encode(request)).hexdigest()[:8]}"


def secret_of(spec: SitePodSpec, request: PodRequest) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(spec) | {"name": secret_name_of(spec, request)},
        "immutable": True,
        "data": {_REQUEST: base64.b64encode(msgspec.json.encode(request)).decode()},
    }


def service_of(spec: SitePodSpec) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(spec),
        "spec": {
            "selector": {NAME_LABEL: spec.name},
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def budget_of(spec: SitePodSpec) -> dict[str, Any] | None:
    """None for a single pod, whose budget would block every drain of its node."""
    if spec.replicas < 2:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(spec),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {NAME_LABEL: spec.name}}},
    }


def deployment_of(
    spec: SitePodSpec,
    image: str,
    request: PodRequest,
    *,
    bytes_of_files: int,
    files: int,
    pull_secrets: Sequence[str] = (),
) -> dict[str, Any]:
    disk_bytes = bytes_of_files + files * _MARGIN_OF_A_FILE + _DISK_MARGIN_BYTES
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(spec),
        "spec": {
            "replicas": spec.replicas,
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": {NAME_LABEL: spec.name}},
            # Of another image of the platform: one pod more than asked for, none less.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels_of(spec)},
                "spec": _pod(spec, image, secret_name_of(spec, request), disk_bytes, pull_secrets),
            },
        },
    }


def labels_of(spec: SitePodSpec) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "cloudify",
        "app.kubernetes.io/managed-by": "cloudify",
        "app.kubernetes.io/component": "site",
        NAME_LABEL: spec.name,
        DEPLOYMENT_LABEL: spec.artifact.deployment_id,
        PROJECT_LABEL: spec.project_id,
    }


def _metadata(spec: SitePodSpec) -> dict[str, Any]:
    return {"name": spec.name, "labels": labels_of(spec)}


def image_and_secret_of(deployment: Mapping[str, Any]) -> tuple[str, str]:
    """What the pods of a Deployment are made from: the image, and the name of the Secret."""
    pod = deployment["spec"]["template"]["spec"]
    [secret] = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
    return str(pod["containers"][0]["image"]), str(secret)


def _pod(spec: SitePodSpec, image: str, secret: str, disk_bytes: int, pull_secrets: Sequence[str]) -> dict[str, Any]:
    deployment_id = spec.artifact.deployment_id
    fetch = _container(
        "fetch",
        image,
        ["fetch", f"{_REQUEST_DIRECTORY}/{_REQUEST}", _DIRECTORY],
        disk_bytes,
        memory="256Mi",
        mounts=[("site", _DIRECTORY, False), ("request", _REQUEST_DIRECTORY, True), ("tmp", "/tmp", False)],  # noqa: S108 - a path inside the container
    )
    serve = _container(
        "serve",
        image,
        ["serve", deployment_id, _DIRECTORY],
        disk_bytes,
        memory="128Mi",
        mounts=[("site", _DIRECTORY, True), ("tmp", "/tmp", False)],  # noqa: S108 - as above
    )
    serve |= {
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": _probe(deployment_id, periodSeconds=1, failureThreshold=60),
        "readinessProbe": _probe(deployment_id, periodSeconds=5, failureThreshold=3),
        "livenessProbe": _probe(deployment_id, periodSeconds=20, failureThreshold=3),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_STOP_DELAY_SECONDS)]}}},
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _STOP_DELAY_SECONDS + _STOP_SECONDS,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {NAME_LABEL: spec.name}},
            }
        ],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "imagePullSecrets": [{"name": name} for name in pull_secrets],
        "initContainers": [fetch],
        "containers": [serve],
        "volumes": [
            {"name": "site", "emptyDir": {"sizeLimit": str(disk_bytes)}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
            {"name": "request", "secret": {"secretName": secret, "defaultMode": 0o440}},
        ],
    }


def _container(
    name: str, image: str, arguments: list[str], disk_bytes: int, *, memory: str, mounts: list[tuple[str, str, bool]]
) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-m", "workers.router.pod", *arguments],
        # What `fetch` can't do is told in its last lines.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": {
            # 100 sites of one pod are the specification's quota: 10 processors and 5 GiB.
            "requests": {"cpu": "50m", "memory": "50Mi", "ephemeral-storage": str(disk_bytes)},
            "limits": {"cpu": "500m", "memory": memory, "ephemeral-storage": str(disk_bytes)},
        },
        "volumeMounts": [{"name": volume, "mountPath": path, "readOnly": only} for volume, path, only in mounts],
    }


def _probe(deployment_id: str, **figures: int) -> Mapping[str, Any]:
    """As a router asks: it answers only for this deployment, and only with its files."""
    headers = [{"name": "X-Cloudify-Deployment", "value": deployment_id}]
    request = {"path": "/.well-known/cloudify/deployment", "port": "http", "httpHeaders": headers}
    return {"httpGet": request, "timeoutSeconds": 3, **figures}
