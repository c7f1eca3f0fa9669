"""All parts of the settings, and how they are read from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from shared.settings.egress import EgressSettings
from shared.settings.executor import ExecutorSettings
from shared.settings.limits import LimitSettings
from shared.settings.network import NetworkSettings
from shared.settings.processes import (
    DirectorySettings,
    LogSettings,
    MetricsSettings,
    SecretSettings,
    TracingSettings,
    WorkerSettings,
)
from shared.settings.python import PythonSettings
from shared.settings.reader import Reader, SettingsError
from shared.settings.router import RouterSettings
from shared.settings.servers import CacheSettings, DatabaseSettings, ObjectStoreSettings, QueueSettings
from shared.settings.site_pods import SitePodSettings
from shared.settings.web import ApiSettings, SiteSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every part. Code takes the parts that it needs, and only composition roots take all of them."""

    directories: DirectorySettings
    database: DatabaseSettings
    queue: QueueSettings
    object_store: ObjectStoreSettings
    cache: CacheSettings = field(default_factory=CacheSettings)
    secrets: SecretSettings
    api: ApiSettings = field(default_factory=ApiSettings)
    sites: SiteSettings = field(default_factory=SiteSettings)
    site_pods: SitePodSettings = field(default_factory=SitePodSettings)
    router: RouterSettings = field(default_factory=RouterSettings)
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)
    egress: EgressSettings = field(default_factory=EgressSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    python: PythonSettings = field(default_factory=PythonSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    logs: LogSettings = field(default_factory=LogSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)

    @property
    def web_port(self) -> int:
        """The port that this machine's web server serves the sites on."""
        return self.router.web_port or self.sites.port


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Reads every part. Raises SettingsError with all problems."""
    reader = Reader(environment)
    parts: dict[str, Any] = {name: reader.part(part) for name, part in get_type_hints(Settings).items()}
    reader.removed(
        "ALLOW_LOCAL_REPOSITORIES",
        "false",
        "file:// is for platform administrators without a setting; for git servers in private networks, and for http://,"
        " list the networks in CLOUDIFY_EGRESS_ALLOWED_NETWORKS (like 10.0.0.0/8).",
    )
    if reader.problems:
        raise SettingsError(reader.problems)
    return Settings(**parts)
