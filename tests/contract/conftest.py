"""The executors that the contract is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_engine import SECONDS, DockerEngine
from tests.support.executors import ExecutorKind, LoopbackServer, listening_on_loopback
from tests.support.kubernetes_cluster import BuildsNamespace
from tests.support.pods_on_host import PodsOnHost
from workers.executors.bubblewrap.executor import BubblewrapExecutor
from workers.executors.docker.executor import DockerExecutor

_DOCKER = pytest.param("docker", marks=pytest.mark.timeout(SECONDS))
# The first use makes the image and brings it into the cluster.
_KUBERNETES = pytest.param("kubernetes", marks=[pytest.mark.timeout(SECONDS), pytest.mark.kubernetes])


def _kind(request: pytest.FixtureRequest) -> ExecutorKind:
    engine: DockerEngine | None = request.getfixturevalue("docker_engine") if request.param == "docker" else None
    is_kubernetes = request.param == "kubernetes"
    namespace: BuildsNamespace | None = request.getfixturevalue("kubernetes") if is_kubernetes else None
    return ExecutorKind.of(request.param, engine, namespace)


@pytest.fixture(params=["bubblewrap", "bubblewrap-without-control-groups", _DOCKER, _KUBERNETES])
def executor(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[BubblewrapExecutor | DockerExecutor | PodsOnHost]:
    with _kind(request).open(tmp_path / "run") as executor:
        yield executor


@pytest.fixture(params=["bubblewrap", _DOCKER, _KUBERNETES])
def exact_kind(request: pytest.FixtureRequest) -> ExecutorKind:
    """A kind whose limits the kernel keeps, where the host has control groups."""
    return _kind(request)


@pytest.fixture
def exact_executor(
    exact_kind: ExecutorKind, tmp_path: Path
) -> Iterator[BubblewrapExecutor | DockerExecutor | PodsOnHost]:
    with exact_kind.open(tmp_path / "run") as executor:
        yield executor


@pytest.fixture
def loopback_server() -> Iterator[LoopbackServer]:
    with listening_on_loopback() as server:
        yield server
