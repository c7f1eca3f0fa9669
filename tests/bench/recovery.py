"""How long a part of the platform that is killed is away: from SIGKILL until it does its work again.

The targets are those of a quiet machine: 3 s for the API, PostgreSQL and the object store, 1 s for a worker.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from shared.settings import ObjectStoreSettings
from shared.storage.object_store import S3ArtifactStore
from tests.bench.platform import line
from tests.support.repositories import make_repository
from tests.support.running_platform import Platform
from tests.support.sites import BUILD, HOLD, node_project

ROUNDS = 3
TARGETS = {"api": 3.0, "postgres": 3.0, "object-store": 3.0, "worker-build": 1.0}
STEP_SECONDS = 0.02


def seconds_until(action: Callable[[], bool]) -> float:
    started = time.perf_counter()
    while True:
        with contextlib.suppress(Exception):
            if action():
                return time.perf_counter() - started
        time.sleep(STEP_SECONDS)


def answers(platform: Platform) -> bool:
    """By a connection of its own, as the next client has."""
    headers = {"Authorization": platform.client.headers["Authorization"]}
    url = f"{platform.api_url}/api/projects"
    return httpx.get(url, headers=headers, timeout=1, trust_env=False).status_code == 200


def stores(platform: Platform) -> bool:
    found = platform.child_settings()
    settings = ObjectStoreSettings(
        endpoint=found["CLOUDIFY_S3_ENDPOINT"],
        access_key=found["CLOUDIFY_S3_ACCESS_KEY"],
        secret_key=found["CLOUDIFY_S3_SECRET_KEY"],
        bucket=found.get("CLOUDIFY_S3_BUCKET", "cloudify"),
    )
    return not S3ArtifactStore(settings, retry_seconds=0.0, timeout_seconds=1.0, connections=1).exists("nothing")


def one_round(folder: Path) -> dict[str, float]:
    """Seconds by role. Each is killed once: the supervisor waits longer for what ends again within 30 s."""
    seconds: dict[str, float] = {}
    platform = Platform(folder / "home")
    try:
        platform.start()
        for role, works in (("api", answers), ("postgres", answers), ("object-store", stores)):
            seconds_until(lambda works=works: works(platform))
            platform.kill(role)
            seconds[role] = seconds_until(lambda works=works: works(platform))
        url = make_repository(folder / "site", node_project(HOLD))
        project = platform.create_project("bench-recovery", url, **BUILD)
        deployment = platform.create_deployment(project["id"])["id"]
        platform.wait_held(deployment)
        former = {process.pid for process in platform.held_processes()}
        platform.kill("worker-build")
        seconds["worker-build"] = seconds_until(
            lambda: any(held.pid not in former for held in platform.held_processes())
        )
    finally:
        platform.close()
    return seconds


def main() -> None:
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="cloudify-bench-") as name:
            rounds.append(one_round(Path(name)))
    for role, target in TARGETS.items():
        times = [found[role] for found in rounds]
        line(
            f"{role}, killed -> works",
            f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})",
            f"target {target:.0f} s",
        )


if __name__ == "__main__":
    main()
