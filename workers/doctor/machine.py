"""Checks of this machine (sandbox, registries) and of the platform's processes."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from shared.deployments.state import Pool
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import WorkerState
from shared.routing.log import RouteLog
from shared.routing.routers import RouterRepository
from shared.settings import NetworkSettings, Settings
from shared.text.wording import counted
from workers.doctor.findings import Finding, ok, problem, warning
from workers.executors.environment import NPM_VARIABLES, PROXY_VARIABLES, PYTHON_VARIABLES, registry_environment
from workers.executors.table import executor_backend

_REGISTRY_SECONDS = 5.0
_REGISTRY_ADVICE = (
    "Installs of projects that use it fail. Let this machine reach it, or set CLOUDIFY_EGRESS_PROXY,"
    " CLOUDIFY_NPM_REGISTRY or CLOUDIFY_PYTHON_INDEX."
)
# Without a registry of the operator's, each package manager knows its own. These commands do nothing but reach it.
_COMMAND_SECONDS = 30.0
_NPM = ("ping", "--fetch-retries=0", f"--fetch-timeout={_REGISTRY_SECONDS * 1000:.0f}")
_PIP = ("index", "versions", "pip", "--retries=0", f"--timeout={_REGISTRY_SECONDS:.0f}", "--disable-pip-version-check")


def check_sandbox(settings: Settings) -> Iterator[Finding]:
    """Runs the executor's own probe. Raises PlatformError with instructions."""
    executor = executor_backend(settings.executor.name).open_executor(settings)
    try:
        executor.probe()
    finally:
        executor.close()
    yield ok("sandbox", f"Commands run with {settings.executor.name}.")


def check_routers(routers: RouterRepository, log: RouteLog) -> Iterator[Finding]:
    rows = routers.all()
    live = [row for row in rows if row.is_live]
    if not live:
        yield problem("routers", "No site router runs: no site is served.", "Start one with `cloudify router`.")
    head = log.position()
    for row in rows:
        subject = f"router {row.id}"
        if not row.is_live:
            yield warning(
                subject,
                f"It has been silent for {row.silent_seconds:.0f} s.",
                f"Look at {row.machine}; it is forgotten after a day.",
            )
        elif row.problem is not None:
            yield problem(subject, row.problem, f"Look at {row.machine} and at the router's log.")
        elif row.epoch == head.epoch and row.applied_number < head.number:
            behind = head.number - row.applied_number
            yield warning(
                subject, f"It is {behind} changes behind.", "Repeat this in some seconds; then look at its log."
            )
        else:
            yield ok(subject, f"It is up to date and has {counted(row.sites, 'site')} on its disk.")


def check_workers(queue: RedisJobQueue) -> Iterator[Finding]:
    records = queue.workers()
    running = Counter(record.pool for record in records if record.state is WorkerState.RUNNING)
    if missing := [pool.value for pool in Pool if not running[pool.value]]:
        names = ", ".join(missing)
        yield problem(
            "workers", f"No worker takes jobs of {names}.", f"Start some with `cloudify worker {missing[0]}`."
        )
    else:
        yield ok("workers", f"{len(records)} run; every pool has some.")
    for record in records:
        if record.state is WorkerState.PAUSED:
            yield warning(f"worker {record.worker}", record.reason, "It continues by itself once this is right.")
    dead = {row.pool: row.dead for row in queue.stats() if row.dead}
    if dead:
        counts = ", ".join(f"{number} of {pool}" for pool, number in dead.items())
        yield warning(
            "dead letters",
            f"Jobs have used up their attempts: {counts}.",
            "See `cloudify queue dead`; retry or drop them.",
        )


def check_registries(settings: NetworkSettings) -> Iterator[Finding]:
    """The registries that installs are told, or else the package managers' own."""
    told = registry_environment(settings, dict(os.environ))
    npm = str(Path(sys.executable).with_name("npm"))
    for name, variables, command in (
        ("npm registry", NPM_VARIABLES, (npm, *_NPM)),
        ("Python index", PYTHON_VARIABLES, (sys.executable, "-m", "pip", *_PIP)),
    ):
        url = next((told[variable] for variable in variables if told.get(variable)), None)
        yield _run_command(name, command, settings) if url is None else _check_registry(name, url, settings)


def _run_command(name: str, command: Sequence[str], settings: NetworkSettings) -> Finding:
    environment = dict(os.environ)
    if settings.egress_proxy:
        environment |= dict.fromkeys(PROXY_VARIABLES, settings.egress_proxy)
    if settings.ca_bundle is not None:
        environment |= {"NODE_EXTRA_CA_CERTS": str(settings.ca_bundle), "PIP_CERT": str(settings.ca_bundle)}
    try:
        ended = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return warning(name, f"It can't be asked: {error}", _REGISTRY_ADVICE)
    if ended.returncode != 0:
        return warning(name, "The package manager's own doesn't answer.", _REGISTRY_ADVICE)
    return ok(name, "The package manager's own answers.")


def _check_registry(name: str, url: str, settings: NetworkSettings) -> Finding:
    # Without its credentials: it is shown.
    shown = httpx.URL(url).copy_with(username=None, password=None)
    # As commands of projects do: the host's certificates, and the operator's besides.
    verify = ssl.create_default_context()
    if settings.ca_bundle is not None:
        verify.load_verify_locations(settings.ca_bundle)
    try:
        with (
            httpx.Client(
                proxy=settings.egress_proxy or None, verify=verify, timeout=_REGISTRY_SECONDS, trust_env=False
            ) as client,
            # The answer's body is not read: an index is large.
            client.stream("GET", url) as response,
        ):
            status = response.status_code
    except (httpx.HTTPError, OSError) as error:
        return warning(name, f"{shown} can't be reached: {error or type(error).__name__}.", _REGISTRY_ADVICE)
    if status in (401, 403, 407) or status >= 500:
        return warning(name, f"{shown} answers {status}.", _REGISTRY_ADVICE)
    return ok(name, f"{shown} answers.")
