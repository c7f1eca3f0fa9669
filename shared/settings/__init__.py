"""Settings of the platform, by part; each part is handed to the code that needs it.

`docs/settings.md` is made from these modules (`make docs`).
"""

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
from shared.settings.settings import Settings, load_settings
from shared.settings.site_pods import SitePodSettings
from shared.settings.web import ApiSettings, SiteSettings

__all__ = [
    "ApiSettings",
    "CacheSettings",
    "DatabaseSettings",
    "DirectorySettings",
    "EgressSettings",
    "ExecutorSettings",
    "LimitSettings",
    "LogSettings",
    "MetricsSettings",
    "NetworkSettings",
    "ObjectStoreSettings",
    "PythonSettings",
    "QueueSettings",
    "Reader",
    "RouterSettings",
    "SecretSettings",
    "Settings",
    "SettingsError",
    "SitePodSettings",
    "SiteSettings",
    "TracingSettings",
    "WorkerSettings",
    "load_settings",
]
