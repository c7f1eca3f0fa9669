"""Commands in pods of a Kubernetes cluster."""

from __future__ import annotations

import hmac
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.settings import EgressSettings, Settings
from workers.executors.base import Executor
from workers.filesystem.ownership import Owner

if TYPE_CHECKING:
    from workers.executors.kubernetes.egress import EgressAccess

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def open_executor(settings: Settings) -> Executor:
    """See ExecutorBackend."""
    from workers.executors.environment import registry_environment
    from workers.executors.kubernetes.cluster import Cluster, resolve
    from workers.executors.kubernetes.executor import KubernetesExecutor, StoreAddress
    from workers.executors.kubernetes.manifests import PodSettings

    chosen, store, network = settings.executor, settings.object_store, settings.network
    endpoint = store.link_endpoint or store.endpoint
    host = urlsplit(endpoint).hostname or ""
    machine = platform.machine()
    pods = PodSettings(
        image=chosen.builder_image,
        architecture=_ARCHITECTURES.get(machine, machine),
        runtime_class=chosen.kubernetes_runtime_class,
        priority_class=chosen.kubernetes_priority_class,
        has_user_namespaces=chosen.kubernetes_user_namespaces,
        pull_secrets=chosen.kubernetes_pull_secrets,
        cpu_request_percent=chosen.kubernetes_cpu_request_percent,
        host_aliases={host: resolve(host)},
    )
    configuration = Path(chosen.kubernetes_config) if chosen.kubernetes_config else None
    return KubernetesExecutor(
        Cluster.connect(chosen.kubernetes_namespace, configuration),
        pods,
        StoreAddress(f"{endpoint}/{store.bucket}"),
        _egress(settings.egress),
        key=hmac.digest(settings.secrets.secret_key, b"names of runs", "sha256"),
        registries=registry_environment(network, dict(os.environ)),
        certificates=network.ca_bundle.read_bytes() if network.ca_bundle is not None else None,
        machine=machine,
    )


def _egress(settings: EgressSettings) -> EgressAccess:
    from workers.executors.kubernetes.egress import EgressGatewayAccess, NoEgress

    if not settings.gateway_url:
        return NoEgress()
    return EgressGatewayAccess(settings.gateway_url, settings.control_url, settings.token)


def owner_of_trees() -> Owner | None:
    """Trees are unpacked in the pods, and here for the worker alone."""
    return None
