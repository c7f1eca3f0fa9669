"""Commands in containers of a Docker daemon."""

from __future__ import annotations

import os

from shared.settings import Settings
from workers.executors.base import Executor
from workers.filesystem.ownership import Owner

# The user of the builder image.
_BUILD_USER = 10001


def open_executor(settings: Settings) -> Executor:
    """See ExecutorBackend."""
    from workers.executors.docker.executor import DockerExecutor

    return DockerExecutor.for_host(
        settings.executor, settings.network, settings.directories.home / "run" / "containers"
    )


def owner_of_trees() -> Owner | None:
    """Only root can give files away; an ordinary worker's builds run as that worker."""
    return container_owner() if os.geteuid() == 0 else None


def container_owner() -> Owner:
    """The user of commands in containers: the builder image's, or the worker's own unless that is root."""
    return Owner(_BUILD_USER, _BUILD_USER) if os.geteuid() == 0 else Owner(os.geteuid(), os.getegid())
