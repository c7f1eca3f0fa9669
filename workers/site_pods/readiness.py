"""What keeps the pods of a site from being ready, as the API server tells it. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.site_pods.pod_request import ARTIFACT_MISSING

# Starts after which a container that has ended each time is not expected to run.
_STARTS = 3
_IMAGE_REASONS = ("ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "ErrImagePull", "ImagePullBackOff")
_BROKEN_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


class TroubleKind(enum.Enum):
    QUOTA = "quota"  # the namespace's quota has no room
    REFUSED = "refused"  # the API server refuses the pods for another reason
    UNSCHEDULABLE = "unschedulable"  # no node has room
    IMAGE = "image"  # the image is missing or can't be pulled
    BROKEN = "broken"  # a container can't be started
    CRASHING = "crashing"  # a container ends each time
    ARTIFACT_MISSING = "artifact missing"  # the object store has lost a part of the site


@dataclass(frozen=True, slots=True)
class Trouble:
    """`text`: the cluster's own words."""

    kind: TroubleKind
    text: str


def is_ready(deployment: Mapping[str, Any]) -> bool:
    """Whether all pods that were asked for are ready, of the present template."""
    status, wanted = deployment.get("status", {}), int(deployment["spec"]["replicas"])
    return (
        int(status.get("observedGeneration", 0)) >= int(deployment["metadata"]["generation"])
        and int(status.get("readyReplicas", 0)) >= wanted
        and int(status.get("updatedReplicas", 0)) >= wanted
    )


def find_trouble(deployment: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> Trouble | None:
    """The worst of what is reported; None while everything goes its way."""
    found = sorted(
        [*_of_deployment(deployment), *(trouble for pod in pods for trouble in _of_pod(pod))],
        key=lambda trouble: _ORDER.index(trouble.kind),
    )
    return found[0] if found else None


def waiting_of(pods: Sequence[Mapping[str, Any]]) -> str:
    """What the containers of the pods wait for, for the cluster's operator."""
    statuses = [pod.get("status", {}) for pod in pods]
    containers = [
        container
        for status in statuses
        for key in ("initContainerStatuses", "containerStatuses")
        for container in status.get(key) or ()
    ]
    reasons = {
        f"{container['name']} waits: {container['state']['waiting'].get('reason', 'for no reason')}"
        for container in containers
        if "waiting" in (container.get("state") or {})
    }
    return ", ".join(sorted(reasons)) or f"{len(pods)} pods are there"


_ORDER = [
    TroubleKind.ARTIFACT_MISSING,
    TroubleKind.CRASHING,
    TroubleKind.IMAGE,
    TroubleKind.BROKEN,
    TroubleKind.QUOTA,
    TroubleKind.REFUSED,
    TroubleKind.UNSCHEDULABLE,
]


def _of_deployment(deployment: Mapping[str, Any]) -> Iterator[Trouble]:
    for condition in deployment.get("status", {}).get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            text = str(condition.get("message") or condition.get("reason"))
            yield Trouble(TroubleKind.QUOTA if "exceeded quota" in text else TroubleKind.REFUSED, text)


def _of_pod(pod: Mapping[str, Any]) -> Iterator[Trouble]:
    status = pod.get("status", {})
    if pod["metadata"].get("deletionTimestamp"):
        return
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield Trouble(TroubleKind.UNSCHEDULABLE, str(condition.get("message") or condition.get("reason")))
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(key) or ():
            yield from _of_container(container)


def _of_container(container: Mapping[str, Any]) -> Iterator[Trouble]:
    name, state = str(container["name"]), container.get("state") or {}
    waiting = state.get("waiting") or {}
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in _IMAGE_REASONS:
        yield Trouble(TroubleKind.IMAGE, f"{reason}: {message[:500]}")
    if reason in _BROKEN_REASONS:
        yield Trouble(TroubleKind.BROKEN, f"{name}: {reason}: {message[:500]}")
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if ended is None or int(ended.get("exitCode", 0)) == 0:
        return
    said = f"{name} ended with exit code {ended['exitCode']} ({ended.get('reason', '')}): {ended.get('message', '')}"
    if name == "fetch" and int(ended["exitCode"]) == ARTIFACT_MISSING:
        yield Trouble(TroubleKind.ARTIFACT_MISSING, str(ended.get("message", "")).strip())
    elif int(container.get("restartCount", 0)) >= _STARTS - 1:
        yield Trouble(TroubleKind.CRASHING, said.strip()[:1000])
