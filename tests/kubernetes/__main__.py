"""`python -m tests.kubernetes COMMAND…`: runs the command with a cluster, and says why if there is none.

With KUBECONFIG and KUBERNETES_LOAD the cluster is given. Otherwise KUBERNETES_NODE names a script that makes one:
`up` prints `KUBECONFIG=…`, `load IMAGE.tar` brings an image into it, and `down` removes it. The platform's images are
brought into it once, for all processes of the command.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from types import FrameType

from tests.support.cluster_images import IMAGES, bring_images
from tests.support.docker_engine import NoDaemon
from tests.support.kubernetes_cluster import missing_cluster


def main() -> int:
    command = sys.argv[1:]
    node = shlex.split(os.environ.get("KUBERNETES_NODE", ""))
    if missing_cluster() is None or not node:
        _say(missing_cluster() or "the cluster of KUBECONFIG")
        return _run(command, {})
    # A time limit ends this by SIGTERM, and the cluster must not outlive it.
    signal.signal(signal.SIGTERM, _exit)
    made = subprocess.run([*node, "up"], stdout=subprocess.PIPE, text=True, check=True)
    try:
        found = dict(line.split("=", 1) for line in made.stdout.splitlines() if "=" in line)
        load = shlex.join([*node, "load"])
        return _run(command, {"KUBECONFIG": found["KUBECONFIG"], "KUBERNETES_LOAD": load})
    finally:
        subprocess.run([*node, "down"], check=True)


def _run(command: list[str], cluster: dict[str, str]) -> int:
    os.environ.update(cluster)
    if missing_cluster() is None:
        try:
            os.environ[IMAGES] = ",".join(bring_images())
        except NoDaemon as error:
            _say(f"the images can't be made: {error}")
    return subprocess.run(command, check=False).returncode


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _say(text: str) -> None:
    sys.stderr.write(f"Kubernetes: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
