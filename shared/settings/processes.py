"""What every process of the platform shares: its folder, keys, logs and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from shared.settings.declaration import part, setting
from shared.settings.kinds import FOLDER, KEYRING, SECONDS, SECONDS_OR_NONE, SECRET, TEXT, choice, integer, url

# Folders that others use as well; so are people's own below /home.
_SHARED_FOLDERS = frozenset(map(Path, ("/", "/root", "/home", "/var", "/opt", "/usr", "/etc")))


@part
class DirectorySettings:
    """Where Cloudify keeps its data on this machine."""

    home: Path = setting("HOME", FOLDER, "Folder for all data, which nothing else may use.", default_text=".cloudify")

    def problems(self) -> Iterator[str]:
        home = self.home.resolve()
        if home in _SHARED_FOLDERS or home.parent == Path("/home"):
            # Its modes are corrected at each start, which would shut others out of everything there.
            yield f"CLOUDIFY_HOME is {self.home}; name a folder that Cloudify has for itself."

    @property
    def sites(self) -> Path:
        return self.home / "sites"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def work(self) -> Path:
        return self.home / "work"


@part
class SecretSettings:
    """Keys of the platform itself."""

    secret_key: bytes = setting("SECRET_KEY", SECRET, "Signs sessions and cursors.", is_secret=True)
    # Key id → 32 bytes.
    encryption_keys: Mapping[str, bytes] = setting(
        "ENCRYPTION_KEYS",
        KEYRING,
        "Encrypt variables and credentials: the first key encrypts, all decrypt. After `cloudify admin rotate-keys`"
        " only the first is needed.",
        is_secret=True,
    )


@part
class LogSettings:
    """The processes' own logs, on stderr."""

    level: str = setting(
        "LOG_LEVEL",
        choice("debug", "info", "warning", "error"),
        "Least level of the processes' own log events.",
        default="info",
    )


@part
class MetricsSettings:
    """The internal listener of each process."""

    port: int = setting(
        "METRICS_PORT",
        integer(0, 65535),
        "Port of the process's Prometheus metrics, on a listener of their own; `0` for none.",
        default=9464,
    )
    host: str = setting(
        "METRICS_HOST",
        TEXT,
        "Address of this listener, which also answers to probes at `/live` and `/ready`. Anybody who reaches it may"
        " read the metrics.",
        default="127.0.0.1",
    )


@part
class TracingSettings:
    """Traces of requests and of what they lead to."""

    endpoint: str = setting(
        "OTLP_ENDPOINT",
        url("http", "https"),
        "Where spans are sent by OTLP over HTTP, like `http://collector:4318`; nothing is sent without it. Needs"
        " `cloudify[tracing]`. The variables of OpenTelemetry's SDK, such as OTEL_EXPORTER_OTLP_HEADERS, apply, too.",
        default="",
    )


@part
class WorkerSettings:
    """How workers are supervised, and how they end."""

    silence_seconds: float = setting(
        "WORKER_SILENCE_SECONDS",
        SECONDS,
        "Time after which `cloudify up` ends and replaces a worker that shows no sign of life.",
        default=30.0,
    )
    drain_seconds: float = setting(
        "DRAIN_SECONDS",
        SECONDS_OR_NONE,
        "Time that a worker's running jobs have to end after SIGTERM; then it hands them back, and they start again at"
        " another worker. A second SIGTERM ends it at once. The service manager must wait 30 s longer before it kills."
        " Under `cloudify up` it is always 0.",
        default=60.0,
    )
