"""The level `restricted` of the Pod Security Standards, and what this platform asks for beyond it.

From https://kubernetes.io/docs/concepts/security/pod-security-standards/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
_PROFILES = {"RuntimeDefault", "Localhost"}


def violations(pod: dict[str, Any]) -> Iterator[str]:
    """What breaks the level, one sentence each."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{field} is set"
    for volume in pod.get("volumes", []):
        if not set(volume) - {"name"} <= _VOLUMES:
            yield f"the volume {volume['name']} is of a forbidden type"
    whole = pod.get("securityContext", {})
    if whole.get("sysctls"):
        yield "sysctls are set"
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        for problem in (*_breaches(container, whole), *_own_rules(container)):
            yield f"{container['name']} {problem}"


def _breaches(container: dict[str, Any], whole: dict[str, Any]) -> Iterator[str]:
    """`whole`: the security context of the pod."""
    own = container.get("securityContext", {})
    if own.get("privileged"):
        yield "is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
        yield "has capabilities"
    if own.get("runAsNonRoot", whole.get("runAsNonRoot")) is not True:
        yield "may run as root"
    if not own.get("runAsUser", whole.get("runAsUser", 0)):
        yield "has no numeric user"
    if own.get("seccompProfile", whole.get("seccompProfile", {})).get("type") not in _PROFILES:
        yield "has no seccomp profile"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "has a port of the node"


def _own_rules(container: dict[str, Any]) -> Iterator[str]:
    if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
        yield "can write to its root file system"
    resources = container.get("resources", {})
    if not {"cpu", "memory", "ephemeral-storage"} <= set(resources.get("requests", {})):
        yield "requests no resources"
    if not {"memory", "ephemeral-storage"} <= set(resources.get("limits", {})):
        yield "has no limits"
