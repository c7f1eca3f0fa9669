"""Start, request to live of a static site, rollback to new content, and memory.

`make bench` runs it. Machines are noisy: each figure is the median of a few rounds, and the ratios are of one run.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psutil

from tests.support.repositories import commit, make_repository
from tests.support.running_platform import Platform, wait_for

ROUNDS = 3


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def request_to_end(platform: Platform, project: str, **body: object) -> tuple[float, dict[str, Any]]:
    """Seconds from the POST until the deployment's stream says that it has ended; and the deployment.

    Asking again and again would take a good part of this machine's cores from the build.
    """
    started = time.perf_counter()
    path = f"/api/deployments/{platform.create_deployment(project, **body)['id']}"
    with platform.client.stream("GET", f"{path}/logs/stream", timeout=600) as stream:
        if "event: end" not in stream.iter_lines():
            raise RuntimeError(f"the stream of {path} broke off")
        seconds = time.perf_counter() - started
    return seconds, platform.call("GET", path)


def resident_by_role(platform: Platform) -> dict[str, tuple[float, float]]:
    """MB of each role's processes: resident sets added up, and proportional (a shared page counted once)."""
    assert platform.process is not None
    named = {record["pid"]: role for role, record in platform.records().items()}
    figures: dict[str, tuple[float, float]] = {}

    def add(process: psutil.Process, role: str) -> None:
        role = named.get(process.pid, role)
        with contextlib.suppress(psutil.Error):
            memory, (rss, pss) = process.memory_full_info(), figures.get(role, (0.0, 0.0))
            figures[role] = rss + memory.rss / 1e6, pss + memory.pss / 1e6
            for child in process.children():
                add(child, role)

    add(psutil.Process(platform.process.pid), "up")
    return figures


def resident(platform: Platform) -> tuple[float, float]:
    """MB of all the platform's processes: resident sets added up, and proportional."""
    figures = resident_by_role(platform).values()
    return sum(rss for rss, _pss in figures), sum(pss for _rss, pss in figures)


@contextlib.contextmanager
def peak_of(platform: Platform) -> Generator[list[float]]:
    over, peak = threading.Event(), [0.0]

    def sample() -> None:
        while not over.wait(0.2):
            peak[0] = max(peak[0], resident(platform)[1])

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        over.set()
        sampler.join()


def line(name: str, figure: str, against: str = "", ratio: float | None = None) -> None:
    print(f"{name:<52} {figure:>12} {against:>22} {'' if ratio is None else f'{ratio:6.2f} x'}", flush=True)


def bench_static(platform: Platform, folder: Path) -> None:
    files = {f"page-{number}/index.html": f"<h1>{number}</h1>" for number in range(100)}
    url = make_repository(folder / "static", {"index.html": "<h1>static</h1>", **files})
    project = platform.create_project("bench-static", url)["id"]
    clone = ["git", "clone", "-q", "--depth", "1", url, str(folder / "hand")]
    ours, hand, same = [], [], []
    for number in range(ROUNDS):
        commit(folder / "static", {"index.html": f"<h1>static {number}</h1>"})
        ours.append(seconds_to_ready(platform, project))
        same.append(seconds_to_ready(platform, project))
        hand.append(timed(lambda: subprocess.run(clone, check=True)))
        shutil.rmtree(folder / "hand")
    new, cloned = statistics.median(ours), statistics.median(hand)
    line("static site, new commit: request -> live", f"{new:.2f} s", f"git clone {cloned:.2f} s", new / cloned)
    line("static site, same commit again", f"{statistics.median(same):.2f} s")


def bench_memory(platform: Platform, folder: Path) -> None:
    url = make_repository(folder / "sample", "sample")
    project = platform.create_project("bench-sample", url)["id"]
    with peak_of(platform) as peak:
        seconds_to_ready(platform, project, clean=True)
    line("memory at the peak of a Vite build (PSS)", f"{peak[0]:.0f} MB")


def seconds_to_ready(platform: Platform, project: str, **body: object) -> float:
    seconds, deployment = request_to_end(platform, project, **body)
    assert deployment["status"] == "ready", deployment["error"]
    return seconds


def bench_rollback(platform: Platform, folder: Path) -> None:
    url = make_repository(folder / "rollback", {"index.html": "even"})
    project = platform.create_project("bench-rollback", url)["id"]
    even = platform.finish(platform.create_deployment(project)["id"])["id"]
    commit(folder / "rollback", {"index.html": "odd"})
    odd = platform.finish(platform.create_deployment(project)["id"])["id"]
    times: list[float] = []
    for number in range(60):
        target, content = (even, "even") if number % 2 == 0 else (odd, "odd")

        def roll(target: str = target, content: str = content) -> None:
            platform.call("POST", f"/api/deployments/{target}/rollback")
            wait_for(lambda: platform.get_site("bench-rollback").text == content, seconds=10, what=content, every=0.001)

        times.append(timed(roll) * 1000)
    times.sort()
    figures = f"{statistics.median(times):.0f} / {times[int(len(times) * 0.95)]:.0f} / {times[-1]:.0f} ms"
    line("rollback request -> new content (p50 / p95 / max)", figures)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="cloudify-bench-") as name:
        folder = Path(name)
        platform = Platform(folder / "home")
        try:
            line("first start -> API answers", f"{timed(platform.start):.1f} s")
            platform.stop()
            line("warm start -> API answers", f"{timed(platform.start):.1f} s")
            time.sleep(5)  # settle: what start-up used is given back
            rss, pss = resident(platform)
            line("idle memory, everything (RSS added up / PSS)", f"{rss:.0f} / {pss:.0f} MB")
            for role, (rss, pss) in resident_by_role(platform).items():
                line(f"  {role}", f"{rss:.0f} / {pss:.0f} MB")
            bench_static(platform, folder)
            bench_rollback(platform, folder)
            bench_memory(platform, folder)
        finally:
            platform.close()


if __name__ == "__main__":
    main()
