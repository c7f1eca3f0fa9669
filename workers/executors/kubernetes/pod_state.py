"""What a pod's status says: whether it waits, runs or has ended, and how. Pure.

Kubernetes documentation: concepts/workloads/pods/pod-lifecycle, pod-disruption-conditions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.executors.base import RunOutcome

# Of an image that is not there or can't be used: waiting won't help soon.
_IMAGE_REASONS = ("ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "ErrImagePull", "ImagePullBackOff")
_BROKEN_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
# Messages of evictions that the pod's own limits caused (kubelet: eviction_manager.go).
_OWN_DISK = ("exceeds the limit", "exceeds the total limit", "exceeded its local ephemeral storage limit")


@dataclass(frozen=True, slots=True)
class Ended:
    """How one container ended. `reason` is the kubelet's (`OOMKilled`, `Error`, `Completed`, …)."""

    exit_code: int
    reason: str
    message: str

    def words(self) -> dict[str, str]:
        """The last words of `fetch` or `pack`; empty if there are none."""
        try:
            found = json.loads(self.message)
            return {str(name): str(value) for name, value in found.items()}
        except (ValueError, AttributeError):
            return {}


class PodState:
    """A view of a pod as the API server has it."""

    def __init__(self, pod: Mapping[str, Any]) -> None:
        self._pod = pod
        status = pod.get("status", {})
        self._status: Mapping[str, Any] = status
        self._containers: dict[str, Mapping[str, Any]] = {
            container["name"]: container.get("state", {})
            for key in ("initContainerStatuses", "containerStatuses")
            for container in status.get(key) or ()
        }

        self._images: dict[str, str] = {
            container["name"]: str(container.get("imageID") or "").removeprefix("docker-pullable://")
            for key in ("initContainerStatuses", "containerStatuses")
            for container in status.get(key) or ()
        }

    @property
    def name(self) -> str:
        return str(self._pod["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self._pod["metadata"]["uid"])

    @property
    def is_over(self) -> bool:
        """No container of it runs any more."""
        return self._status.get("phase") in ("Succeeded", "Failed")

    @property
    def is_being_deleted(self) -> bool:
        return bool(self._pod["metadata"].get("deletionTimestamp"))

    @property
    def has_succeeded(self) -> bool:
        return self._status.get("phase") == "Succeeded"

    def has_started(self, container: str) -> bool:
        state = self._containers.get(container, {})
        return "running" in state or "terminated" in state

    def image(self, container: str) -> str:
        """The image that the container has, by its content; empty if that isn't known yet."""
        return self._images.get(container, "")

    def ended(self, container: str) -> Ended | None:
        state = self._containers.get(container, {}).get("terminated")
        if state is None:
            return None
        return Ended(int(state.get("exitCode", -1)), str(state.get("reason", "")), str(state.get("message", "")))

    def waits_for(self) -> str | None:
        """Why nothing of it runs yet, in the scheduler's words; None if there is nothing to say."""
        if self._status.get("phase") != "Pending":
            return None
        condition = self._condition("PodScheduled")
        if condition is not None and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "no machine is chosen yet")
        return None

    def refusal(self) -> tuple[RunOutcome, str] | None:
        """Why a container can't be started; nothing will change that without somebody's help."""
        for name, state in self._containers.items():
            waiting = state.get("waiting") or {}
            reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
            if reason in _IMAGE_REASONS:
                advice = "Name one in CLOUDIFY_BUILDER_IMAGE, by digest, that the cluster's nodes have or can pull."
                return RunOutcome.IMAGE_ERROR, f"The builder image can't be used ({reason}): {message[:500]} {advice}"
            if reason in _BROKEN_REASONS:
                return RunOutcome.PLATFORM_LOST, f"The container {name} can't be started ({reason}): {message[:500]}"
        return None

    def disruption(self) -> tuple[RunOutcome, str] | None:
        """What ended the pod from outside, if something did."""
        reason, message = str(self._status.get("reason", "")), str(self._status.get("message", ""))
        if reason == "Evicted" and any(text in message for text in _OWN_DISK):
            return (
                RunOutcome.DISK_FULL,
                f"The command was stopped: it wrote more than its pod may hold ({message[:300]}).",
            )
        condition = self._condition("DisruptionTarget")
        if condition is not None and condition.get("status") == "True":
            said = condition.get("message") or condition.get("reason")
            return RunOutcome.EVICTED, f"The cluster took the machine from the command: {said}"
        if reason == "Evicted":
            return RunOutcome.EVICTED, f"The node evicted the command: {message[:300]}"
        if reason == "DeadlineExceeded":
            return RunOutcome.PLATFORM_LOST, "The pod passed the deadline of its Job."
        if reason in ("NodeLost", "NodeShutdown", "Terminated", "Preempting", "NodeAffinity") or reason.startswith(
            "OutOf"
        ):
            return RunOutcome.EVICTED, f"The node ended the pod ({reason}): {message[:300]}"
        if reason == "UnexpectedAdmissionError":
            return RunOutcome.EVICTED, f"The node refused the pod: {message[:300]}"
        return None

    def _condition(self, kind: str) -> Mapping[str, Any] | None:
        return next((each for each in self._status.get("conditions") or () if each.get("type") == kind), None)
