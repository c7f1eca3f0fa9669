"""Creates a Secret with the rights of the pod's service account: create is the only one that it needs."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

import httpx

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_SECONDS = 20.0


class KubernetesError(Exception):
    """The API server refused or can't be reached. The text is for the operator."""


def open_api_server(environment: Mapping[str, str] = os.environ, account: Path = _ACCOUNT) -> httpx.Client:
    """A client of the cluster that this pod runs in. Raises KubernetesError outside of one."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    try:
        token = (account / "token").read_text()
        trusted = ssl.create_default_context(cafile=str(account / "ca.crt"))
    except OSError as error:
        raise KubernetesError(f"This is no pod with a service account's token: {error}.") from error
    if not host or not port:
        raise KubernetesError("This is no pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set.")
    return httpx.Client(
        base_url=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        headers={"Authorization": f"Bearer {token.strip()}"},
        verify=trusted,
        timeout=_TIMEOUT_SECONDS,
        # The API server is in the cluster, whatever proxy leads out of it.
        trust_env=False,
    )


def own_namespace(account: Path = _ACCOUNT) -> str:
    """The namespace of this pod. Raises KubernetesError."""
    try:
        return (account / "namespace").read_text().strip()
    except OSError as error:
        raise KubernetesError(f"This is no pod with a service account: {error}.") from error


def create_secret(api_server: httpx.Client, namespace: str, name: str, values: Mapping[str, str]) -> bool:
    """Returns False, and changes nothing, if the Secret exists. Raises KubernetesError.

    Helm keeps the Secret at an uninstall, because no chart has rendered it and the annotation says so to other tools.
    """
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": "cloudify", "app.kubernetes.io/component": "keys"},
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "stringData": dict(values),
    }
    try:
        answer = api_server.post(f"/api/v1/namespaces/{namespace}/secrets", json=secret)
    except httpx.HTTPError as error:
        raise KubernetesError(f"The Kubernetes API can't be reached: {error}.") from error
    if answer.status_code == HTTPStatus.CONFLICT and _reason(answer) == "AlreadyExists":
        return False
    if answer.status_code != HTTPStatus.CREATED:
        # The answer to a refusal doesn't repeat the values.
        raise KubernetesError(
            f"The Kubernetes API refused to create the Secret {name}: {answer.status_code} {_reason(answer)}."
        )
    return True


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("reason") or answer.json().get("message") or "")
    except (ValueError, AttributeError):
        return answer.reason_phrase
