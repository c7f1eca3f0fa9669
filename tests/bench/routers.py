"""Activation on one and on three site routers, a router's first request for a site, and memory with 10 000 sites known.

Each router is a `cloudify router` on this machine, with a folder, a web server and an agent of its own.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from shared.db.database import Database
from tests.bench.platform import line
from tests.support.ports import free_ports
from tests.support.repositories import commit, make_repository
from tests.support.running_platform import Platform, wait_for

_ROLLBACKS = 60
_FIRST_REQUESTS = 20
_KNOWN, _USED = 10_000, 100


@dataclass
class Router:
    """`process` is None for the router of `cloudify up`."""

    url: str
    process: psutil.Process | None = None

    def content(self, client: httpx.Client, host: str) -> str:
        return client.get(self.url, headers={"Host": f"{host}.localhost"}).text

    def memory(self) -> float:
        """MB of the router's processes, shared pages counted once."""
        assert self.process is not None
        total = 0
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 1e6


@contextmanager
def further_router(platform: Platform, home: Path) -> Generator[Router]:
    web_port, internal_port = free_ports(2)
    shared = json.loads((platform.home / "run" / "environment.json").read_text())
    environment = platform.environment | shared | {
        "CLOUDIFY_HOME": str(home),
        "CLOUDIFY_SITES_PORT": str(web_port),
        "CLOUDIFY_ROUTER_URL": "",
        "CLOUDIFY_ROUTER_INTERNAL_PORT": str(internal_port),
    }  # fmt: skip
    command = [str(Path(sys.executable).with_name("cloudify")), "router"]
    with (home.parent / f"{home.name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        ready = f"http://127.0.0.1:{internal_port}/ready"

        def is_ready() -> bool:
            assert process.poll() is None, (home.parent / f"{home.name}.log").read_text()
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(ready, trust_env=False).status_code == 200
            return False

        wait_for(is_ready, what="the router is ready")
        yield Router(f"http://127.0.0.1:{web_port}", psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


def bench_activation(platform: Platform, routers: list[Router], project: str, even: str, odd: str) -> None:
    """The time from the request until no router serves the former deployment."""
    times: list[float] = []
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(trust_env=False, timeout=60)) for _ in routers]
        for number in range(_ROLLBACKS):
            target, former = (even, "odd") if number % 2 == 0 else (odd, "even")
            started = time.perf_counter()
            last_old = [0.0] * len(routers)
            platform.call("POST", f"/api/deployments/{target}/rollback")

            def follow(
                index: int, former: str = former, started: float = started, last: list[float] = last_old
            ) -> None:
                while routers[index].content(clients[index], project) == former:
                    last[index] = time.perf_counter() - started

            followers = [threading.Thread(target=follow, args=(index,)) for index in range(len(routers))]
            for follower in followers:
                follower.start()
            for follower in followers:
                follower.join()
            times.append(max(last_old) * 1000)
            time.sleep(0.02)
    times.sort()
    figures = f"{statistics.median(times):.0f} / {times[int(len(times) * 0.99)]:.0f} ms"
    line(f"rollback request -> last old byte, {len(routers)} router(s) (p50 / p99)", figures)


def bench_first_request(platform: Platform, folder: Path, hosts: list[str]) -> None:
    """A router that has none of the sites: each one's first request, and its second."""
    first: list[float] = []
    second: list[float] = []
    with (
        further_router(platform, folder / "empty") as router,
        httpx.Client(trust_env=False, timeout=60) as client,
    ):
        for host in hosts:
            for times in (first, second):
                started = time.perf_counter()
                assert router.content(client, host).startswith("site"), host
                times.append((time.perf_counter() - started) * 1000)
    against = f"the second one {statistics.median(second):.1f} ms"
    line("first request for a site that isn't there (p50)", f"{statistics.median(first):.0f} ms", against)


def bench_memory(platform: Platform, folder: Path, database_url: str, hosts: list[str]) -> None:
    with further_router(platform, folder / "before") as router:
        time.sleep(3)
        empty = router.memory()
    with contextlib.closing(Database(database_url)) as database, database.transaction() as connection:
        connection.execute(
            "INSERT INTO route_artifacts SELECT 'depl_known' || n, 'ten_' || n, repeat('a', 64), false "
            "FROM generate_series(1, %s) n",
            (_KNOWN,),
        )
        connection.execute(
            "INSERT INTO routes SELECT 'known-' || n, 'depl_known' || n, 0 FROM generate_series(1, %s) n", (_KNOWN,)
        )
    with (
        further_router(platform, folder / "full") as router,
        httpx.Client(trust_env=False, timeout=60) as client,
    ):
        for number in range(_USED):
            router.content(client, hosts[number % len(hosts)])
        time.sleep(3)
        line(f"memory of a router, {_KNOWN} sites known", f"{router.memory():.0f} MB", f"no site {empty:.0f} MB")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="cloudify-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        # The reconciler would remove the routes that no deployment has.
        platform = Platform(folder / "home", RECONCILE_SECONDS="3600")
        stack.callback(platform.close)
        platform.start()
        environment = json.loads((platform.home / "run" / "environment.json").read_text())
        url = make_repository(folder / "rollback", {"index.html": "even"})
        project = platform.create_project("bench-rollback", url)["id"]
        even = platform.finish(platform.create_deployment(project)["id"])["id"]
        commit(folder / "rollback", {"index.html": "odd"})
        odd = platform.finish(platform.create_deployment(project)["id"])["id"]
        hosts: list[str] = []
        for number in range(_FIRST_REQUESTS):
            site = make_repository(folder / f"site-{number}", {"index.html": f"site {number}", "a.css": f"{number}"})
            platform.finish(platform.create_deployment(platform.create_project(f"site-{number}", site)["id"])["id"])
            hosts.append(f"site-{number}")
        routers = [Router(f"http://127.0.0.1:{platform.sites_port}")]
        bench_activation(platform, routers, "bench-rollback", even, odd)
        with ExitStack() as further:
            routers += [further.enter_context(further_router(platform, folder / f"router-{n}")) for n in (2, 3)]
            bench_activation(platform, routers, "bench-rollback", even, odd)
        bench_first_request(platform, folder, hosts)
        bench_memory(platform, folder, environment["CLOUDIFY_DATABASE_URL"], hosts)


if __name__ == "__main__":
    main()
