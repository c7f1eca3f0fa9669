"""The whole platform as its user runs it: `cloudify up` in a process of its own, on free ports, in an empty folder."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import redis

from shared.db.database import Database
from shared.deployments.jobs import stage_job_id
from shared.deployments.state import Pool, Stage
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from tests.support.ports import free_ports
from tests.support.sites import HELD_COMMAND

T = TypeVar("T")

# Where the git servers of tests listen, in a network that the operator allows; the rest of the loopback stays closed.
INTRANET_HOST = "127.0.0.2"
FINISHED = ("ready", "failed", "cancelled")
# For anything that takes a second on a quiet machine: only a failure takes so long.
TIMEOUT_SECONDS = 180.0
# For what may ask a package registry, which can leave a request unanswered until the package manager asks again.
DOWNLOAD_TIMEOUT_SECONDS = 700.0


def wait_for(condition: Callable[[], T], *, seconds: float = TIMEOUT_SECONDS, what: str, every: float = 0.1) -> T:
    """Polls until the condition gives something true, which is returned; for TIMEOUT_SECONDS at least."""
    seconds = max(seconds, TIMEOUT_SECONDS)
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:.0f} s still not: {what}")
        time.sleep(every)


def is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _below(ancestors: set[int]) -> list[psutil.Process]:
    """All their descendants, from one look at the machine's processes: each look costs as much as there are."""
    children: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            children.setdefault(process.ppid(), []).append(process)
    found: list[psutil.Process] = []
    left = list(ancestors)
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += [process.pid for process in below]
    return found


