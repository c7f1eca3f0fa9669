"""The parts of a platform on one machine: servers, processes, and their shared environment."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.deployments.state import DEFAULT_THREADS, Pool
from shared.settings import Settings, load_settings
from shared.stack.caddy import CaddyServer
from shared.stack.errors import BusyPort
from shared.stack.home import Home, write_private
from shared.stack.object_store import ObjectStorePorts, ObjectStoreServer
from shared.stack.ports import claim, is_free
from shared.stack.postgres import PostgresServer
from shared.stack.server import Server
from shared.stack.valkey import ValkeyServer

# What forked processes have in common, and what several of them import sooner or later. Not the router and the
# reconciler: their own metrics must not be the workers', too.
_SHARED_MODULES = (
    "workers.main",
    "workers.stages.clone.stage",
    "workers.stages.install.stage",
    "workers.stages.build.stage",
    "minio",
)

# The setting, the port and the address.
PublicPort = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Program:
    """A process of the platform: a module and its arguments, as for `python -m`.

    `is_forked`: it shares the memory of its imports with others, and its module has a `main` without parameters.
    """

    role: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    is_forked: bool = False


@dataclass(frozen=True, slots=True)
class Platform:
    """`servers` start first and stop last; `programs` are in their starting order. `fork_server` starts those that
    are forked.
    """

    settings: Settings
    environment: Mapping[str, str]
    servers: tuple[Server, ...]
    programs: tuple[Program, ...]
    fork_server: Program | None = None


def preliminary_settings(home: Path, environment: Mapping[str, str]) -> Settings:
    """The settings before any server is known. Checks every setting of the environment."""
    placeholder = {
        "CLOUDIFY_DATABASE_URL": "postgresql://127.0.0.1/cloudify",
        "CLOUDIFY_REDIS_URL": "redis://127.0.0.1/0",
        "CLOUDIFY_S3_ENDPOINT": "http://127.0.0.1",
        "CLOUDIFY_S3_ACCESS_KEY": "placeholder",
        "CLOUDIFY_S3_SECRET_KEY": "placeholder",
        "CLOUDIFY_SECRET_KEY": "placeholder" * 3,
        "CLOUDIFY_ENCRYPTION_KEYS": "none:" + "A" * 43 + "=",
    }
    return load_settings(_completed(environment, placeholder) | {"CLOUDIFY_HOME": str(home)})


@dataclass(frozen=True, slots=True)
class Assembly:
    """What a supervisor runs. `preliminary` reads the settings before any server is known, `public_ports` are those
    that must be free, `assemble` builds the servers and programs.
    """

    preliminary: Callable[[Path, Mapping[str, str]], Settings]
    public_ports: Callable[[Settings], Sequence[PublicPort]]
    assemble: Callable[[Home, Mapping[str, str]], Platform]


def check_ports(ports: Sequence[PublicPort]) -> None:
    """Raises BusyPort if a public port is in use. The stores' internal ports are chosen among free ones."""
    named: dict[int, str] = {}
    for name, port, host in ports:
        if port and port in named:
            raise BusyPort(f"{named[port]} and {name} are both {port}; set one of them to another port.")
        named[port] = name
        if port and not is_free(port, host):
            raise _busy(name, port)


def claim_ports(ports: Sequence[PublicPort], claims: list[socket.socket]) -> None:
    """Adds sockets to `claims` that keep other platforms from these ports until they are closed. Raises BusyPort."""
    for name, port, _host in ports:
        if port:
            held = claim(port)
            if held is None:
                raise _busy(name, port)
            claims.append(held)


def public_ports(settings: Settings) -> tuple[PublicPort, ...]:
    return (
        ("CLOUDIFY_API_PORT", settings.api.port, settings.api.host),
        (_web_port_setting(settings), settings.web_port, settings.router.web_host),
        ("CLOUDIFY_METRICS_PORT", settings.metrics.port, settings.metrics.host),
    )


def _web_port_setting(settings: Settings) -> str:
    return "CLOUDIFY_ROUTER_PORT" if settings.router.web_port else "CLOUDIFY_SITES_PORT"


