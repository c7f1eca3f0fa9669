"""The executors that the contract is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_engine import SECONDS, DockerEngine
from tests.support.executors import ExecutorKind, LoopbackServer, listening_on_loopback
from workers.executors.bubblewrap.executor import BubblewrapExecutor
from workers.executors.docker.executor import DockerExecutor

_DOCKER = pytest.param("docker", marks=pytest.mark.timeout(SECONDS))


def _kind(request: pytest.FixtureRequest) -> ExecutorKind:
    engine: DockerEngine | None = request.getfixturevalue("docker_engine") if request.param == "docker" else None
    return ExecutorKind.of(request.param, engine)


@pytest.fixture(params=["bubblewrap", "bubblewrap-without-control-groups", _DOCKER])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BubblewrapExecutor | DockerExecutor]:
    with _kind(request).open(tmp_path / "run") as executor:
        yield executor


@pytest.fixture(params=["bubblewrap", _DOCKER])
def exact_kind(request: pytest.FixtureRequest) -> ExecutorKind:
    """A kind whose limits the kernel keeps, where the host has control groups."""
    return _kind(request)


@pytest.fixture
def exact_executor(exact_kind: ExecutorKind, tmp_path: Path) -> Iterator[BubblewrapExecutor | DockerExecutor]:
    with exact_kind.open(tmp_path / "run") as executor:
        yield executor


@pytest.fixture
def loopback_server() -> Iterator[LoopbackServer]:
    with listening_on_loopback() as server:
        yield server
