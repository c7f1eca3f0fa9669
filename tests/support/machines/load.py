"""Users who deploy and roll back all the time, through whichever API answers, and repeat what got no answer."""

from __future__ import annotations

import contextlib
import itertools
import random
import secrets
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from shared.background import BackgroundThread
from tests.support.machines.cluster import Cluster
from tests.support.repositories import commit, make_repository
from tests.support.running_platform import FINISHED, wait_for

# Long enough that a mix of two versions would be seen.
_LINES = 2000
_SETTINGS = {"buildCommand": "mkdir public && cp index.html public", "outputDirectory": "public"}
_ANSWER_SECONDS = 12.0
# Sites that a user makes meanwhile.
_YOUNG_OF_EACH = 4


@dataclass
class Account:
    tenant_id: str
    token: str
    limit: int


class AnyApi:
    """Calls one API after the other until one answers. Safe from any thread."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        # Connections are kept by the pool; a machine that is gone is noticed by the time limit.
        self._client = httpx.Client(timeout=_ANSWER_SECONDS, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def call(self, method: str, path: str, body: Any = None, *, token: str = "", key: str = "") -> tuple[int, Any]:
        """Repeats the request, with the same key, until it is answered by something else than "try again"."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if key:
            headers["Idempotency-Key"] = key
        while True:
            for address in random.sample(self._addresses, len(self._addresses)):
                try:
                    response = self._client.request(method, f"{address}{path}", json=body, headers=headers)
                except httpx.HTTPError:
                    continue
                if response.status_code < 500 and response.status_code != 429:
                    return response.status_code, response.json().get("data") if response.content else None
            time.sleep(0.3)


@dataclass
class Project:
    """`requested`: what was accepted: key → deployment's id. `releases`: how many rollbacks and promotions were."""

    account: Account
    id: str
    slug: str
    repository: Path
    versions: int = 0
    requested: dict[str, str] = field(default_factory=dict[str, str])
    releases: int = 0
    is_deleted: bool = False


