"""Commands in bubblewrap sandboxes on the worker's own host."""

from __future__ import annotations

from shared.settings import Settings
from workers.executors.base import Executor
from workers.filesystem.ownership import Owner


def open_executor(settings: Settings) -> Executor:
    """See ExecutorBackend."""
    from workers.executors.bubblewrap.executor import BubblewrapExecutor
    from workers.executors.toolchain import Toolchain

    return BubblewrapExecutor.for_host(
        settings.network, settings.directories.home / "run" / "executions", Toolchain.discover()
    )


def owner_of_trees() -> Owner | None:
    """The worker's user, which a sandbox in its own user namespace maps."""
    return None
