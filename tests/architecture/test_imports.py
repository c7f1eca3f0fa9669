"""Which package may import which is a table in pyproject.toml ([tool.importlinter]); this holds the code to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_import_contracts_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_a_module_constructs_nothing():
    """Every module can be imported without any setting: composition roots construct, imports don't."""
    code = (
        "import importlib, pkgutil, sys\n"
        "for package in ('api', 'workers', 'shared', 'schemas'):\n"
        "    root = importlib.import_module(package)\n"
        "    for module in pkgutil.walk_packages(root.__path__, package + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "import threading\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDIFY_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