def _busy(name: str, port: int) -> BusyPort:
    return BusyPort(f"Port {port} is used by another program; stop that program, or set {name} to another port.")


def assemble(home: Home, environment: Mapping[str, str]) -> Platform:
    """Builds the servers that have no external replacement in the environment, and the environment of all processes."""
    generated = home.secrets()
    before = preliminary_settings(home.directory, environment)
    ports = home.internal_ports()
    stores = _stores(home, environment, generated, ports)
    values = {
        "CLOUDIFY_SECRET_KEY": generated["secretKey"],
        "CLOUDIFY_ENCRYPTION_KEYS": generated["encryptionKeys"],
        # One machine's bounds apply regardless of the plan.
        "CLOUDIFY_BUILDS_AT_ONCE": str(DEFAULT_THREADS[Pool.BUILD]),
        "CLOUDIFY_LARGEST_BUILD_MEMORY_MB": str(largest_build_mebibytes(_machine_bytes())),
        # Who runs the platform on one machine runs their own projects.
        "CLOUDIFY_BUILD_NETWORK": "filtered",
        "CLOUDIFY_BUILD_NETWORK_CHOICE": "true",
        "CLOUDIFY_ROUTER_URL": f"http://127.0.0.1:{before.web_port}",
        "CLOUDIFY_ROUTER_INTERNAL_PORT": str(before.router.listen_port or ports["router"]),
    }
    for _store, connection in stores:
        values |= connection
    shared = _completed(environment, values) | {"CLOUDIFY_HOME": str(home.directory)}
    settings = load_settings(shared)
    # For `cloudify admin` and `migrate` in another terminal.
    write_private(home.environment_path, {name: shared[name] for name in shared if name.startswith("CLOUDIFY_")})
    servers = (*(store for store, _connection in stores), _web_server(home, settings))
    return Platform(settings, shared, servers, _programs(home, settings), _fork_server(home))


def assemble_router(home: Home, environment: Mapping[str, str]) -> Platform:
    """Only the site router. The environment names the platform's servers. Raises SettingsError."""
    before = load_settings(environment)
    values = {
        "CLOUDIFY_ROUTER_URL": f"http://{_reachable(before.router.web_host)}:{before.web_port}",
        "CLOUDIFY_ROUTER_INTERNAL_PORT": str(before.router.listen_port or home.internal_ports()["router"]),
    }
    shared = _completed(environment, values) | {"CLOUDIFY_HOME": str(home.directory)}
    settings = load_settings(shared)
    return Platform(settings, shared, (_web_server(home, settings),), (_router_program({}),))


def _router_settings(home: Path, environment: Mapping[str, str]) -> Settings:
    return load_settings(dict(environment) | {"CLOUDIFY_HOME": str(home)})


def _router_ports(settings: Settings) -> tuple[PublicPort, ...]:
    return (
        (_web_port_setting(settings), settings.web_port, settings.router.web_host),
        ("CLOUDIFY_ROUTER_INTERNAL_PORT", settings.router.listen_port, settings.router.listen_host),
    )


def _web_server(home: Home, settings: Settings) -> CaddyServer:
    return CaddyServer(
        home.directory / "caddy",
        sites_directory=settings.directories.sites,
        port=settings.web_port,
        domain=settings.sites.domain,
        host=settings.router.web_host,
        agent=f"{_reachable(settings.router.listen_host)}:{settings.router.listen_port}",
        log_path=home.log_path(CaddyServer.name),
    )


def _reachable(host: str) -> str:
    """Where this machine reaches a server that listens on `host`."""
    return "127.0.0.1" if host in ("0.0.0.0", "", "::") else host


def _router_program(environment: Mapping[str, str], *, is_forked: bool = False) -> Program:
    return Program("router", ("workers.router.main",), environment, is_forked)


