"""The objects that a run makes in the cluster: a Job with one pod, and the Secret with the requests of its programs."""

from __future__ import annotations

import base64
import ipaddress
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.executors.base import ExecutionSpec
from workers.executors.kubernetes.plan import PlannedTree
from workers.executors.kubernetes.pod.layout import CERTIFICATES, CODE, FILES, REQUEST, STATE, TREES
from workers.executors.layout import HOME

LABEL = "cloudify.io/"
# Network policies select pods by it; its values are `none` and `filtered`.
NETWORK_LABEL = f"{LABEL}network"
JOB_LABEL, RUN_LABEL = f"{LABEL}job", f"{LABEL}run"
NAME_ANNOTATION, STAGING_ANNOTATION = f"{LABEL}run-name", f"{LABEL}staging"

# Of the containers around the command: unpacking takes zstd's window (128 MiB) and a list of the files.
_OWN_MEMORY_BYTES = 384 * 1024 * 1024
_SMALLEST_MEMORY_FILES = 16 * 1024 * 1024
_SMALLEST_DISK_BYTES = 256 * 1024 * 1024
# For fetching the layers, and for storing the outputs.
FETCH_SECONDS, PACK_SECONDS = 600, 900
# How long a Job may wait for a machine; links live as long as the Job.
QUEUE_SECONDS = 3 * 3600
_KEPT_SECONDS = 600
_STOP_MARGIN_SECONDS = 15
# Every run has a user of its own, so that processes of other runs on the node aren't counted with its own. Where the
# pod has a user namespace, the node gives it 65536 ids that nobody else has.
_FIRST_USER, _USERS = 1_000_000, 1_000_000_000
_USER_IN_NAMESPACE = 10001
_PARTS = ("fetch", "command", "pack")


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What all runs of a worker have in common. `architecture`: of the nodes, as Kubernetes names it.

    `host_aliases`: name → address.
    """

    image: str
    architecture: str
    runtime_class: str = ""
    has_user_namespaces: bool = False
    priority_class: str = ""
    pull_secrets: tuple[str, ...] = ()
    cpu_request_percent: int = 25
    host_aliases: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class RunNames:
    """`job`: the Job's name; `secret`: the Secret's, new for each Job; `run`: a label's value for the run's name."""

    job: str
    secret: str
    run: str
    staging: str

    @property
    def user(self) -> int:
        return _FIRST_USER + int.from_bytes(self.job.encode()[-12:], "big") % _USERS


def job_seconds(spec: ExecutionSpec) -> int:
    """The longest life of a run's pod, from its start on a node."""
    limits = spec.limits
    return FETCH_SECONDS + math.ceil(limits.wall_seconds + limits.stop_seconds) + PACK_SECONDS


def secret_of(
    names: RunNames, uid: str, requests: Mapping[str, Any], code: bytes, certificates: bytes | None, user: int
) -> dict[str, Any]:
    """The Secret, which the Job of this `uid` owns: it is deleted with it."""
    passwd = f"root:x:0:0:root:/root:/bin/sh\nbuild:x:{user}:{user}:build:{HOME}:/bin/sh\n"
    data = {
        "code": code,
        "passwd": passwd.encode(),
        "group": f"root:x:0:\nbuild:x:{user}:\n".encode(),
        **{part: json.dumps(requests[part]).encode() for part in _PARTS},
    }
    if certificates is not None:
        data["certificates"] = certificates
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": names.secret,
            "labels": {JOB_LABEL: names.job, RUN_LABEL: names.run},
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": names.job, "uid": uid, "blockOwnerDeletion": False}
            ],
        },
        "immutable": True,
        "data": {name: base64.b64encode(content).decode() for name, content in data.items()},
    }


def job_of(
    spec: ExecutionSpec,
    trees: Sequence[PlannedTree],
    names: RunNames,
    settings: PodSettings,
    *,
    has_certificates: bool,
) -> dict[str, Any]:
    """The Job, suspended: its pod starts when the Secret is there."""
    labels = {
        "app.kubernetes.io/managed-by": "cloudify",
        "app.kubernetes.io/component": "build",
        JOB_LABEL: names.job,
        RUN_LABEL: names.run,
        NETWORK_LABEL: "filtered" if spec.network == "proxy" else "none",
    }
    notes = {NAME_ANNOTATION: spec.name, STAGING_ANNOTATION: names.staging}
    notes |= {f"{LABEL}{name}": value for name, value in spec.labels.items()}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": names.job, "labels": labels, "annotations": notes},
        "spec": {
            "suspend": True,
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 0,
            "activeDeadlineSeconds": job_seconds(spec) + QUEUE_SECONDS,
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "podFailurePolicy": {
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "template": {
                "metadata": {"labels": labels, "annotations": notes},
                "spec": _pod(spec, trees, names, settings, has_certificates=has_certificates),
            },
        },
    }


def user_of(names: RunNames, settings: PodSettings) -> int:
    return _USER_IN_NAMESPACE if settings.has_user_namespaces else names.user


