"""Opens what makes pods of sites, where the settings name a namespace for them."""

from __future__ import annotations

from pathlib import Path

from shared.db.database import Database
from shared.releases.site_pod_repository import SitePodRepository
from shared.settings import Settings
from workers.artifacts.reader import ArtifactReader
from workers.executors.kubernetes.cluster import Cluster
from workers.site_pods.objects import SiteObjects
from workers.site_pods.site_pods import SitePods

# A database connection is held meanwhile; the jobs themselves are tried again for longer.
_PATIENCE_SECONDS = 20.0


def open_site_objects(settings: Settings) -> SiteObjects:
    """Raises PlatformError if no cluster is known. Loads the client library."""
    configuration = Path(settings.executor.kubernetes_config) if settings.executor.kubernetes_config else None
    cluster = Cluster.connect(settings.site_pods.namespace, configuration, patience_seconds=_PATIENCE_SECONDS)
    return SiteObjects(cluster)


def open_site_pods(settings: Settings, database: Database, artifacts: ArtifactReader, objects: SiteObjects) -> SitePods:
    bundle = settings.network.ca_bundle
    return SitePods(
        objects,
        SitePodRepository(database),
        artifacts,
        settings.site_pods,
        secret_key=settings.secrets.secret_key,
        certificates="" if bundle is None else bundle.read_text(),
    )
