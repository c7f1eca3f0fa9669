"""Opens executors by their names, which are those of modules and packages in this folder (`shared.backends.EXECUTORS`).

The module, or the package's `backend.py`, has the functions of `ExecutorBackend`. It loads no client library before an
executor is opened, so that a worker has only those of the one that it uses.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from shared.settings import Settings
from workers.executors.base import Executor
from workers.filesystem.ownership import Owner


class ExecutorBackend(Protocol):
    def open_executor(self, settings: Settings) -> Executor:
        """An executor for this process; the caller probes it and closes it. Raises PlatformError with instructions."""
        ...

    def owner_of_trees(self) -> Owner | None:
        """Owner that unpacked trees need for its sandboxes to use them, or None for the worker's user."""
        ...


def executor_backend(name: str) -> ExecutorBackend:
    """`name` is one of EXECUTORS."""
    module = import_module(f"workers.executors.{name}")
    is_package = hasattr(module, "__path__")
    return cast(ExecutorBackend, import_module(f"{module.__name__}.backend") if is_package else module)