def _pod(
    spec: ExecutionSpec,
    trees: Sequence[PlannedTree],
    names: RunNames,
    settings: PodSettings,
    *,
    has_certificates: bool,
) -> dict[str, Any]:
    user = user_of(names, settings)
    memory_files = max(spec.limits.memory_bytes // 2, _SMALLEST_MEMORY_FILES)
    own = [_mount("trees", TREES), _mount("state", STATE)]
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "nodeSelector": {"kubernetes.io/os": "linux", "kubernetes.io/arch": settings.architecture},
        "activeDeadlineSeconds": job_seconds(spec),
        "terminationGracePeriodSeconds": math.ceil(spec.limits.stop_seconds) + _STOP_MARGIN_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "hostname": "build",
        # No names are resolved: the one address is known, and this one answers nobody.
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},
        "hostAliases": [
            {"ip": address, "hostnames": [name]}
            for name, address in settings.host_aliases.items()
            if not _is_address(name)
        ],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
        "initContainers": [
            _container("fetch", settings, _own_resources(spec, trees, settings), own),
            _container("command", settings, _resources(spec, trees, settings), _command_mounts(spec, trees)),
        ],
        "containers": [_container("pack", settings, _own_resources(spec, trees, settings), own)],
        "volumes": [
            {"name": "trees", "emptyDir": {}},
            {"name": "state", "emptyDir": {}},
            _memory_volume("tmp", memory_files),
            _memory_volume("home", memory_files),
            *(_files_volume(names.secret, part, has_certificates=has_certificates) for part in _PARTS),
            {
                "name": "identity",
                "secret": {
                    "secretName": names.secret,
                    "defaultMode": 0o444,
                    "items": [{"key": name, "path": name} for name in ("passwd", "group")],
                },
            },
        ],
    }
    if settings.runtime_class:
        pod["runtimeClassName"] = settings.runtime_class
    if settings.priority_class:
        pod["priorityClassName"] = settings.priority_class
    if settings.has_user_namespaces:
        pod["hostUsers"] = False
    return pod


def _container(
    part: str, settings: PodSettings, resources: Mapping[str, Any], mounts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "name": part,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-I", "-S", f"{FILES}/{CODE}", part],
        "workingDir": "/",
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": resources,
        "volumeMounts": [_mount(f"{part}-files", FILES, is_writable=False), *mounts],
    }


def _command_mounts(spec: ExecutionSpec, trees: Sequence[PlannedTree]) -> list[dict[str, Any]]:
    taken = {tree.target for tree in trees}
    mounts = [
        _mount(name, target)
        for name, target in (("tmp", "/tmp"), ("home", HOME))  # noqa: S108 - a path inside the container
        if target not in taken
    ]
    mounts += [
        _mount("trees", tree.target, part=tree.place, is_writable=tree.is_writable)
        # A tree inside another one is mounted after it.
        for tree in sorted(trees, key=lambda tree: tree.target.count("/"))
    ]
    mounts += [_mount("identity", f"/etc/{name}", part=name, is_writable=False) for name in ("passwd", "group")]
    return mounts


def _mount(volume: str, target: str, *, part: str = "", is_writable: bool = True) -> dict[str, Any]:
    mount: dict[str, Any] = {"name": volume, "mountPath": target, "readOnly": not is_writable}
    if part:
        mount["subPath"] = part
    return mount


def _memory_volume(name: str, size: int) -> dict[str, Any]:
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": str(size)}}


def _files_volume(secret: str, part: str, *, has_certificates: bool) -> dict[str, Any]:
    """What one container sees of the Secret: links for `fetch` and `pack` only, variables for the command only."""
    items = [{"key": "code", "path": CODE}, {"key": part, "path": REQUEST}]
    if has_certificates:
        items.append({"key": "certificates", "path": CERTIFICATES})
    return {"name": f"{part}-files", "secret": {"secretName": secret, "defaultMode": 0o444, "items": items}}


def _resources(spec: ExecutionSpec, trees: Sequence[PlannedTree], settings: PodSettings) -> dict[str, Any]:
    limits = spec.limits
    disk = _disk_bytes(spec, trees)
    return {
        # Processor time may be shared, memory can't be.
        "requests": {
            "cpu": f"{max(int(limits.cpu_count * 10 * settings.cpu_request_percent), 10)}m",
            "memory": str(limits.memory_bytes),
            "ephemeral-storage": str(max(limits.disk_bytes // 4, _SMALLEST_MEMORY_FILES)),
        },
        "limits": {
            "cpu": f"{int(limits.cpu_count * 1000)}m",
            "memory": str(limits.memory_bytes),
            "ephemeral-storage": str(disk),
        },
    }


def _own_resources(spec: ExecutionSpec, trees: Sequence[PlannedTree], settings: PodSettings) -> dict[str, Any]:
    of_command = _resources(spec, trees, settings)
    memory = str(_OWN_MEMORY_BYTES)
    return {
        "requests": {**of_command["requests"], "memory": memory},
        "limits": {**of_command["limits"], "memory": memory},
    }


def _disk_bytes(spec: ExecutionSpec, trees: Sequence[PlannedTree]) -> int:
    """A bound behind the exact limit of `command`: each layer is an earlier output, the tarball another one."""
    layers = sum(len(tree.layers) for tree in trees)
    return max((layers + 2) * spec.limits.disk_bytes, _SMALLEST_DISK_BYTES) + spec.limits.output_bytes * 2


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
