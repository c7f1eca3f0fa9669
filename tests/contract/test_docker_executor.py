"""What only the Docker executor promises: a container's options, refusals at the start, a daemon that goes away."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from shared.errors import PlatformError
from tests.support.docker_engine import SECONDS, DockerEngine
from tests.support.executors import (
    HOST_TREES,
    MEBIBYTE,
    TIMEOUT_SECONDS,
    ExecutorKind,
    Output,
    left_in,
    make_spec,
    processes_with,
    run,
    unique_marker,
    wait_for,
)
from workers.executors.base import ExecutionResult, ExecutionSpec, LocalTree, Overlay, RunOutcome
from workers.executors.docker.connection import DockerConnection
from workers.executors.docker.executor import DockerExecutor
from workers.executors.docker.probe import check_daemon

pytestmark = pytest.mark.timeout(SECONDS)


@pytest.fixture
def kind(docker_engine: DockerEngine) -> ExecutorKind:
    return ExecutorKind.of("docker", docker_engine)


@pytest.fixture
def executor(kind: ExecutorKind, tmp_path: Path) -> Iterator[DockerExecutor]:
    with kind.open(tmp_path / "run") as executor:
        assert isinstance(executor, DockerExecutor)
        yield executor


@pytest.fixture
def client(docker_engine: DockerEngine) -> Iterator[docker.APIClient]:
    with docker_engine.client() as client:
        yield client


class Background:
    """A run in a thread of its own, as a job's is. `result` and `error`: how it ended."""

    def __init__(self, executor: DockerExecutor, spec: ExecutionSpec) -> None:
        self.output = Output(marker=b"ready")
        self.cancel = threading.Event()
        self.result: ExecutionResult | None = None
        self.error: PlatformError | None = None
        self._thread = threading.Thread(target=self._run, args=(executor, spec))
        self._thread.start()

    def _run(self, executor: DockerExecutor, spec: ExecutionSpec) -> None:
        try:
            self.result = executor.run(spec, HOST_TREES, self.output, self.cancel)
        except PlatformError as error:
            self.error = error
        finally:
            self.output.seen.set()

    def await_ready(self) -> None:
        assert self.output.seen.wait(TIMEOUT_SECONDS)
        assert (self.error, self.result) == (None, None)

    def finish(self) -> RunOutcome:
        self._thread.join(TIMEOUT_SECONDS)
        assert self.result is not None, self.error
        return self.result.outcome


def holding(marker: str, **changes: Any) -> ExecutionSpec:
    return make_spec(f"trap '' TERM; echo ready; while :; do sleep {marker}; done", **changes)


def containers_of(client: docker.APIClient, spec: ExecutionSpec) -> list[dict[str, Any]]:
    return client.containers(all=True, filters={"label": f"io.cloudify.run={spec.name}"})


def test_the_container_has_every_wall_and_no_secret(executor: DockerExecutor, client: docker.APIClient) -> None:
    spec = holding(
        unique_marker(),
        environment={"API_KEY": "hunter2"},
        memory_bytes=256 * MEBIBYTE,
        process_count=99,
        cpu_count=0.5,
        labels={"deployment": "depl_1", "stage": "build"},
    )
    background = Background(executor, spec)
    background.await_ready()
    [found] = containers_of(client, spec)
    shown = client.inspect_container(found["Id"])
    background.cancel.set()
    assert background.finish() is RunOutcome.CANCELLED
    host = shown["HostConfig"]
    assert shown["Config"]["User"] == "10001:10001"
    assert (
        shown["Config"]["Labels"].items() >= {"io.cloudify.deployment": "depl_1", "io.cloudify.stage": "build"}.items()
    )
    assert (host["Init"], host["NetworkMode"], host["ReadonlyRootfs"], host["Privileged"]) == (
        False,
        "none",
        True,
        False,
    )
    assert (host["CapDrop"], host["CapAdd"], host["SecurityOpt"]) == (["ALL"], None, ["no-new-privileges"])
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (256 * MEBIBYTE, 256 * MEBIBYTE, 500_000_000)
    assert (host["PidsLimit"], host["ShmSize"], host["LogConfig"]["Type"]) == (99, 64 * MEBIBYTE, "none")
    limits = {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]}
    assert (limits["core"], limits["nofile"]) == (0, 4096)
    assert {"nosuid", "nodev", "exec"} <= set(host["Tmpfs"]["/tmp"].split(","))
    assert not any("docker.sock" in mount["Source"] for mount in shown["Mounts"])
    assert "hunter2" not in str(shown)


