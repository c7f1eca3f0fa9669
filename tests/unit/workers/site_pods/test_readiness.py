"""What the API server says of pods that aren't ready, and what it means."""

from __future__ import annotations

from typing import Any

import pytest

from workers.site_pods.readiness import TroubleKind, find_trouble, is_ready, waiting_of

QUOTA = 'pods "site-x" is forbidden: exceeded quota: site-quota, requested: pods=1, used: pods=100, limited: pods=100'


def deployment(*, ready: int = 0, observed: int = 2, updated: int = 2, failure: str = "") -> dict[str, Any]:
    conditions = [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": failure}]
    return {
        "metadata": {"generation": 2},
        "spec": {"replicas": 2},
        "status": {
            "observedGeneration": observed,
            "readyReplicas": ready,
            "updatedReplicas": updated,
            "conditions": conditions if failure else [],
        },
    }


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "pod"}, "status": status}


def ended(name: str, code: int, restarts: int, message: str = "said") -> dict[str, Any]:
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    last = {"terminated": {"exitCode": code, "reason": "Error", "message": message}}
    return {"name": name, "restartCount": restarts, "state": state, "lastState": last}


@pytest.mark.parametrize(
    ("found", "ready"),
    [
        (deployment(ready=2), True),
        (deployment(ready=1), False),
        # Of the former template, whose replacement the controller hasn't begun.
        (deployment(ready=2, observed=1), False),
        (deployment(ready=2, updated=1), False),
    ],
)
def test_ready_are_all_pods_of_the_present_template(found: dict[str, Any], ready: bool) -> None:
    assert is_ready(found) is ready


@pytest.mark.parametrize(
    ("found", "pods", "kind"),
    [
        (deployment(failure=QUOTA), [], TroubleKind.QUOTA),
        (deployment(failure='pods "x" is forbidden: violates PodSecurity'), [], TroubleKind.REFUSED),
        (
            deployment(),
            [pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "Insufficient cpu"}])],
            TroubleKind.UNSCHEDULABLE,
        ),
        (
            deployment(),
            [pod(initContainerStatuses=[{"name": "fetch", "state": {"waiting": {"reason": "ImagePullBackOff"}}}])],
            TroubleKind.IMAGE,
        ),
        (
            deployment(),
            [pod(containerStatuses=[{"name": "serve", "state": {"waiting": {"reason": "CreateContainerError"}}}])],
            TroubleKind.BROKEN,
        ),
        (deployment(), [pod(containerStatuses=[ended("serve", 1, 2)])], TroubleKind.CRASHING),
        (deployment(), [pod(initContainerStatuses=[ended("fetch", 3, 0)])], TroubleKind.ARTIFACT_MISSING),
        # The worst one is told: more of what is lacking wouldn't help.
        (deployment(failure=QUOTA), [pod(containerStatuses=[ended("serve", 1, 5)])], TroubleKind.CRASHING),
    ],
)
def test_trouble(found: dict[str, Any], pods: list[dict[str, Any]], kind: TroubleKind) -> None:
    trouble = find_trouble(found, pods)
    assert trouble is not None
    assert trouble.kind is kind


@pytest.mark.parametrize(
    "one",
    [
        pod(),
        # It is started again, and may succeed.
        pod(initContainerStatuses=[ended("fetch", 1, 1)]),
        pod(initContainerStatuses=[{"name": "fetch", "state": {"terminated": {"exitCode": 0}}, "restartCount": 4}]),
        pod(initContainerStatuses=[{"name": "fetch", "state": {"waiting": {"reason": "PodInitializing"}}}]),
        # Of the former template.
        {
            "metadata": {"deletionTimestamp": "now"},
            "status": pod(containerStatuses=[ended("serve", 1, 9)])["status"],
        },
    ],
)
def test_what_is_on_its_way_is_no_trouble(one: dict[str, Any]) -> None:
    assert find_trouble(deployment(), [one]) is None


def test_what_a_pod_waits_for_is_told() -> None:
    pulling = pod(initContainerStatuses=[{"name": "fetch", "state": {"waiting": {"reason": "PodInitializing"}}}])
    assert waiting_of([pulling, pulling]) == "fetch waits: PodInitializing"
    assert waiting_of([]) == "0 pods are there"
