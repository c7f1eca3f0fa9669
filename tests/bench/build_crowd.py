"""Twenty builds at once on this machine, of one account and of twenty: throughput, memory at the peak, fairness."""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Generator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import psutil

from tests.support.repositories import commit, make_repository
from tests.support.running_platform import Platform, wait_for

_BUILDS = 20
_FINISHED = """
SELECT d.id, d.status, d.error_message, d.created_at, d.finished_at,
       min(s.started_at) FILTER (WHERE s.stage = 'install') AS installing_at
FROM deployments d LEFT JOIN stage_runs s ON s.deployment_id = d.id
WHERE d.id = ANY(%(ids)s) GROUP BY d.id
"""


class _Finished(msgspec.Struct, frozen=True):
    id: str
    status: str
    error_message: str | None
    created_at: datetime
    finished_at: datetime | None
    installing_at: datetime | None


def measure(platform: Platform, folder: Path) -> None:
    url = make_repository(folder / "crowd", "sample")
    with platform.plan("ENTERPRISE"):
        projects = [platform.create_project(f"crowd-{number}", url)["id"] for number in range(_BUILDS)]
        with _peak(platform) as peak:
            started = time.perf_counter()
            created = [platform.create_deployment(project)["id"] for project in projects]
            _report(f"{_BUILDS} builds of an ENTERPRISE account", platform, created, started, peak)
    commit(folder / "crowd", {"round.txt": "twenty accounts"})
    created = []
    with _peak(platform) as peak:
        started = time.perf_counter()
        for number in range(_BUILDS):
            with platform.new_account():
                project = platform.create_project(f"alone-{number}", url)["id"]
                created.append(platform.create_deployment(project)["id"])
        _report(f"a build of each of {_BUILDS} FREE accounts", platform, created, started, peak)


def _report(name: str, platform: Platform, ids: list[str], started: float, peak: list[float]) -> None:
    asked = time.perf_counter() - started
    with platform.database() as database:

        def finished() -> list[_Finished] | None:
            rows = database.fetch_all(_Finished, _FINISHED, {"ids": ids})
            return rows if all(row.finished_at for row in rows) else None

        rows = wait_for(finished, seconds=1800, what="all have ended", every=0.2) or []
    seconds = time.perf_counter() - started
    failed = [f"{row.id}: {row.error_message}" for row in rows if row.status != "ready"]
    waits = sorted(_seconds(row.installing_at - row.created_at) for row in rows if row.installing_at)
    totals = sorted(_seconds(row.finished_at - row.created_at) for row in rows if row.finished_at)
    print(f"{name}: {len(rows) - len(failed)} ready in {seconds:.1f} s (asked for in {asked:.1f} s),", end=" ")
    print(f"{60 * len(rows) / seconds:.0f} a minute; load {os.getloadavg()[0]:.1f}")
    print(f"    wait for the install stage, s: {_spread(waits)}")
    print(f"    request -> live, s:            {_spread(totals)}; Jain's index {_jain(totals):.2f}")
    print(f"    memory at the peak (PSS): {peak[0]:.0f} MB, of it sandboxes {peak[1]:.0f} MB", flush=True)
    for line in failed:
        print(f"    FAILED {line}", flush=True)


def _seconds(span: timedelta) -> float:
    return span.total_seconds()


def _spread(values: list[float]) -> str:
    return f"{values[0]:.1f} … median {statistics.median(values):.1f} … {values[-1]:.1f}"


def _jain(values: list[float]) -> float:
    """Jain, Chiu and Hawe (1984): 1 when all are treated alike, 1/n when one gets everything."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


@contextlib.contextmanager
def _peak(platform: Platform) -> Generator[list[float]]:
    """MB at the worst moment seen, every 0.5 s: all of the platform with its builds, and the builds' part of it."""
    over, peak = threading.Event(), [0.0, 0.0]
    assert platform.process is not None
    root = psutil.Process(platform.process.pid)

    def sample() -> None:
        while not over.wait(0.5):
            total, builds = _memory(root)
            if total > peak[0]:
                peak[:] = total, builds

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        over.set()
        sampler.join()


def _memory(root: psutil.Process) -> tuple[float, float]:
    total = builds = 0.0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            size = process.memory_full_info().pss / 1e6
            total += size
            builds += size if _is_sandboxed(process) else 0
    return total, builds


def _is_sandboxed(process: psutil.Process) -> bool:
    """Whether it lives in a pid namespace of its own."""
    try:
        return Path(f"/proc/{process.pid}/ns/pid").readlink() != Path("/proc/self/ns/pid").readlink()
    except OSError:
        return False