def test_a_missing_image_is_an_image_error_that_says_what_to_do(
    kind: ExecutorKind, executor: DockerExecutor, tmp_path: Path
) -> None:
    executor._image = f"sha256:{'0' * 64}"  # it was removed while the worker ran
    result, _ = run(executor, "true")
    assert result.outcome is RunOutcome.IMAGE_ERROR
    assert "CLOUDIFY_BUILDER_IMAGE" in result.message
    assert left_in(tmp_path / "run") == []
    absent = replace(kind, builder_image=executor._image)
    with pytest.raises(PlatformError, match="docker build --target builder"), absent.open(tmp_path / "other"):
        pass


def test_an_image_that_is_no_builder_is_refused(kind: ExecutorKind, client: docker.APIClient, tmp_path: Path) -> None:
    base = client.inspect_image("cloudify-test-base")["Id"]
    with pytest.raises(PlatformError, match="is not a builder image"), replace(kind, builder_image=base).open(tmp_path):
        pass
    assert client.containers(all=True, filters={"ancestor": base}) == []


def test_a_daemon_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"doesn't answer.*CLOUDIFY_DOCKER_HOST"):
        DockerConnection(f"unix://{tmp_path}/nobody.sock", {})


class _Described:
    """A daemon as it describes itself, with one thing changed."""

    def __init__(self, connection: DockerConnection, **changes: Any) -> None:
        self._connection = connection
        self._changes = changes
        self.host, self.api_version = connection.host, "1.30"
        self.is_too_old = bool(changes.pop("is_too_old", False))

    def info(self) -> dict[str, Any]:
        return self._connection.info() | self._changes

    def image(self, name: str) -> dict[str, Any]:
        return self._connection.image(name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"is_too_old": True}, "update it"),
        ({"MemoryLimit": False}, "can't limit memory"),
        ({"PidsLimit": False, "CpuCfsQuota": False}, "can't limit processes and CPU"),
        ({"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}, "runs rootless"),
        ({"SecurityOptions": ["name=seccomp,profile=default", "name=userns"]}, "remaps user ids"),
        ({"SecurityOptions": []}, "filters no system calls"),
        ({"OSType": "windows"}, "builds need Linux"),
    ],
)
def test_a_daemon_that_cannot_hold_builds_is_refused(kind: ExecutorKind, change: dict[str, Any], said: str) -> None:
    with contextlib.closing(DockerConnection(kind.docker_host, {})) as connection:
        with pytest.raises(PlatformError, match=said):
            check_daemon(_Described(connection, **change), kind.builder_image)  # type: ignore[arg-type]
        assert check_daemon(connection, kind.builder_image).processors > 0


def test_a_container_that_an_operator_ends_was_evicted(executor: DockerExecutor, client: docker.APIClient) -> None:
    for end in (client.kill, lambda found: client.remove_container(found, force=True)):
        spec = holding(unique_marker())
        background = Background(executor, spec)
        background.await_ready()
        [found] = containers_of(client, spec)
        end(found["Id"])
        assert background.finish() is RunOutcome.EVICTED
        assert containers_of(client, spec) == []


def test_a_container_without_a_directory_is_swept_and_its_name_is_free(
    executor: DockerExecutor, client: docker.APIClient, tmp_path: Path
) -> None:
    marker = unique_marker()
    spec = holding(marker)
    background = Background(executor, spec)
    background.await_ready()
    wait_for(lambda: processes_with(f"sleep {marker}") != [])
    (tmp_path / "run" / spec.name).rename(tmp_path / "lost")
    assert executor.sweep() == [spec.name]
    assert processes_with(marker) == []
    assert background.finish() is RunOutcome.EVICTED
    assert executor.sweep() == []


def test_another_directory_of_runs_is_left_alone(kind: ExecutorKind, executor: DockerExecutor, tmp_path: Path) -> None:
    background = Background(executor, holding(unique_marker()))
    background.await_ready()
    with kind.open(tmp_path / "other") as other:
        assert isinstance(other, DockerExecutor)
        assert other.sweep() == []
    background.cancel.set()
    assert background.finish() is RunOutcome.CANCELLED


