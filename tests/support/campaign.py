"""All attacks on one executor and builds that mean no harm: deploys them together and records how each ended."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import psutil
import pytest

from tests.support.attacks import ATTACKS, ENDLESS, ON_RESOURCES, SCRIPT, SECRET, Attack, Target
from tests.support.docker_engine import DockerEngine
from tests.support.executors import processes_with
from tests.support.git_server import GitServer
from tests.support.repositories import commit, git, make_repository
from tests.support.running_platform import FINISHED, Platform, wait_for

# For all of it together, on any machine.
_SECONDS = 900.0
HARMLESS = ("neighbour", "replaced-history")
_WAITING = "echo waiting; sleep {}; mkdir dist; echo '<h1>{}</h1>' > dist/index.html"


@dataclass
class Ended:
    """A deployment as a client sees it when it is over: by its log's pages, and by a replay of its log's stream."""

    deployment: dict[str, Any]
    pages: str
    stream: str
    page: httpx.Response


@dataclass
class Campaign:
    """All attacks on one executor. What attacks resources runs on the platform `resources`, whose limits are small."""

    executor: str
    target: Target
    content: Platform
    resources: Platform
    engine: DockerEngine | None
    ids: dict[str, str] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=dict)

    @property
    def platforms(self) -> tuple[Platform, Platform]:
        return self.content, self.resources

    def platform_of(self, name: str) -> Platform:
        return self.resources if name in ON_RESOURCES else self.content

    def marker_of(self, name: str) -> str:
        """Seconds to sleep, and the mark of the processes that do."""
        return f"{self.target.marker}{1 + sorted([*ATTACKS, *HARMLESS]).index(name):02d}"

    def host_of(self, name: str) -> str:
        return f"{self.executor}-{name}"

    # Deploying

    def deploy(self, name: str, url: str, settings: dict[str, Any]) -> None:
        platform = self.platform_of(name)
        project = platform.create_project(self.host_of(name), url, **settings)
        if name == "split-secret":
            path = f"/api/projects/{project['id']}/env/SPLIT_SECRET"
            platform.call("PUT", path, {"value": SECRET}, status=(200, 201, 204))
        self.ids[name] = platform.create_deployment(project["id"])["id"]

    def launch(self, directory: Path, server: GitServer) -> None:
        """The harmless builds and all attacks but the endless ones."""
        for name in HARMLESS:
            script = _WAITING.format(self.marker_of(name), f"{name} unharmed")
            self.deploy(name, make_repository(directory / name, {"attack.sh": script}), SCRIPT)
        self._launch([attack for attack in ATTACKS.values() if attack.name not in ENDLESS], directory, server)

    def launch_endless(self, directory: Path, server: GitServer) -> None:
        """After the others, which have to end before the time limit however slow the machine is."""
        self._collect([name for name in ATTACKS if name not in ENDLESS])
        self._launch([ATTACKS[name] for name in sorted(ENDLESS)], directory, server)

    def _launch(self, attacks: Iterable[Attack], directory: Path, server: GitServer) -> None:
        for attack in attacks:
            self.deploy(attack.name, self._repository(attack, directory, server), attack.settings)

    def _repository(self, attack: Attack, directory: Path, server: GitServer) -> str:
        target = Target(self.marker_of(attack.name), self.target.outside, self.target.ports)
        place = directory / attack.name
        url = make_repository(place, attack.files(target))
        attack.arrange(place, target)
        return server.url(f"{directory.name}/{attack.name}/.git") if attack.is_from_network else url

    def replace_history(self, repository: Path) -> None:
        """While the build runs, the branch moves to another commit, and the one that is built is gone for good."""
        self._wait_until_held("replaced-history")
        built = git(repository, "rev-parse", "HEAD")
        git(repository, "checkout", "--quiet", "--orphan", "other")
        commit(repository, {"attack.sh": "exit 9"}, "Another history")
        git(repository, "branch", "--quiet", "-M", "other", "main")
        git(repository, "reflog", "expire", "--expire=now", "--all")
        git(repository, "gc", "--quiet", "--prune=now")
        with pytest.raises(AssertionError):
            git(repository, "cat-file", "-e", built)
        self._release("replaced-history")

    def finish(self) -> None:
        self._wait_until_held("neighbour")
        self._collect(sorted(ENDLESS))
        # It has been there all the time.
        self._wait_until_held("neighbour")
        self._collect(HARMLESS)

    def _wait_until_held(self, name: str) -> None:
        def is_held() -> bool:
            status = self.content.deployment(self.ids[name])
            assert status["status"] not in ("ready", "failed", "cancelled"), status
            return bool(processes_with(self.marker_of(name)))

        wait_for(is_held, seconds=_SECONDS, what=f"{name} waits in its build", every=0.2)

    def _release(self, name: str) -> None:
        for process in processes_with(self.marker_of(name)):
            with contextlib.suppress(psutil.Error):
                process.terminate()

    def _has_ended(self, name: str) -> bool:
        if name in HARMLESS:
            # Each time, as the stage may have been tried again.
            self._release(name)
        return self.platform_of(name).deployment(self.ids[name])["status"] in FINISHED

    def _collect(self, names: Iterable[str]) -> None:
        for name in names:
            self._wait_and_record(name)

    def _wait_and_record(self, name: str) -> None:
        platform, identifier = self.platform_of(name), self.ids[name]
        wait_for(lambda: self._has_ended(name), seconds=_SECONDS, what=f"{name} has ended", every=0.2)
        deployment = platform.deployment(identifier)
        # Its processes are gone when its end is reported, not some time later.
        running = [] if name in HARMLESS else processes_with(self.marker_of(name))
        assert running == [], f"{name} left {running}"
        page = platform.get_site(self.host_of(name))
        self.ended[name] = Ended(deployment, platform.log_text(identifier), _replay(platform, identifier), page)


def _replay(platform: Platform, deployment_id: str) -> str:
    """The text of a log whose end is written, as its stream gives it from the beginning."""
    texts: list[str] = []
    url = f"{platform.api_url}/api/deployments/{deployment_id}/logs/stream"
    headers = {"Authorization": platform.client.headers["Authorization"]}
    with (
        httpx.Client(timeout=60, trust_env=False) as client,
        httpx_sse.connect_sse(client, "GET", url, headers=headers) as source,
    ):
        for event in source.iter_sse():
            if event.event == "log":
                texts += [line["text"] for line in json.loads(event.data)["lines"]]
            if event.event == "end":
                return "\n".join(texts)
    raise AssertionError("the stream broke off")