class Load:
    """Use `prepare` before `start`. `problems` are answers that no user should get."""

    def __init__(self, cluster: Cluster, repositories: Path, repository_url: str, seed: int) -> None:
        self._cluster = cluster
        self._repositories = repositories
        self._repository_url = repository_url
        self._seed = seed
        self.api = AnyApi(cluster.api_addresses)
        self.projects: list[Project] = []
        self.accounts: list[Account] = []
        self.problems: list[str] = []
        # Sites that were made meanwhile: host → when it was ready; and those that were deleted.
        self.young: dict[str, float] = {}
        self.deleted: list[str] = []
        self._made_meanwhile: set[str] = set()
        self._lock = threading.Lock()
        self._names = itertools.count(1)
        self._threads: list[BackgroundThread] = []

    @property
    def hosts(self) -> list[str]:
        return [project.slug for project in self.projects if project.slug not in self._made_meanwhile]

    def prepare(self, plans: Sequence[tuple[str, int]], projects_of_each: int) -> None:
        """Makes accounts and projects, and a first deployment of each. `plans`: name and limit of builds at once."""
        for plan, limit in plans:
            account = self._register(plan, limit)
            for _ in range(projects_of_each):
                self._create_project(account)
        for project in self.projects:
            self._deploy(project)
        for project in self.projects:
            self._wait_finished(project, next(iter(project.requested.values())))

    def start(self) -> None:
        for number, project in enumerate(list(self.projects)):
            chance = random.Random(self._seed * 1000 + number)
            thread = BackgroundThread(f"user-{number}", self._user(project, chance))
            self._threads.append(thread)
            thread.start()

    def stop(self, seconds: float) -> None:
        """No more requests. Raises if a request is still not answered."""
        for thread in self._threads:
            thread.stop(0)
        for thread in self._threads:
            assert thread.stop(seconds), "a request to the API has had no answer"

    def wait_until_settled(self, seconds: float) -> None:
        """Everything that was accepted has ended."""

        def unfinished() -> list[str]:
            return self._cluster.database.fetch_values(
                str,
                "SELECT id || ' ' || status::text FROM deployments WHERE finished_at IS NULL "
                "UNION ALL SELECT id || ' pending' FROM releases WHERE status = 'pending' "
                "UNION ALL SELECT id || ' is being deleted' FROM projects WHERE deleting_at IS NOT NULL",
            )

        def has_settled() -> bool:
            with contextlib.suppress(Exception):
                return not unfinished()
            return False

        try:
            wait_for(has_settled, seconds=seconds, what="everything has ended", every=0.3)
        except AssertionError:
            raise AssertionError(f"never ended: {unfinished()}") from None

    def _user(self, project: Project, chance: random.Random) -> Any:
        def act(stopping: threading.Event) -> None:
            made = 0
            while not stopping.wait(chance.uniform(0.2, 1.0)):
                if made < _YOUNG_OF_EACH and chance.random() < 0.15:
                    made += 1
                    self._make_and_delete(project.account, chance, stopping)
                if chance.random() < 0.6:
                    for _ in range(chance.choice((1, 2, 4))):
                        self._roll_back(project, chance)
                    continue
                for _ in range(chance.choice((1, 1, 2))):
                    self._deploy(project)
                if chance.random() < 0.7:
                    self._wait_finished(project, list(project.requested.values())[-1], stopping)

        return act

    def _make_and_delete(self, account: Account, chance: random.Random, stopping: threading.Event) -> None:
        """Another site, which is deleted in half of the cases."""
        project = self._create_project(account, is_young=True)
        self._deploy(project)
        self._wait_finished(project, next(iter(project.requested.values())), stopping)
        if stopping.is_set():
            return
        self.young[project.slug] = time.monotonic()
        if chance.random() < 0.5:
            stopping.wait(chance.uniform(0.0, 3.0))
            del self.young[project.slug]
            project.is_deleted = True
            status, _data = self.api.call("DELETE", f"/api/projects/{project.id}", token=account.token)
            if status not in (200, 202, 204, 404):
                self.problems.append(f"the deletion of {project.slug} was answered {status}")
            self.deleted.append(project.slug)

    def _register(self, plan: str, limit: int) -> Account:
        body = {"email": f"{secrets.token_hex(8)}@example.invalid", "password": secrets.token_urlsafe(20)}
        _status, registered = self.api.call("POST", "/api/auth/register", body)
        access = registered["accessToken"]
        _status, token = self.api.call("POST", "/api/auth/tokens", {"name": "load"}, token=access)
        _status, me = self.api.call("GET", "/api/auth/me", token=access)
        tenant = self._cluster.database.fetch_value(
            str,
            "SELECT t.id FROM tenants t JOIN users u ON u.id = t.personal_user_id WHERE u.email = %(email)s",
            {"email": me["email"]},
        )
        assert tenant is not None
        self._cluster.set_plan(tenant, plan)
        account = Account(tenant, token["token"], limit)
        self.accounts.append(account)
        return account

    def _create_project(self, account: Account, *, is_young: bool = False) -> Project:
        with self._lock:
            name = f"site-{next(self._names)}"
            if is_young:
                self._made_meanwhile.add(name)
        repository = self._repositories / name
        make_repository(repository, _site(f"{name}-0"))
        body = {"name": name, "repositoryUrl": f"{self._repository_url}{name}/.git", **_SETTINGS}
        status, project = self.api.call("POST", "/api/projects", body, token=account.token)
        assert status == 201, project
        made = Project(account, project["id"], project["slug"], repository)
        self.projects.append(made)
        return made

    def _deploy(self, project: Project) -> None:
        project.versions += 1
        commit(project.repository, _site(f"{project.slug}-{project.versions}"))
        key = uuid.uuid4().hex
        body = {"projectId": project.id}
        status, deployment = self.api.call("POST", "/api/deployments", body, token=project.account.token, key=key)
        if status not in (200, 201, 202):
            self.problems.append(f"a deployment of {project.slug} was answered {status}")
            return
        project.requested[key] = deployment["id"]

    def _roll_back(self, project: Project, chance: random.Random) -> None:
        path = f"/api/deployments?projectId={project.id}&status=ready&limit=20"
        _status, ready = self.api.call("GET", path, token=project.account.token)
        if not ready:
            return
        deployment = chance.choice(ready)["id"]
        path = f"/api/deployments/{deployment}/{chance.choice(('rollback', 'promote'))}"
        status, _data = self.api.call("POST", path, token=project.account.token, key=uuid.uuid4().hex)
        if status in (200, 201, 202):
            project.releases += 1
        elif status != 409:
            self.problems.append(f"a rollback of {project.slug} was answered {status}")

    def _wait_finished(self, project: Project, deployment_id: str, stopping: threading.Event | None = None) -> None:
        while stopping is None or not stopping.is_set():
            path = f"/api/deployments/{deployment_id}"
            status, deployment = self.api.call("GET", path, token=project.account.token)
            if status != 200:
                self.problems.append(f"{deployment_id} was answered {status}")
                return
            if deployment["status"] in FINISHED:
                return
            time.sleep(0.25)


def _site(version: str) -> dict[str, str]:
    return {"index.html": f"{version}\n" * _LINES}
