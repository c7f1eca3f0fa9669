from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.attacks import LIMITS
from tests.support.docker_engine import DockerEngine
from tests.support.running_platform import INTRANET_HOST, Platform


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
    # Each waits for its processes to end.
    with ThreadPoolExecutor() as pool:
        list(pool.map(Platform.close, started))


@pytest.fixture(scope="session")
def platform(start_platform: Callable[..., Platform]) -> Platform:
    """One platform for the scenarios that leave it whole. Short leases, so that a dead worker is soon replaced; long
    enough for one that doesn't get to run for a while."""
    return start_platform("platform", LEASE_SECONDS="8", RECONCILE_SECONDS="1")


@pytest.fixture(autouse=True)
def _account(request: pytest.FixtureRequest) -> Iterator[None]:
    """Gives each test a FREE account of its own on the shared platform, as a plan's limits are shared."""
    with contextlib.ExitStack() as accounts:
        for name in {"platform", "docker_platform"} & set(request.fixturenames):
            accounts.enter_context(request.getfixturevalue(name).new_account())
        yield


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """The directory for a test's repositories."""
    directory = tmp_path / "repositories"
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def limited_platform(start_platform: Callable[..., Platform]) -> Iterator[Platform]:
    """A platform with small limits of time, memory, disk and output, stopped when the module ends."""
    platform = start_platform("limited", **LIMITS)
    yield platform
    platform.close()


def _docker_settings(engine: DockerEngine) -> dict[str, str]:
    return {"EXECUTOR": "docker", "DOCKER_HOST": engine.host, "BUILDER_IMAGE": engine.builder_image}


@pytest.fixture(scope="session")
def docker_platform(start_platform: Callable[..., Platform], docker_engine: DockerEngine) -> Platform:
    return start_platform("docker", **_docker_settings(docker_engine), LEASE_SECONDS="8", RECONCILE_SECONDS="1")


@pytest.fixture(scope="module")
def limited_docker_platform(start_platform: Callable[..., Platform], docker_engine: DockerEngine) -> Iterator[Platform]:
    platform = start_platform("limited-docker", **_docker_settings(docker_engine), **LIMITS)
    yield platform
    platform.close()


@pytest.fixture
def locked_repository() -> Iterator[str]:
    """The URL of a git server that wants credentials for everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer((INTRANET_HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{INTRANET_HOST}:{server.server_address[1]}/locked.git"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
