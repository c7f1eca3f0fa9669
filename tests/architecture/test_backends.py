"""What an installation can choose is what there is: each name has its module, and each of these its name."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from shared.backends import EXECUTORS, PUBLISHERS
from workers.executors.table import ExecutorBackend, executor_backend
from workers.publishers.table import PublisherBackend, publisher_backend

ROOT = Path(__file__).resolve().parents[2]


def _parameters(function: object) -> list[str]:
    assert callable(function)
    return [name.strip("_") for name in inspect.signature(function).parameters if name != "self"]


def _modules_with(function: str, package: str) -> set[str]:
    """Modules with the function, and all packages, which have to have it in their `backend.py`."""
    found = pkgutil.iter_modules([str(ROOT / package.replace(".", "/"))])
    return {
        module.name for module in found if module.ispkg or hasattr(import_module(f"{package}.{module.name}"), function)
    }


def test_every_executor_has_its_module_and_every_module_its_name() -> None:
    assert _modules_with("open_executor", "workers.executors") == set(EXECUTORS)
    for name in EXECUTORS:
        backend = executor_backend(name)
        for promised in ("open_executor", "owner_of_trees"):
            assert _parameters(getattr(backend, promised)) == _parameters(getattr(ExecutorBackend, promised)), name


def test_every_publisher_has_its_module_and_every_module_its_name() -> None:
    assert _modules_with("open_publisher", "workers.publishers") == set(PUBLISHERS)
    for name in PUBLISHERS:
        assert _parameters(publisher_backend(name).open_publisher) == _parameters(PublisherBackend.open_publisher), name


@pytest.mark.parametrize("name", EXECUTORS)
def test_an_executor_that_is_not_opened_loads_no_client(name: str) -> None:
    code = (
        "import sys; from workers.executors.table import executor_backend\n"
        f"executor_backend({name!r}).owner_of_trees()\n"
        "print(*sorted({'docker', 'kubernetes', 'psutil'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_builder_image_is_given_all_that_its_module_imports() -> None:
    """Dockerfile copies files of the packages one by one, so that other changes keep the image's cache."""
    code = (
        "import sys; import workers.executors.docker.image\n"
        "own = [module for name, module in sys.modules.items() if name.split('.')[0] in ('shared', 'workers')]\n"
        "print(*(module.__file__ for module in own))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {Path(file).relative_to(ROOT).as_posix() for file in done.stdout.split()}
    assert imported <= set((ROOT / "Dockerfile").read_text().split())
