"""Shared by tests of executors: the kinds of executor, a command's specification, the host's view of processes."""

from __future__ import annotations

import base64
import contextlib
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from shared.settings import NetworkSettings
from tests.support.docker_engine import DockerEngine
from tests.support.kubernetes_cluster import BuildsNamespace
from tests.support.pods_on_host import PodsOnHost, open_pods
from workers.executors import base
from workers.executors.base import (
    Directory,
    ExecutionResult,
    ExecutionSpec,
    Executor,
    Limits,
    StoredTree,
    Tree,
    TreeLink,
    UploadForm,
)
from workers.executors.bubblewrap.executor import BubblewrapExecutor
from workers.executors.cgroups import discover_control_groups
from workers.executors.docker.connection import DockerConnection
from workers.executors.docker.executor import DockerExecutor
from workers.executors.toolchain import Toolchain

MEBIBYTE = 1024 * 1024
# Longer than anything takes on any machine.
TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class ExecutorKind:
    """`name`: bubblewrap, bubblewrap-without-control-groups, docker (with a daemon and an image) or kubernetes."""

    name: str
    docker_host: str = ""
    builder_image: str = ""
    namespace: BuildsNamespace | None = None

    @classmethod
    def of(cls, name: str, engine: DockerEngine | None, namespace: BuildsNamespace | None = None) -> ExecutorKind:
        return cls(name, namespace=namespace) if engine is None else cls(name, engine.host, engine.builder_image)

    def to_text(self) -> str:
        """For another process's argv."""
        return base64.b64encode(pickle.dumps(self)).decode()

    @staticmethod
    def from_text(text: str) -> ExecutorKind:
        kind = pickle.loads(base64.b64decode(text))
        assert isinstance(kind, ExecutorKind)
        return kind

    @property
    def is_docker(self) -> bool:
        return self.name == "docker"

    @property
    def is_kubernetes(self) -> bool:
        return self.namespace is not None

    @contextlib.contextmanager
    def open(
        self,
        runtime: Path,
        settings: NetworkSettings | None = None,
        *,
        environment: Mapping[str, str] = os.environ,
    ) -> Generator[BubblewrapExecutor | DockerExecutor | PodsOnHost]:
        settings = settings or NetworkSettings()
        if self.namespace is not None:
            runtime.mkdir(exist_ok=True)  # where other executors have one
            with open_pods(self.namespace, settings, environment) as executor:
                executor.says_waits = False
                yield executor
            return
        if not self.is_docker:
            groups = discover_control_groups() if self.name == "bubblewrap" else None
            yield BubblewrapExecutor(
                settings, runtime, Toolchain.discover(), host_environment=dict(environment), control_groups=groups
            )
            return
        connection = DockerConnection(self.docker_host, {})
        with contextlib.closing(connection):
            image = self.builder_image
            yield DockerExecutor(image, settings, runtime, connection=connection, host_environment=dict(environment))


def left_in(runtime: Path) -> list[str]:
    """Names of the runs that a runtime directory still has; what starts with a dot is the executor's own."""
    return sorted(path.name for path in runtime.iterdir() if not path.name.startswith("."))


@dataclass
class Output:
    chunks: list[tuple[str, bytes]] = field(default_factory=list)
    seen: threading.Event = field(default_factory=threading.Event)
    marker: bytes = b"\0never\0"

    def __call__(self, stream: str, data: bytes) -> None:
        self.chunks.append((stream, data))
        if self.marker in self.text():
            self.seen.set()

    def text(self, stream: str | None = None) -> bytes:
        return b"".join(data for name, data in self.chunks if stream in (None, name))


class HostTrees:
    """Trees of directories that a test names by their paths, which it may have made and filled before."""

    def attach(self, tree: StoredTree) -> contextlib.AbstractContextManager[Path]:
        raise AssertionError(f"{tree} is stored nowhere")

    def make_directory(self, name: str, mode: int) -> Path:
        directory = Path(name)
        if not directory.exists():
            directory.mkdir()
            directory.chmod(mode)
        return directory

    def link(self, tree: Tree, seconds: int) -> TreeLink:
        raise AssertionError("a sandbox of this host reads directories")

    def upload_form(self, key: str, maximum_bytes: int, seconds: int) -> UploadForm:
        raise AssertionError("a sandbox of this host writes to directories")

    def take_in(self, output: base.Output, key: str) -> Tree:
        raise AssertionError("a sandbox of this host stores nothing")

    def discard_staged(self, key: str) -> None:
        raise AssertionError("a sandbox of this host stores nothing")


HOST_TREES = HostTrees()


def make_spec(script: str, *, workspace: Path | None = None, **changes: object) -> ExecutionSpec:
    limits: dict[str, object] = {
        "memory_bytes": 512 * MEBIBYTE,
        "cpu_count": 2.0,
        "process_count": 64,
        "disk_bytes": 64 * MEBIBYTE,
        "disk_entries": 100_000,
        "output_bytes": 8 * MEBIBYTE,
        "wall_seconds": 300.0,
        "stop_seconds": 1.0,
    }
    limits |= {name: changes.pop(name) for name in list(changes) if name in limits}
    values: dict[str, object] = {
        "name": f"contract-{os.getpid()}-{time.monotonic_ns()}",
        "command": ("sh", "-c", script),
        "working_directory": "/workspace" if workspace else "/",
        "mounts": (),
        "overlay": None,
        "directories": (Directory(str(workspace), "/workspace"),) if workspace else (),
        "environment": {},
        "limits": Limits(**limits),  # type: ignore[arg-type]
        "network": "none",
    }
    return ExecutionSpec(**(values | changes))  # type: ignore[arg-type]


def run(executor: Executor, script: str, **changes: object) -> tuple[ExecutionResult, bytes]:
    output = Output()
    result = executor.run(make_spec(script, **changes), HOST_TREES, output, threading.Event())
    return result, output.text()


def require_own_processes(executor: Executor) -> None:
    """Fails if commands are among the machine's processes, which the caller's command would kill."""
    _, printed = run(executor, "readlink /proc/self/ns/pid")
    assert printed.startswith(b"pid:["), printed
    assert printed.strip().decode() != str(Path("/proc/self/ns/pid").readlink()), "this executor has no pid namespace"


def control_groups() -> list[Path]:
    """Of the host, in every hierarchy; others' come and go meanwhile."""
    return [Path(parent, name) for parent, names, _ in os.walk("/sys/fs/cgroup") for name in names]


def processes_with(marker: str) -> list[psutil.Process]:
    """Live processes of the host with the marker in their argv."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and any(marker in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]


def wait_for(condition: Callable[[], bool], seconds: float = TIMEOUT_SECONDS) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        pause.wait(0.02)


def unique_marker() -> str:
    return f"9{time.monotonic_ns() % 10**7:07d}.{os.getpid()}"


@dataclass
class LoopbackServer:
    port: int
    accepted: list[object]


@contextlib.contextmanager
def listening_on_loopback() -> Generator[LoopbackServer]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = LoopbackServer(listener.getsockname()[1], [])

    def accept() -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            server.accepted.append(peer)
            connection.close()

    thread = threading.Thread(target=accept)
    thread.start()
    yield server
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()
