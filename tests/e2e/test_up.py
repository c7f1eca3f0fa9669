"""`cloudify up` as a process: killed, interrupted, refused. Each scenario on a home of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.repositories import make_repository
from tests.support.running_platform import TIMEOUT_SECONDS, Platform, is_running, wait_for
from tests.support.sites import BUILD, HOLD, node_site

pytestmark = pytest.mark.e2e

CONTENT = "built in the end"


@pytest.fixture(scope="module")
def own_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One home for this file. Short leases, so that what a killed worker held is soon taken up again."""
    platform = Platform(
        tmp_path_factory.mktemp("up") / "home of cloudify",
        LEASE_SECONDS="8",
        RECONCILE_SECONDS="1",
    )
    yield platform
    platform.close()


@pytest.fixture
def running(own_platform: Platform) -> Platform:
    if own_platform.process is None or own_platform.process.poll() is not None:
        own_platform.start()
    return own_platform


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Platform]:
    """On a home that nothing ran in yet."""
    platform = Platform(tmp_path / "fresh home")
    yield platform
    platform.close()


def begin_build(platform: Platform, repositories: Path, name: str) -> str:
    """A deployment whose build command runs."""
    url = make_repository(repositories / "site", node_site(CONTENT, before=HOLD))
    project = platform.create_project(name, url, **BUILD)
    deployment_id = platform.create_deployment(project["id"])["id"]
    platform.wait_held(deployment_id)
    return deployment_id


def expect_ready(platform: Platform, deployment_id: str, host: str) -> None:
    deployment = platform.release_and_finish(deployment_id)
    assert deployment["status"] == "ready", (deployment["error"], platform.log_text(deployment_id))
    assert CONTENT in platform.get_site(host).text


def family(platform: Platform) -> list[psutil.Process]:
    """Everything below `cloudify up`."""
    assert platform.process is not None
    return psutil.Process(platform.process.pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run. A `psutil.Process` knows its start time: a pid that was given away again doesn't count."""
    return [process for process in processes if process.is_running() and is_running(process)]


def refused(platform: Platform, **settings: str) -> tuple[int, str]:
    """Exit code and output of another `cloudify up`, with these settings instead of the platform's own."""
    environment = {**platform.environment, **settings}
    outcome = subprocess.run(
        [*platform.command, "up", "--no-sample"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )
    return outcome.returncode, outcome.stderr


def one_sentence(output: str) -> str:
    """What it says after that it starts: one line, no stack trace."""
    lines = output.splitlines()
    assert len(lines) == 2, output
    assert lines[0].startswith("Starting Cloudify in ")
    return lines[1]


def test_sigkill_in_mid_build_and_up_again(running: Platform, repositories: Path):
    deployment_id = begin_build(running, repositories, "up-killed")
    before = family(running)
    builds = running.build_processes()
    assert builds
    assert running.process is not None
    running.process.kill()
    running.process.wait()
    running.disconnect()
    running.start()
    assert alive(before) == []
    expect_ready(running, deployment_id, "up-killed")
    runs = [run["status"] for run in running.deployment(deployment_id)["stages"] if run["stage"] == "build"]
    assert runs[-1] == "succeeded"
    assert runs.count("succeeded") == 1


def test_orphans_that_outlived_a_killed_run_are_ended(running: Platform):
    """The kernel asks them to end; those that are stopped at that moment can't, and the next run has to."""
    orphans = [psutil.Process(running.pid(role)) for role in ("worker-build", "valkey")]
    for orphan in orphans:
        orphan.send_signal(signal.SIGSTOP)
    assert running.process is not None
    running.process.kill()
    running.process.wait()
    running.disconnect()
    assert alive(orphans) == orphans
    running.start()
    assert alive(orphans) == []
    assert "processes that a former run left behind" in running.output()


def test_ctrl_c_in_mid_build_stops_everything(running: Platform, repositories: Path):
    deployment_id = begin_build(running, repositories, "up-stopped")
    processes = family(running)
    assert len(processes) > 12
    assert running.process is not None
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(TIMEOUT_SECONDS) == 0
    # The kernel ends those of a worker that had to be killed.
    wait_for(lambda: not alive(processes), what="nothing is left")
    running.disconnect()
    running.start()
    expect_ready(running, deployment_id, "up-stopped")


def test_ctrl_c_while_it_starts(fresh: Platform):
    """In a terminal the whole group gets it, as often as the key is pressed; here initdb would."""
    process = subprocess.Popen(
        [*fresh.command, "up", "--no-sample"],
        env=fresh.environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert "Starting" in process.stderr.readline()
    wait_for(lambda: psutil.Process(process.pid).children(), what="a server is prepared", every=0.001)
    children = psutil.Process(process.pid).children(recursive=True)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=TIMEOUT_SECONDS)
    # The last line; had it started before the signals came, it would have said so first.
    assert process.returncode == 0, said
    assert said.endswith("Stopped. The data stays; start again to continue.\n")
    assert "Traceback" not in said
    wait_for(lambda: not alive(children), what="nothing is left")


@pytest.mark.parametrize("name", ["CLOUDIFY_API_PORT", "CLOUDIFY_SITES_PORT", "CLOUDIFY_METRICS_PORT"])
def test_a_busy_port(fresh: Platform, name: str):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, output = refused(fresh, **{name: port})
    assert code == 2
    assert one_sentence(output).startswith(f"Port {port} is used by another program")
    assert name in output
    assert fresh.records() == {}
    assert not (fresh.home / "postgres").exists()


def test_a_second_up_on_one_home(running: Platform):
    before = running.records()
    code, output = refused(running)
    assert code == 1
    assert one_sentence(output).startswith(f"Another `cloudify up` is using {running.home}")
    assert running.records() == before
    assert running.call("GET", "/api/auth/me")


@pytest.mark.parametrize("found", [{"layout": 99, "postgres": 18}, {"layout": 1, "postgres": 17}])
def test_a_home_of_another_version(fresh: Platform, found: dict[str, int]):
    path = fresh.home / "version.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(found))
    code, output = refused(fresh)
    assert code == 1
    assert "was made by another version of Cloudify" in one_sentence(output)