# The library leaves a socket that finds nobody to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
def test_a_daemon_that_goes_away_is_the_platforms_loss(
    docker_engine: DockerEngine, executor: DockerExecutor, *, is_killed: bool
) -> None:
    marker = unique_marker()
    background = Background(executor, holding(marker))
    background.await_ready()
    wait_for(lambda: processes_with(f"sleep {marker}") != [])
    try:
        if is_killed:
            docker_engine.kill()
        else:
            docker_engine.stop()
        outcome = background.finish()
        # The worker shares the host with the daemon, so it ends the container itself.
        assert processes_with(marker) == []
    finally:
        docker_engine.start()
    assert outcome in (RunOutcome.PLATFORM_LOST, RunOutcome.EVICTED)
    executor.sweep()
    result, printed = run(executor, "echo again")
    assert (result.outcome, printed) == (RunOutcome.SUCCESS, b"again\n")
    gc.collect()


# As an ordinary user: everything is imported as root, as that user may not read this interpreter.
ORDINARY = """
import os, sys, threading
from pathlib import Path
from tests.support.executors import HOST_TREES, ExecutorKind, Output, make_spec
from workers.executors.base import LocalTree, Overlay
home, uid = Path(sys.argv[1]), int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
for name in ("lower", "upper"):
    (home / name).mkdir()
(home / "lower" / "below").write_text("below\\n")
overlay = Overlay(str(home / "upper"), "/workspace", (LocalTree(home / "lower"),))
output = Output()
with ExecutorKind(*sys.argv[3:]).open(home / "run", environment={}) as executor:
    executor.probe()
    script = "id -un; id -u; cat below; echo x > new; rm below; mkdir -m 000 shut; node -p 'os.userInfo().homedir'"
    spec = make_spec(script, overlay=overlay, working_directory="/workspace", network="proxy")
    result = executor.run(spec, HOST_TREES, output, threading.Event())
print(output.text().decode().split(), result.outcome)
print((home / "upper" / "new").stat().st_uid, sorted(path.name for path in (home / "upper").iterdir()))
from workers.filesystem.trees import remove_tree
for name in ("lower", "upper", "upper-scratch", "run"):
    remove_tree(home / name)
print(os.listdir(home))
"""


def test_an_ordinary_workers_builds_run_as_that_worker(docker_engine: DockerEngine, kind: ExecutorKind) -> None:
    uid = 54_321
    socket = Path(docker_engine.host.removeprefix("unix://"))
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / "home"
        home.mkdir()
        os.chown(home, uid, uid)
        Path(directory).chmod(0o755)
        parent = docker_engine.directory.stat().st_mode
        docker_engine.directory.chmod(0o711)
        os.chown(socket, uid, uid)
        try:
            finished = subprocess.run(
                [sys.executable, "-c", ORDINARY, home, str(uid), kind.name, kind.docker_host, kind.builder_image],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                cwd=Path(__file__).parents[2],
                check=False,
            )
        finally:
            os.chown(socket, 0, 0)
            docker_engine.directory.chmod(parent & 0o777)
    assert finished.stdout.splitlines() == [
        f"['build', '{uid}', 'below', '/home/build'] success",
        f"{uid} ['below', 'new', 'shut']",
        "[]",
    ], finished.stderr


def test_an_overlay_of_several_layers_shows_the_upmost(executor: DockerExecutor, tmp_path: Path) -> None:
    first, second, upper = (tmp_path / name for name in ("first", "second", "upper"))
    for directory in (first, second, upper):
        directory.mkdir()
    (first / "page").write_text("first")
    (second / "page").write_text("second")
    (first / "only").write_text("only")
    overlay = Overlay(
        str(upper),
        "/workspace",
        (
            LocalTree(first),
            LocalTree(second),
        ),
    )
    result, printed = run(executor, "cat /workspace/page /workspace/only", overlay=overlay)
    assert (result.outcome, printed) == (RunOutcome.SUCCESS, b"secondonly")


def test_a_path_that_no_overlay_takes_is_refused(executor: DockerExecutor, tmp_path: Path) -> None:
    lower, upper = tmp_path / "a,b", tmp_path / "upper"
    for directory in (lower, upper):
        directory.mkdir()
    with pytest.raises(PlatformError, match="comma, colon or backslash"):
        run(executor, "true", overlay=Overlay(str(upper), "/workspace", (LocalTree(lower),)))
    assert left_in(tmp_path / "run") == []
