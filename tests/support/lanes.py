"""How a parallel run (`pytest -p tests.support.lanes -n 5`) divides the tests among its processes.

Each file is run by one process, so that its fixtures are set up once. A few files share a process, because what they
need is slow to start and large: the Docker daemon with its builder image, and the platform of the e2e scenarios. What
takes longest begins first; otherwise it would run alone at the end.
"""

from __future__ import annotations

import contextlib
import signal
import time

import psutil
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

_DOCKER, _PLATFORM = "docker", "platform"
# Each takes minutes, most of them of waiting, and has a platform of its own anyway or is worth one.
_CRASHES, _UP, _MACHINES = "tests/e2e/test_crashes.py", "tests/e2e/test_up.py", "tests/e2e/test_three_machines.py"
_ALONE = (_CRASHES, _UP, _MACHINES)
# Its items share nothing and are the same: each is a lane of its own.
_MODEL = "tests/integration/shared/queue/test_queue_model.py"
# Platforms wait for their processes to end.
_STOP_SECONDS = 120.0
_LONGEST_FIRST = (
    "tests/kubernetes/test_platform.py",
    _DOCKER,
    _PLATFORM,
    _CRASHES,
    _UP,
    _MACHINES,
    "tests/streams/test_three_clients.py",
    "tests/integration/workers/stages/test_install_and_build.py",
    "tests/integration/workers/stages/test_package_managers.py",
    "tests/integration/workers/stages/test_clone_limits.py",
    "tests/contract/test_executor_contract.py",
    "tests/integration/workers/stages/test_clone_lfs.py",
    "tests/integration/api/test_log_stream_outages.py",
    "tests/unit/api/client/test_client_streams.py",
    "tests/integration/workers/reading/test_content_reader.py",
    "tests/integration/api/test_log_stream_connections.py",
    "tests/chaos/test_queue_chaos.py",
    "tests/chaos/test_worker_deaths.py",
    "tests/integration/api/test_api_floods.py",
    "tests/integration/workers/jobs/test_deployment_lifecycle.py",
    "tests/integration/shared/stack/test_stack_recovery.py",
    "tests/integration/api/test_stream_processes.py",
    "tests/integration/shared/queue/test_queue_broker.py",
    _MODEL,
)


def lane_of(nodeid: str) -> str:
    """The name of what one process runs: `docker`, `platform`, the test's file, or a part of the queue's model."""
    path = nodeid.partition("::")[0]
    if path == _MODEL:
        return nodeid
    if path in _ALONE:
        return path
    # The attacks are deployed on both executors by one fixture.
    if path == "tests/e2e/test_attacks.py" or (
        path.startswith(("tests/contract/", "tests/e2e/")) and "docker" in nodeid
    ):
        return _DOCKER
    return _PLATFORM if path.startswith("tests/e2e/") else path


class LaneScheduling(LoadScopeScheduling):
    """Gives a process that has nearly finished the next lane."""

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LaneScheduling:
    config.option.loadscopereorder = False
    return LaneScheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        # SIGTERM stops the servers, as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Interrupts the processes, too, and waits until they have stopped their servers: xdist gives them only 10 s."""
    workers = psutil.Process().children()
    for worker in workers:
        with contextlib.suppress(psutil.Error):
            worker.send_signal(signal.SIGINT)
    deadline = time.monotonic() + _STOP_SECONDS
    while any(_has_children(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)


def _has_children(process: psutil.Process) -> bool:
    try:
        return bool(process.children())
    except psutil.Error:
        return False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """After the shuffle, whose order stays within a lane and among the short ones."""
    ranks = {lane: rank for rank, lane in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(lane_of(item.nodeid).partition("::")[0], len(ranks)))