def _stores(
    home: Home, environment: Mapping[str, str], generated: Mapping[str, str], ports: Mapping[str, int]
) -> list[tuple[Server, dict[str, str]]]:
    """The stores that this platform runs itself, each with the settings that connect to it."""
    stores: list[tuple[Server, dict[str, str]]] = []
    if not _is_set(environment, "CLOUDIFY_DATABASE_URL"):
        postgres = PostgresServer(
            home.directory / "postgres",
            port=ports["postgres"],
            password=generated["databasePassword"],
            log_path=home.log_path(PostgresServer.name),
        )
        stores.append((postgres, {"CLOUDIFY_DATABASE_URL": postgres.url}))
    if not _is_set(environment, "CLOUDIFY_REDIS_URL"):
        valkey = ValkeyServer(
            home.directory / "valkey",
            port=ports["valkey"],
            password=generated["redisPassword"],
            log_path=home.log_path(ValkeyServer.name),
        )
        stores.append((valkey, {"CLOUDIFY_REDIS_URL": valkey.url}))
    if not _is_set(environment, "CLOUDIFY_S3_ENDPOINT"):
        stores.append(_object_store(home, generated, ports))
    return stores


def _object_store(home: Home, generated: Mapping[str, str], ports: Mapping[str, int]) -> tuple[Server, dict[str, str]]:
    store = ObjectStoreServer(
        home.directory / "object-store",
        ports=ObjectStorePorts(**{name: ports[name] for name in ObjectStorePorts.__slots__}),
        access_key=generated["s3AccessKey"],
        secret_key=generated["s3SecretKey"],
        log_path=home.log_path(ObjectStoreServer.name),
    )
    connection = {
        "CLOUDIFY_S3_ENDPOINT": store.settings().endpoint,
        "CLOUDIFY_S3_ACCESS_KEY": generated["s3AccessKey"],
        "CLOUDIFY_S3_SECRET_KEY": generated["s3SecretKey"],
    }
    return store, connection


def largest_build_mebibytes(machine_bytes: int) -> int:
    """The memory of each concurrent build: an equal share of all but 2 GiB, at least 512 MiB."""
    return max((machine_bytes - 2 * 1024**3) // DEFAULT_THREADS[Pool.BUILD] // 1024**2, 512)


def _machine_bytes() -> int:
    """The memory of the machine or container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return total


def _programs(home: Home, settings: Settings) -> tuple[Program, ...]:
    silent = _metrics(home, port=0)
    # Ctrl-C ends everything within seconds, and no other worker waits for the jobs.
    ending_at_once = silent | {"CLOUDIFY_DRAIN_SECONDS": "0"}
    listening = _metrics(home, port=settings.metrics.port)
    return (
        # It answers strangers, so it shares nothing with the others, not even the layout of its memory.
        Program("api", ("api.main",), silent),
        *(
            Program(f"worker-{pool.value}", ("workers.main", pool.value), ending_at_once, is_forked=True)
            for pool in Pool
        ),
        _router_program(silent, is_forked=True),
        Program("reconciler", ("workers.reconciler", "--with-exporter"), listening, is_forked=True),
    )


def _fork_server(home: Home) -> Program:
    return Program("fork-server", ("shared.stack.fork_server", *_SHARED_MODULES), _metrics(home, port=0))


def _metrics(home: Home, *, port: int) -> dict[str, str]:
    """All processes write counters to files in one folder, and the reconciler's listener serves them."""
    return {"PROMETHEUS_MULTIPROC_DIR": str(home.metrics_directory), "CLOUDIFY_METRICS_PORT": str(port)}


WHOLE_PLATFORM = Assembly(preliminary_settings, public_ports, assemble)
ONE_ROUTER = Assembly(_router_settings, _router_ports, assemble_router)


def command(program: Program) -> list[str]:
    return [sys.executable, "-m", "shared.stack.minimal_imports", *program.arguments]


def _is_set(environment: Mapping[str, str], name: str) -> bool:
    return bool(environment.get(name) or environment.get(f"{name}_FILE"))


def _completed(environment: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """The environment with `values` for settings that it sets neither directly nor by a file."""
    return {
        **{name: value for name, value in values.items() if not _is_set(environment, name)},
        **{name: value for name, value in environment.items() if value != "" or name not in values},
    }
