"""Keeps the cluster as the database says: removes pods of deployments that nothing serves, and makes again what is
missing of those that are served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from shared.db.database import Database
from shared.errors import PlatformError
from shared.releases.site_pod_repository import SitePodRepository, StandingSite
from shared.routing.bell import RouteBell
from shared.routing.log import RouteLog
from shared.settings import SitePodSettings
from workers.site_pods.manifests import SitePodSpec, name_of
from workers.site_pods.objects import SiteObjects, address_of, deployment_id_of
from workers.site_pods.readiness import is_ready
from workers.site_pods.site_pods import SitePods

# Sites whose pods may be replaced at once, or are down for reasons of their own.
_AT_ONCE = 3

_log: Any = structlog.get_logger(__name__)


class SitePodUpkeep:
    """One pass changes nothing where all is well."""

    def __init__(
        self,
        objects: SiteObjects,
        pods: SitePods,
        repository: SitePodRepository,
        settings: SitePodSettings,
        *,
        database: Database,
        route_log: RouteLog,
        bell: RouteBell,
    ) -> None:
        self._objects = objects
        self._pods = pods
        self._repository = repository
        self._settings = settings
        self._database = database
        self._route_log = route_log
        self._bell = bell

    def run(self) -> None:
        """One pass. A site that can't be looked after doesn't keep the others from it; Raises ClusterAway."""
        deployments, services = self._objects.deployments(), self._objects.services()
        standing = {
            name_of(site.deployment_id, site.manifest_digest): site
            for site in self._repository.standing(former=self._settings.former_kept)
        }
        for name, item in ({**services, **deployments}).items():
            if name not in standing:
                self._remove(name, deployment_id_of(item))
        for name, site in standing.items():
            if site.hosts:
                self._repair(site, deployments.get(name), services.get(name))
        self._renew_one(standing, deployments)

    def _remove(self, name: str, deployment_id: str) -> None:
        with self._repository.locked(deployment_id) as connection:
            # It may be asked for again since: who does so records it first, and takes the same lock.
            site = self._repository.find_standing(connection, deployment_id, former=self._settings.former_kept)
            if site is not None and name_of(site.deployment_id, site.manifest_digest) == name:
                return
            self._objects.remove(name)
        _log.info("site_pods.removed", name=name, deployment_id=deployment_id)

    def _repair(
        self, site: StandingSite, deployment: Mapping[str, Any] | None, service: Mapping[str, Any] | None
    ) -> None:
        address = None if service is None else address_of(service)
        if deployment is None or address is None:
            try:
                address = self._pods.ensure(_spec(site))
            except PlatformError as error:
                _log.warning("site_pods.repair_failed", deployment_id=site.deployment_id, error=str(error))
                return
            _log.warning("site_pods.made_again", deployment_id=site.deployment_id)
        if address == site.pods_address:
            return
        with self._database.transaction() as connection:
            for host in site.hosts:
                # Every router takes the address from it; the route stays.
                self._route_log.prepare(connection, host, site.artifact(address), fetcher=None)
        self._bell.ring()

    def _renew_one(self, standing: Mapping[str, StandingSite], deployments: Mapping[str, Mapping[str, Any]]) -> None:
        """Replaces the pods of one site that has another image or token than the present ones, when those before it are
        ready.

        All at once would need as many pods more than the quota has room for.
        """
        present = {name: item for name, item in deployments.items() if name in standing}
        old = [name for name, item in present.items() if not self._pods.is_present(_spec(standing[name]), item)]
        waited_for = [name for name, item in present.items() if name not in old and not is_ready(item)]
        if not old or len(waited_for) >= _AT_ONCE:
            return
        try:
            self._pods.renew(_spec(standing[old[0]]), present[old[0]])
        except PlatformError as error:
            _log.warning("site_pods.renewal_failed", name=old[0], error=str(error))
            return
        _log.info("site_pods.renewed", name=old[0])


def _spec(site: StandingSite) -> SitePodSpec:
    return SitePodSpec(site.artifact(), site.project_id, site.replicas)
