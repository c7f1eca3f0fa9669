"""The web server of a site's own pod as a process of this machine, without a cluster."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import httpx

from tests.support.ports import free_ports

_PROGRAM = """
import sys
from pathlib import Path
from workers.router.pod import serve
serve(sys.argv[1], Path(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[3]))
"""
PATH = "/.well-known/cloudify/deployment"


@contextlib.contextmanager
def site_pod(folder: Path, deployment_id: str, *, port: int | None = None) -> Generator[str]:
    """Serves the deployment from `folder/sites/.deployments`. Yields its IP:port when it answers."""
    port = port or free_ports(1)[0]
    command = [sys.executable, "-c", _PROGRAM, deployment_id, str(folder), str(port)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        try:
            while not _answers(port):
                assert process.poll() is None, "the pod's web server has ended"
                time.sleep(0.02)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
    except httpx.HTTPError:
        return False
    return True
