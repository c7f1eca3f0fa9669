"""Debian's promtool, which checks alert rules and queries."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

# Where .ci/run unpacks the package prometheus.
_UNPACKED = Path(__file__).parents[2] / ".venv" / "prometheus" / "usr" / "bin" / "promtool"


def promtool(*arguments: str | Path) -> str:
    """Returns what it printed. Skips the test where there is none; fails it if promtool finds something wrong."""
    program = str(_UNPACKED) if _UNPACKED.exists() else shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool; .ci/run unpacks Debian's package prometheus into .venv/prometheus")
    finished = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout
