"""How much slower another tenant's `GET /projects` and `/health/live` are while somebody floods the API.

The load generator has the same cores as the API: some of each ratio is its own. Ratios are of one run.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import httpx

from tests.bench.platform import line
from tests.support.floods import FLOODS
from tests.support.repositories import make_repository
from tests.support.running_platform import Platform

SAMPLES = 100
THREADS = 20


@contextlib.contextmanager
def flood(platform: Platform, kind: str, token: str, deployment: str) -> Generator[dict[str, int]]:
    command = [sys.executable, "-m", "tests.support.floods", platform.api_url, kind, str(THREADS), token, deployment]
    statuses: dict[str, int] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(1)  # settle: the flood is at its height
        try:
            yield statuses
        finally:
            process.stdin.close()
            statuses.update(json.loads(process.stdout.readline()))


def milliseconds(client: httpx.Client, path: str) -> tuple[float, float]:
    """Median and 95th percentile."""
    times: list[float] = []
    for _ in range(SAMPLES):
        started = time.perf_counter()
        response = client.get(path)
        times.append((time.perf_counter() - started) * 1000)
        assert response.status_code == 200, response.text
    times.sort()
    return statistics.median(times), times[int(len(times) * 0.95)]


def main() -> None:
    paths = ("/api/projects", "/api/health/live")
    with tempfile.TemporaryDirectory(prefix="cloudify-bench-") as name:
        folder = Path(name)
        platform = Platform(folder / "home", REGISTRATION_ENABLED="true")
        try:
            platform.start()
            token = str(platform.client.headers["Authorization"]).removeprefix("Bearer ")
            url = make_repository(folder / "site", {"index.html": "<h1>flood</h1>"})
            project = platform.create_project("bench-floods", url)["id"]
            deployment = platform.finish(platform.create_deployment(project)["id"])["id"]
            body = {"email": "grace@example.com", "password": "correct horse battery"}
            other = httpx.post(f"{platform.api_url}/api/auth/register", json=body, timeout=60).json()["data"]
            headers = {"Authorization": f"Bearer {other['accessToken']}"}
            with httpx.Client(base_url=platform.api_url, headers=headers, timeout=60, trust_env=False) as client:
                quiet = {path: milliseconds(client, path) for path in paths}
                for path, (median, late) in quiet.items():
                    line(f"quiet: {path} (p50, p95)", f"{median:.1f}, {late:.1f} ms")
                for kind in FLOODS:
                    with flood(platform, kind, token, deployment) as statuses:
                        found = {path: milliseconds(client, path) for path in paths}
                    for path, (median, late) in found.items():
                        name_of_line = f"{kind}: {path} (p50, p95)"
                        line(name_of_line, f"{median:.1f}, {late:.1f} ms", "p50 to quiet", median / quiet[path][0])
                    print(f"  answers of the flood: {statuses}", flush=True)
        finally:
            platform.close()


if __name__ == "__main__":
    main()
