"""Three machines that build and serve, each with a router and some of the pools, and a fourth with the stores."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from shared.db.database import Database
from shared.deployments.state import Pool
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.stack.platform import Program, command
from tests.support.machines.network import Network, die_with_parent
from tests.support.machines.stores_program import PASSWORD, POSTGRES_PORT, VALKEY_PORT
from tests.support.repositories import ROOT
from tests.support.running_platform import wait_for

API_PORT, SITES_PORT, ROUTER_PORT = 8000, 8081, 9000
# Processes by the name of their program.
POSTGRES, VALKEY, OBJECT_STORE = "postgres", "valkey-server", "weed"
STORES = (POSTGRES, VALKEY, OBJECT_STORE)
_POOLS_TWICE = 2
_APIS = 2


class Machine:
    """`roles`: what runs on it. Use it from the main thread; the attributes may be read from any."""

    def __init__(
        self, network: Network, number: int, name: str, directory: Path, programs: Sequence[Mapping[str, object]]
    ) -> None:
        self._network = network
        self.name = name
        self.address = network.address_of(number)
        self.directory = directory
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        # Grows with each start: the namespace is another one.
        self.generation = 0
        self.is_linked = False
        self.linked_at = 0.0

    @property
    def roles(self) -> list[str]:
        return [str(program["role"]) for program in self._programs]

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def network_path(self) -> str | None:
        """Its network namespace, for `enter_network`; None while it is down."""
        process = self._process
        return None if process is None else f"/proc/{process.pid}/ns/net"

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        logs = self.directory / "logs"
        logs.mkdir(exist_ok=True)
        unshared = ["--net", "--uts", "--ipc", "--pid", "--mount-proc", "--fork", "--kill-child=KILL"]
        with (logs / "machine.log").open("ab") as log:
            process = subprocess.Popen(
                ["unshare", *unshared, sys.executable, "-m", "tests.support.machines.machine_program"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**_plain_environment(), "PYTHONPATH": str(ROOT)},
                preexec_fn=die_with_parent,  # noqa: PLW1509 - from the main thread
            )
        wait_for(lambda: psutil.Process(process.pid).children(), what=f"{self.name} has started", every=0.01)
        self._network.plug(self.name, process.pid, self.address)
        assert process.stdin is not None
        specification = {"name": self.name, "programs": self._programs, "logs": str(logs)}
        process.stdin.write(json.dumps(specification).encode() + b"\n")
        process.stdin.flush()
        self.generation += 1
        self._process = process
        self.linked_at, self.is_linked = time.monotonic(), True

    def kill(self) -> None:
        """As if its power went: all its processes, at once."""
        process, self._process = self._process, None
        self.is_linked = False
        if process is None:
            return
        inside = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        psutil.wait_procs(inside, timeout=30)

    def cut(self, *, is_silent: bool) -> None:
        self.is_linked = False
        self._network.cut(self.name, is_silent=is_silent)

    def heal(self) -> None:
        self._network.heal(self.name)
        self.linked_at, self.is_linked = time.monotonic(), True

    def signal_all(self, program: str, number: signal.Signals) -> None:
        """Sends a signal to every process of a program on this machine."""
        assert self._process is not None
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if Path(process.exe()).name == program:
                    process.send_signal(number)


class Cluster:
    """Everything that is the same for all machines, and the way to it for assertions."""

    def __init__(self, network: Network, directory: Path, seed: int, *, lease_seconds: float, s3_port: int) -> None:
        self.network = network
        self.directory = directory
        self.stores_address = network.address_of(10)
        stores = self.stores_address
        self.database_url = f"postgresql://cloudify:{PASSWORD}@{stores}:{POSTGRES_PORT}/cloudify"
        self.redis_url = f"redis://:{PASSWORD}@{stores}:{VALKEY_PORT}/0"
        self.settings = {
            "CLOUDIFY_DATABASE_URL": self.database_url,
            "CLOUDIFY_REDIS_URL": self.redis_url,
            "CLOUDIFY_S3_ENDPOINT": f"http://{stores}:{s3_port}",
            "CLOUDIFY_S3_ACCESS_KEY": PASSWORD,
            "CLOUDIFY_S3_SECRET_KEY": PASSWORD,
            "CLOUDIFY_SECRET_KEY": "of-all-machines" * 3,
            "CLOUDIFY_ENCRYPTION_KEYS": f"one:{base64.b64encode(b'k' * 32).decode()}",
            "CLOUDIFY_LEASE_SECONDS": str(lease_seconds),
            "CLOUDIFY_RECONCILE_SECONDS": "1",
            "CLOUDIFY_REGISTRATION_ENABLED": "true",
            "CLOUDIFY_METRICS_PORT": "0",
            "CLOUDIFY_API_HOST": "0.0.0.0",
            "CLOUDIFY_API_PORT": str(API_PORT),
            "CLOUDIFY_SITES_PORT": str(SITES_PORT),
            "CLOUDIFY_ROUTER_HOST": "0.0.0.0",
            "CLOUDIFY_ROUTER_INTERNAL_HOST": "0.0.0.0",
            "CLOUDIFY_ROUTER_INTERNAL_PORT": str(ROUTER_PORT),
            "CLOUDIFY_EGRESS_ALLOWED_NETWORKS": f"{network.address}/32",
        }
        self.stores = self._make("stores", 10, [_store_program(directory / "stores", s3_port)])
        self.machines = self._machines(random.Random(seed))
        self._database: Database | None = None
        self._redis = connect_redis(self.redis_url, timeout_seconds=2)
        self.queue = RedisJobQueue(self._redis, lease_seconds=lease_seconds)

    @property
    def database(self) -> Database:
        if self._database is None:
            self._database = Database(self.database_url, timeout_seconds=5, answer_seconds=5)
        return self._database

    @property
    def api_addresses(self) -> list[str]:
        return [f"http://{machine.address}:{API_PORT}" for machine in self.machines if "api" in machine.roles]

    @contextmanager
    def running(self) -> Generator[None]:
        """All machines run during the block. Inside `Network.entered`."""
        try:
            self.stores.start()
            wait_for(self._are_stores_up, what="the stores answer")
            self._first_run()
            for machine in self.machines:
                machine.start()
            yield
        finally:
            for machine in [*self.machines, self.stores]:
                machine.kill()
            self._redis.close()
            if self._database is not None:
                self._database.close()

    def wait_until_up(self, seconds: float) -> None:
        def is_up() -> bool:
            return all(self.is_ready(machine) for machine in self.machines) and all(
                _status(f"{address}/api/health/ready") == 200 for address in self.api_addresses
            )

        wait_for(is_up, seconds=seconds, what="all routers and APIs are ready", every=0.2)

    def is_ready(self, machine: Machine) -> bool:
        """Whether the machine's router says that sites may be asked for there."""
        return machine.is_linked and _status(f"http://{machine.address}:{ROUTER_PORT}/ready") == 200

    def set_plan(self, tenant_id: str, plan: str) -> None:
        with self.database.transaction() as connection:
            connection.execute("UPDATE tenants SET plan = %(plan)s WHERE id = %(id)s", {"plan": plan, "id": tenant_id})

    def _are_stores_up(self) -> bool:
        try:
            self.database.ping()
            self._redis.ping()
        except Exception:  # noqa: BLE001 - not yet
            return False
        return _status(self.settings["CLOUDIFY_S3_ENDPOINT"]) == 403

    def _first_run(self) -> None:
        environment = self._environment(self.directory / "console")
        (self.directory / "console").mkdir()
        done = subprocess.run(
            command(Program("first-run", ("api.first_run",), {})),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def _machines(self, chance: random.Random) -> list[Machine]:
        """Each pool on two or three of three machines, the API and the reconciler on two."""
        roles: list[set[str]] = [{"router"} for _ in range(3)]
        for pool in Pool:
            for machine in chance.sample(range(3), _POOLS_TWICE if chance.random() < 0.8 else 3):
                roles[machine].add(pool.value)
        for role in ("api", "reconciler"):
            for machine in chance.sample(range(3), _APIS):
                roles[machine].add(role)
        machines: list[Machine] = []
        for number, on_it in enumerate(roles, start=1):
            name = f"machine{number}"
            environment = self._environment(self.directory / name / "home")
            environment["CLOUDIFY_ROUTER_PEER_URL"] = f"http://{self.network.address_of(10 + number)}:{ROUTER_PORT}"
            programs = [_program(role, environment) for role in sorted(on_it)]
            machines.append(self._make(name, 10 + number, programs))
        return machines

    def _make(self, name: str, number: int, programs: Sequence[Mapping[str, object]]) -> Machine:
        return Machine(self.network, number, name, self.directory / name, programs)

    def _environment(self, home: Path) -> dict[str, str]:
        return {**_plain_environment(), **self.settings, "CLOUDIFY_HOME": str(home), "PYTHONPATH": str(ROOT)}


def _plain_environment() -> dict[str, str]:
    """This process's, without the platform's settings and without a way out."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CLOUDIFY_") and not name.lower().endswith("_proxy")
    }


def _program(role: str, environment: dict[str, str]) -> dict[str, object]:
    modules = {"api": ("api.main",), "reconciler": ("workers.reconciler",)}
    arguments = command(Program(role, modules.get(role, ("workers.main", role)), {}))
    if role == "router":
        arguments = [str(Path(sys.executable).with_name("cloudify")), "router"]
    return {"role": role, "arguments": arguments, "environment": environment}


def _store_program(directory: Path, s3_port: int) -> dict[str, object]:
    arguments = [sys.executable, "-m", "tests.support.machines.stores_program", str(directory), str(s3_port)]
    return {
        "role": "stores",
        "arguments": arguments,
        "environment": {**_plain_environment(), "PYTHONPATH": str(ROOT)},
    }


def _status(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code
    except httpx.HTTPError:
        return None
