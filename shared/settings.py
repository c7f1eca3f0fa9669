"""Reads the environment once into frozen structs and reports every problem at once.

Every setting is `CLOUDIFY_<NAME>`; a secret may instead come from a file named by `CLOUDIFY_<NAME>_FILE`.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from shared.backends import EXECUTORS, PUBLISHERS
from shared.hosts import host_name

T = TypeVar("T")

_MEBIBYTE = 1024 * 1024
# No folder for Cloudify alone, as people's own below /home aren't.
_PLACES_OF_OTHERS = frozenset(map(Path, ("/", "/root", "/home", "/var", "/opt", "/usr", "/etc")))
_IMAGE_DIGEST = re.compile(r"(?:[a-z0-9][\w./:-]*@)?sha256:[0-9a-f]{64}")


class SettingsError(Exception):
    """`problems` holds one sentence for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("The settings can't be used:\n" + "\n".join(f"  - {problem}" for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class ObjectStoreSettings:
    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str = "cloudify"
    region: str = "us-east-1"


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """Overrides of the plan's limits (None: the plan decides) and what installs may reach.

    `largest_memory_bytes` bounds what plans give a build, and `builds_at_once` what they give an account.
    `egress_allowed_hosts`: host names (or `.suffix`) that installs may reach, empty for every public one.
    `egress_allowed_networks`: CIDRs exempt from the refusal of private addresses, for installs and clones: of the
    operator's own registries and git servers, which the proxy is not used for.
    `npm_registry`, `python_index`: base URLs that every package manager is told; empty for its own default.
    `ca_bundle`: a PEM file of certificates that clones and commands trust besides the host's.
    `egress_proxy`: http://[user:password@]host:port through which installs and clones reach what is not in those.
    `builder_image`: named by digest (`name@sha256:…`, or `sha256:…` for one that was built here); for docker only.
    """

    executor: str = EXECUTORS[0]
    docker_host: str = "unix:///var/run/docker.sock"
    builder_image: str = ""
    memory_bytes: int | None = None
    largest_memory_bytes: int | None = None
    builds_at_once: int | None = None
    disk_bytes: int | None = None
    disk_entries: int | None = None
    stage_timeout_seconds: int | None = None
    output_bytes: int = 200 * _MEBIBYTE
    egress_allowed_hosts: tuple[str, ...] = ()
    egress_allowed_networks: tuple[str, ...] = ()
    npm_registry: str = field(default="", repr=False)
    python_index: str = field(default="", repr=False)
    ca_bundle: Path | None = None
    egress_proxy: str = field(default="", repr=False)
    cache_bytes: int = 10 * 1024 * _MEBIBYTE
    maximum_output_files: int = 20_000
    maximum_output_bytes: int = 1024 * _MEBIBYTE
    maximum_file_bytes: int = 100 * _MEBIBYTE


@dataclass(frozen=True, slots=True)
class Settings:
    home: Path
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    object_store: ObjectStoreSettings
    build: BuildSettings
    secret_key: bytes = field(repr=False)
    # Key id → 32 bytes; the first one encrypts, all decrypt.
    encryption_keys: Mapping[str, bytes] = field(repr=False)
    api_host: str = "127.0.0.1"
    api_port: int = 8000
    # Names that the API and the internal listeners answer to, besides addresses and localhost.
    api_hosts: tuple[str, ...] = ()
    # How long a connection may wait for its next request.
    api_keep_alive_seconds: float = 75.0
    # Connections that an address (a /64 of IPv6) may have open at once, and a /48 four times as many; 0 for no bound.
    # Loopback isn't counted.
    api_connections_per_address: int = 256
    # Networks of the proxies in front of the API, which are believed about the client's address.
    trusted_proxies: tuple[str, ...] = ()
    metrics_port: int = 9464  # the internal listener of this process; 0 for none
    sites_port: int = 8080
    sites_domain: str = "localhost"
    sites_scheme: str = "http"
    publisher: str = PUBLISHERS[0]
    # Where a worker reaches the site router to verify a release; the public port on one machine.
    router_url: str = "http://127.0.0.1:8080"
    registration_enabled: bool = False
    lease_seconds: float = 30.0
    reconcile_seconds: float = 10.0
    # A worker that shows no sign of life for so long is ended and replaced by its supervisor.
    worker_silence_seconds: float = 30.0
    preview_days: int = 30
    streams_per_user: int = 100  # open at once, across all API processes
    log_level: str = "info"
    environment: str = "production"

    @property
    def sites_directory(self) -> Path:
        return self.home / "sites"

    @property
    def cache_directory(self) -> Path:
        return self.home / "cache"

    @property
    def work_directory(self) -> Path:
        return self.home / "work"

    def site_url(self, host: str) -> str:
        """The public address of a site by its host label."""
        default_port = {"http": 80, "https": 443}[self.sites_scheme]
        port = "" if self.sites_port == default_port else f":{self.sites_port}"
        return f"{self.sites_scheme}://{host}.{self.sites_domain}{port}"


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def text(self, name: str, default: str | None = None) -> str:
        value = self._environment.get(f"CLOUDIFY_{name}")
        path = self._environment.get(f"CLOUDIFY_{name}_FILE")
        if value is not None and path is not None:
            self.problems.append(f"CLOUDIFY_{name} and CLOUDIFY_{name}_FILE are both set; set one.")
        if value is None and path is not None:
            try:
                value = Path(path).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                self.problems.append(f"CLOUDIFY_{name}_FILE can't be read: {error}.")
                return ""
        if value is None or value == "":
            if default is None:
                self.problems.append(f"CLOUDIFY_{name} is not set; it has no default.")
                return ""
            return default
        return value

    def parsed(self, name: str, default: T, parse: Callable[[str], T], expected: str) -> T:
        value = self._environment.get(f"CLOUDIFY_{name}")
        if value is None or value == "":
            return default
        try:
            return parse(value)
        except ValueError:
            self.problems.append(f"CLOUDIFY_{name} is {value!r}; expected {expected}.")
            return default

    def boolean(self, name: str, default: bool) -> bool:
        names = {"true": True, "1": True, "false": False, "0": False}

        def parse(value: str) -> bool:
            if value not in names:
                raise ValueError(value)
            return names[value]

        return self.parsed(name, default, parse, "true, false, 1 or 0")

    def integer(self, name: str, default: int, minimum: int, maximum: int) -> int:
        def parse(value: str) -> int:
            number = int(value)
            if not minimum <= number <= maximum:
                raise ValueError(value)
            return number

        return self.parsed(name, default, parse, f"a whole number from {minimum} to {maximum}")

    def optional_integer(self, name: str, minimum: int) -> int | None:
        value = self.integer(name, -1, minimum, 2**40)
        return None if value == -1 else value

    def seconds(self, name: str, default: float) -> float:
        def parse(value: str) -> float:
            number = float(value)
            if not 0.1 <= number <= 86_400:
                raise ValueError(value)
            return number

        return self.parsed(name, default, parse, "seconds from 0.1 to 86400")

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in choices:
            self.problems.append(f"CLOUDIFY_{name} is {value!r}; expected one of {', '.join(choices)}.")
            return default
        return value

    def url(self, name: str, schemes: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(name, default)
        if value and (urlsplit(value).scheme not in schemes or not (urlsplit(value).netloc or urlsplit(value).path)):
            self.problems.append(f"CLOUDIFY_{name} must be a URL with scheme {' or '.join(schemes)}.")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.text(name, default="").split(",") if part.strip())

    def networks(self, name: str) -> tuple[str, ...]:
        found = self.names(name)
        for text in found:
            try:
                ipaddress.ip_network(text)
            except ValueError:
                self.problems.append(f"CLOUDIFY_{name} holds {text!r}; expected networks like 10.0.0.0/8 or fd00::/8.")
                return ()
        return found

    def removed(self, name: str, harmless: str, advice: str) -> None:
        """A setting that is no longer there, unless it asks for what is the case anyway."""
        if self._environment.get(f"CLOUDIFY_{name}", "") not in ("", "0", harmless):
            self.problems.append(f"CLOUDIFY_{name} is not supported any more. {advice}")

    def host_names(self, name: str) -> tuple[str, ...]:
        found: list[str] = []
        for text in self.names(name):
            try:
                found.append(host_name(text))
            except ValueError:
                self.problems.append(
                    f"CLOUDIFY_{name} holds {text!r}; expected host names without scheme and port, comma-separated."
                )
        return tuple(found)

    def certificates(self, name: str) -> Path | None:
        value = self.text(name, default="")
        if not value:
            return None
        try:
            content = Path(value).read_bytes()
        except OSError as error:
            self.problems.append(f"CLOUDIFY_{name} can't be read: {error}.")
            return None
        if b"-----BEGIN CERTIFICATE-----" not in content:
            self.problems.append(f"CLOUDIFY_{name} is {value!r}, which holds no certificate; name a PEM file.")
        return Path(value).absolute()

    def proxy(self, name: str) -> str:
        value = self.url(name, ("http",), "")
        try:
            is_usable = not value or (urlsplit(value).hostname and urlsplit(value).port)
        except ValueError:
            is_usable = False
        if not is_usable:
            self.problems.append(f"CLOUDIFY_{name} must be http://host:port, with user:password@ where the proxy asks.")
        return value

    def image(self, name: str) -> str:
        value = self.text(name, default="")
        if value and not _IMAGE_DIGEST.fullmatch(value):
            self.problems.append(
                f"CLOUDIFY_{name} is {value!r}; name the image by its digest: name@sha256:… of a registry's, or the"
                " sha256:… that `docker image inspect --format '{{.Id}}'` prints of one that was built here."
            )
        return value

    def secret(self, name: str) -> bytes:
        value = self.text(name).encode()
        if value and len(value) < 32:
            self.problems.append(f"CLOUDIFY_{name} is shorter than 32 bytes.")
        return value

    def keyring(self, name: str) -> dict[str, bytes]:
        keys: dict[str, bytes] = {}
        value = self.text(name)
        for entry in filter(None, value.split(",")):
            key_id, separator, encoded = entry.partition(":")
            try:
                key = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                key = b""
            if not separator or not key_id or len(key) != 32:
                self.problems.append(f"CLOUDIFY_{name} must be <id>:<base64 of 32 bytes>, comma-separated.")
                return {}
            keys[key_id] = key
        return keys


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Raises SettingsError with the list of all problems."""
    reader = _Reader(environment)

    def in_bytes(value: int | None) -> int | None:
        return None if value is None else value * _MEBIBYTE

    settings = Settings(
        home=Path(reader.text("HOME", ".cloudify")).absolute(),
        database_url=reader.url("DATABASE_URL", ("postgresql", "postgres")),
        redis_url=reader.url("REDIS_URL", ("redis", "rediss", "unix")),
        object_store=ObjectStoreSettings(
            endpoint=reader.url("S3_ENDPOINT", ("http", "https")),
            access_key=reader.text("S3_ACCESS_KEY"),
            secret_key=reader.text("S3_SECRET_KEY"),
            bucket=reader.text("S3_BUCKET", "cloudify"),
            region=reader.text("S3_REGION", "us-east-1"),
        ),
        build=BuildSettings(
            executor=reader.choice("EXECUTOR", EXECUTORS[0], EXECUTORS),
            docker_host=reader.url("DOCKER_HOST", ("unix", "tcp"), "unix:///var/run/docker.sock"),
            builder_image=reader.image("BUILDER_IMAGE"),
            memory_bytes=in_bytes(reader.optional_integer("BUILD_MEMORY_MB", 64)),
            largest_memory_bytes=in_bytes(reader.optional_integer("LARGEST_BUILD_MEMORY_MB", 64)),
            builds_at_once=reader.optional_integer("BUILDS_AT_ONCE", 1),
            disk_bytes=in_bytes(reader.optional_integer("BUILD_DISK_MB", 16)),
            disk_entries=reader.optional_integer("BUILD_DISK_FILES", 1000),
            stage_timeout_seconds=reader.optional_integer("STAGE_TIMEOUT_SECONDS", 1),
            output_bytes=reader.integer("BUILD_OUTPUT_MB", 200, 1, 10_000) * _MEBIBYTE,
            egress_allowed_hosts=reader.names("EGRESS_ALLOWED_HOSTS"),
            egress_allowed_networks=reader.networks("EGRESS_ALLOWED_NETWORKS"),
            npm_registry=reader.url("NPM_REGISTRY", ("http", "https"), ""),
            python_index=reader.url("PYTHON_INDEX", ("http", "https"), ""),
            ca_bundle=reader.certificates("CA_BUNDLE"),
            egress_proxy=reader.proxy("EGRESS_PROXY"),
            cache_bytes=reader.integer("CACHE_MB", 10_240, 100, 10_000_000) * _MEBIBYTE,
        ),
        secret_key=reader.secret("SECRET_KEY"),
        encryption_keys=reader.keyring("ENCRYPTION_KEYS"),
        api_host=reader.text("API_HOST", "127.0.0.1"),
        api_port=reader.integer("API_PORT", 8000, 1, 65535),
        api_hosts=reader.host_names("API_HOSTS"),
        api_keep_alive_seconds=reader.seconds("API_KEEP_ALIVE_SECONDS", 75.0),
        api_connections_per_address=reader.integer("API_CONNECTIONS_PER_ADDRESS", 256, 0, 1_000_000),
        trusted_proxies=reader.networks("TRUSTED_PROXIES"),
        metrics_port=reader.integer("METRICS_PORT", 9464, 0, 65535),
        sites_port=reader.integer("SITES_PORT", 8080, 1, 65535),
        sites_domain=reader.text("SITES_DOMAIN", "localhost"),
        sites_scheme=reader.choice("SITES_SCHEME", "http", ("http", "https")),
        publisher=reader.choice("PUBLISHER", PUBLISHERS[0], PUBLISHERS),
        router_url=reader.url("ROUTER_URL", ("http", "https"), "http://127.0.0.1:8080"),
        registration_enabled=reader.boolean("REGISTRATION_ENABLED", default=False),
        lease_seconds=reader.seconds("LEASE_SECONDS", 30.0),
        reconcile_seconds=reader.seconds("RECONCILE_SECONDS", 10.0),
        worker_silence_seconds=reader.seconds("WORKER_SILENCE_SECONDS", 30.0),
        preview_days=reader.integer("PREVIEW_DAYS", 30, 1, 3650),
        streams_per_user=reader.integer("STREAMS_PER_USER", 100, 1, 100_000),
        log_level=reader.choice("LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
        environment=reader.choice("ENVIRONMENT", "production", ("production", "development")),
    )
    reader.removed(
        "ALLOW_LOCAL_REPOSITORIES",
        "false",
        "file:// is for platform administrators without a setting; for git servers in private networks, and for http://,"
        " list the networks in CLOUDIFY_EGRESS_ALLOWED_NETWORKS (like 10.0.0.0/8).",
    )
    home = settings.home.resolve()
    if home in _PLACES_OF_OTHERS or home.parent == Path("/home"):
        # Its modes are corrected at each start, which would shut others out of everything there.
        reader.problems.append(f"CLOUDIFY_HOME is {settings.home}; name a folder that Cloudify has for itself.")
    if settings.build.executor == "docker" and not settings.build.builder_image:
        reader.problems.append(
            "CLOUDIFY_EXECUTOR is docker and CLOUDIFY_BUILDER_IMAGE is not set; build Cloudify's Dockerfile"
            " (docker build --target builder) and name the image by its digest."
        )
    if reader.problems:
        raise SettingsError(reader.problems)
    return settings