class Platform:
    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        api_port, sites_port, metrics_port = free_ports(3)
        self.api_url = f"http://127.0.0.1:{api_port}"
        self.sites_port = sites_port
        self.metrics_url = f"http://127.0.0.1:{metrics_port}/api/metrics/prometheus"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CLOUDIFY_")},
            "CLOUDIFY_HOME": str(home),
            "CLOUDIFY_API_PORT": str(api_port),
            "CLOUDIFY_SITES_PORT": str(sites_port),
            "CLOUDIFY_METRICS_PORT": str(metrics_port),
            "CLOUDIFY_REGISTRATION_ENABLED": "true",
            # As many as plans allow: attacks hold builds while others run.
            "CLOUDIFY_BUILDS_AT_ONCE": "20",
            "CLOUDIFY_EGRESS_ALLOWED_NETWORKS": f"{INTRANET_HOST}/32",
            **{f"CLOUDIFY_{name}": value for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=self.api_url, timeout=60, trust_env=False)
        self._redis: redis.Redis | None = None
        self._queue: RedisJobQueue | None = None

    # The process

    @property
    def command(self) -> list[str]:
        """`cloudify`, for arguments to follow."""
        return [str(Path(sys.executable).with_name("cloudify"))]

    def start(self, *arguments: str) -> None:
        output = (self.home.parent / f"{self.home.name}.up.log").open("ab")
        former = output.tell()
        self.process = subprocess.Popen(
            [*self.command, "up", *(arguments or ("--no-sample",))],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        output.close()
        process = self.process

        def is_ready() -> bool:
            assert process.poll() is None, f"`cloudify up` ended: {self.output()}"
            # Its own word: after a kill, the API of the former run may answer for a moment.
            if "The API answers" not in self.output(former):
                return False
            with contextlib.suppress(httpx.HTTPError, OSError, ValueError):
                token = json.loads((self.home / "credentials.json").read_text())["token"]
                self.client.headers["Authorization"] = f"Bearer {token}"
                return self.client.get("/api/auth/me").status_code == 200
            return False

        try:
            wait_for(is_ready, seconds=2 * TIMEOUT_SECONDS, what="the platform answers")
        except BaseException:
            self.stop()
            raise

    def output(self, after: int = 0) -> str:
        """The end of what `cloudify up` said, of that behind the first `after` bytes."""
        said = (self.home.parent / f"{self.home.name}.up.log").read_bytes()[after:]
        return said.decode(errors="replace")[-4000:]

    def close(self) -> None:
        """Stops the platform for good."""
        self.stop()
        self.client.close()

    def disconnect(self) -> None:
        """Before a start after a stop or a kill: the stores may listen elsewhere."""
        if self._redis is not None:
            self._redis.close()
            self._redis = self._queue = None

    def stop(self) -> None:
        self.disconnect()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                for record in self.records().values():
                    with contextlib.suppress(psutil.Error):
                        psutil.Process(record["pid"]).kill()
                self.process.kill()
                self.process.wait(60)

    def records(self) -> dict[str, Any]:
        """Role → {"pid", …} of what `up` started."""
        return {record["role"]: record for record in json.loads((self.home / "run" / "processes.json").read_text())}

    def pid(self, role: str) -> int:
        return int(self.records()[role]["pid"])

    def kill(self, role: str) -> int:
        """SIGKILL; returns the pid it had. The supervisor starts the role again."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGKILL)
        return pid

    # The inside, for assertions only

    def child_settings(self) -> dict[str, str]:
        """The environment of the API's process: what the platform runs with."""
        return psutil.Process(self.pid("api")).environ()

    @property
    def redis(self) -> redis.Redis:
        if self._redis is None:
            self._redis = connect_redis(self.child_settings()["CLOUDIFY_REDIS_URL"], timeout_seconds=TIMEOUT_SECONDS)
        return self._redis

    def queue(self) -> RedisJobQueue:
        """One for the platform's life: each keeps connections of its own."""
        if self._queue is None:
            self._queue = RedisJobQueue(self.redis, lease_seconds=30)
        return self._queue

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        database = Database(self.child_settings()["CLOUDIFY_DATABASE_URL"])
        try:
            yield database
        finally:
            database.close()

    @contextlib.contextmanager
    def plan(self, plan: str) -> Iterator[None]:
        """The owner's account on another plan for a while, changed as an operator does it."""
        me = self.call("GET", "/api/auth/me")
        self.cloudify("admin", "set-plan", me["email"], plan)
        yield
        self.cloudify("admin", "set-plan", me["email"], me["plan"])

    def cloudify(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command, in the environment of the platform's own processes."""
        return subprocess.run(
            [*self.command, *arguments],
            env=self.child_settings(),
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT_SECONDS,
        )

    def build_processes(self) -> list[psutil.Process]:
        """Processes of sandboxes: all descendants of the workers."""
        workers = {
            record["pid"] for role, record in self.records().items() if any(role.endswith(pool.value) for pool in Pool)
        }
        # A zombie no longer runs.
        return [process for process in _below(workers) if is_running(process)]

    # What a client does

    def call(self, method: str, path: str, body: Any = None, *, status: int | tuple[int, ...] = (200, 201, 202)) -> Any:
        response = self.client.request(method, path, json=body)
        expected = (status,) if isinstance(status, int) else status
        assert response.status_code in expected, f"{method} {path}: {response.status_code} {response.text}"
        return response.json().get("data") if response.content else None

    @contextlib.contextmanager
    def new_account(self) -> Iterator[None]:
        """Calls in the block are a new FREE account's, who may deploy file://; an access token lasts 10 min."""
        before = self.client.headers["Authorization"]
        body = {"email": f"{secrets.token_hex(8)}@example.invalid", "password": secrets.token_urlsafe(20)}
        account = self.call("POST", "/api/auth/register", body)
        self.make_administrator(body["email"])
        self.client.headers["Authorization"] = f"Bearer {account['accessToken']}"
        try:
            yield
        finally:
            self.client.headers["Authorization"] = before

    def make_administrator(self, email: str) -> None:
        with self.database() as database, database.transaction() as connection:
            connection.execute("UPDATE users SET is_platform_administrator = true WHERE email = %s", [email])

    def create_project(self, name: str, repository_url: str, **settings: Any) -> dict[str, Any]:
        return self.call("POST", "/api/projects", {"name": name, "repositoryUrl": repository_url, **settings})

    def create_deployment(self, project_id: str, **body: Any) -> dict[str, Any]:
        return self.call("POST", "/api/deployments", {"projectId": project_id, **body})

    def deployment(self, deployment_id: str) -> dict[str, Any]:
        return self.call("GET", f"/api/deployments/{deployment_id}")

    def wait_status(self, deployment_id: str, *statuses: str, seconds: float = TIMEOUT_SECONDS) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            try:
                deployment = self.deployment(deployment_id)
            except (httpx.HTTPError, AssertionError):
                return None  # the API may be away on purpose
            if deployment["status"] in statuses:
                return deployment
            assert deployment["status"] not in FINISHED, f"ended as {deployment['status']}: {deployment['error']}"
            return None

        return wait_for(reached, seconds=seconds, what=f"{deployment_id} is {' or '.join(statuses)}")

    def finish(self, deployment_id: str, *, seconds: float = DOWNLOAD_TIMEOUT_SECONDS) -> dict[str, Any]:
        return self.wait_status(deployment_id, *FINISHED, seconds=seconds)

    def wait_stage(self, deployment_id: str, stage: Stage) -> None:
        """Returns when the stage runs, or has run: a quick one may be over before anybody has seen it."""
        queue, job = self.queue(), stage_job_id(deployment_id, stage)
        looks = itertools.count()

        def has_begun() -> bool:
            # The queue is asked all the time, to see a quick stage while it runs; the API, which works for each
            # answer, once in a while.
            return queue.find(job) == "running" or (
                next(looks) % 50 == 0 and stage.value in self._stages_begun(deployment_id)
            )

        wait_for(has_begun, what=f"{stage.value} runs", every=0.002)

    def _stages_begun(self, deployment_id: str) -> set[str]:
        return {run["stage"] for run in self.deployment(deployment_id)["stages"]}

    # Commands that are held (sites.HOLD)

    def held_processes(self) -> list[psutil.Process]:
        held: list[psutil.Process] = []
        for process in self.build_processes():
            with contextlib.suppress(psutil.Error):
                if process.cmdline() == HELD_COMMAND:
                    held.append(process)
        return held

    def wait_held(self, deployment_id: str) -> None:
        wait_for(lambda: "holding" in self.log_text(deployment_id), what="the command runs")
        wait_for(self.held_processes, what="it waits")

    def release(self) -> None:
        """Lets every command that is held now continue."""
        for process in self.held_processes():
            with contextlib.suppress(psutil.Error):
                process.terminate()

    def release_and_finish(self, deployment_id: str) -> dict[str, Any]:
        """Finishes a deployment whose command is held in each attempt."""

        def has_ended() -> bool:
            self.release()
            with contextlib.suppress(httpx.HTTPError, AssertionError):  # the API may be away on purpose
                return self.deployment(deployment_id)["status"] in FINISHED
            return False

        wait_for(has_ended, what=f"{deployment_id} has ended", every=0.25)
        return self.deployment(deployment_id)

    def deploy(
        self, name: str, repository_url: str, *, seconds: float = DOWNLOAD_TIMEOUT_SECONDS, **settings: Any
    ) -> dict[str, Any]:
        """A new project and its first deployment, finished."""
        project = self.create_project(name, repository_url, **settings)
        return self.finish(self.create_deployment(project["id"])["id"], seconds=seconds)

    def log(self, deployment_id: str) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        after = 0
        while True:
            page = self.call("GET", f"/api/deployments/{deployment_id}/logs?after={after}&limit=1000")
            if not page:
                return lines
            lines += page
            after = page[-1]["seq"]

    def log_text(self, deployment_id: str) -> str:
        return "\n".join(line["text"] for line in self.log(deployment_id))

    def get_site(self, host: str, path: str = "/", **headers: str) -> httpx.Response:
        """Fetches from the site router by host label, without relying on *.localhost in the resolver."""
        url = f"http://127.0.0.1:{self.sites_port}{path}"
        name = f"{host}.localhost:{self.sites_port}"
        return httpx.get(url, headers={"Host": name, **headers}, timeout=60, trust_env=False)
