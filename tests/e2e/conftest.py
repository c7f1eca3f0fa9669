from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.platform import Platform


@pytest.fixture(scope="session")
def start_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Platform]]:
    """Starts a platform with these settings (`CLOUDIFY_<NAME>`); it is stopped at the end of the run."""
    started: list[Platform] = []

    def start(name: str, **settings: str) -> Platform:
        platform = Platform(tmp_path_factory.mktemp(name) / "home of cloudify", **settings)
        started.append(platform)
        platform.start()
        return platform

    yield start
    for platform in started:
        platform.stop()


@pytest.fixture(scope="session")
def platform(start_platform: Callable[..., Platform]) -> Platform:
    """One platform for the scenarios that leave it whole. Short leases, so that a dead worker is soon replaced."""
    return start_platform("platform", LEASE_SECONDS="4", RECONCILE_SECONDS="1")


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """Where a test makes its repositories."""
    directory = tmp_path / "repositories"
    directory.mkdir()
    return directory


@pytest.fixture(scope="session")
def impatient_platform(start_platform: Callable[..., Platform]) -> Platform:
    """One with small limits: 10 s a stage, 200 MB of memory."""
    return start_platform("impatient", STAGE_TIMEOUT_SECONDS="10", BUILD_MEMORY_MB="200", RECONCILE_SECONDS="1")
