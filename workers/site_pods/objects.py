"""The objects of sites in the namespace of sites. Every call is idempotent."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from workers.executors.kubernetes.cluster import Cluster, ClusterError
from workers.site_pods.manifests import DEPLOYMENT_LABEL, NAME_LABEL, SELECTOR, image_and_secret_of
from workers.site_pods.pod_request import PORT

_MERGE_PATCH = "application/merge-patch+json"
_GROUPS = {
    "deployments": "/apis/apps/v1",
    "services": "/api/v1",
    "secrets": "/api/v1",
    "poddisruptionbudgets": "/apis/policy/v1",
}


class SiteObjects:
    """Safe from any thread. Raises ClusterError, ClusterAway."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def create(self, kind: str, body: Mapping[str, Any]) -> bool:
        """False if there is one of this name: names follow from what the objects are for."""
        try:
            self._cluster.call("POST", self._path(kind), body=body)
        except ClusterError as error:
            if error.status == HTTPStatus.CONFLICT:
                return False
            raise
        return True

    def find(self, kind: str, name: str) -> dict[str, Any] | None:
        try:
            return self._cluster.call("GET", self._path(kind, name))
        except ClusterError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def deployments(self) -> dict[str, dict[str, Any]]:
        return self._listed("deployments")

    def services(self) -> dict[str, dict[str, Any]]:
        return self._listed("services")

    def pods(self, name: str) -> list[dict[str, Any]]:
        return self._cluster.pods(f"{SELECTOR},{NAME_LABEL}={name}")

    def replace_template(self, name: str, template: Mapping[str, Any]) -> None:
        body = {"spec": {"template": template}}
        self._cluster.call("PATCH", self._path("deployments", name), body=body, content_type=_MERGE_PATCH)

    def remove(self, name: str) -> None:
        """Deletes all objects of a site, last those by which they are found again."""
        deployment = self.find("deployments", name)
        if deployment is not None:
            self.delete("secrets", image_and_secret_of(deployment)[1])
        for kind in ("poddisruptionbudgets", "services", "deployments"):
            self.delete(kind, name)

    def delete(self, kind: str, name: str) -> None:
        """Does nothing if there is none."""
        try:
            self._cluster.call("DELETE", self._path(kind, name), body={"propagationPolicy": "Background"})
        except ClusterError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def close(self) -> None:
        self._cluster.close()

    def _listed(self, kind: str) -> dict[str, dict[str, Any]]:
        items = self._cluster.call("GET", self._path(kind), {"labelSelector": SELECTOR})["items"]
        return {item["metadata"]["name"]: item for item in items}

    def _path(self, kind: str, name: str = "") -> str:
        path = f"{_GROUPS[kind]}/namespaces/{self._cluster.namespace}/{kind}"
        return f"{path}/{name}" if name else path


def address_of(service: Mapping[str, Any]) -> str:
    """The IP:port at which routers reach a site.

    An address instead of a name: routers then need no DNS, which may be away while sites are served, and a test or an
    operator outside of the cluster's DNS reaches it, too. It stays for as long as the Service; the upkeep notices a
    Service that was made again, and the pods refuse what is meant for another deployment.
    """
    address = str(service["spec"]["clusterIP"])
    return f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"


def deployment_id_of(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["labels"].get(DEPLOYMENT_LABEL, ""))
