"""What a command in a pod costs on top of `kubectl run` by hand, in the same cluster.

`python -m tests.kubernetes python -m tests.bench kubernetes`; needs KUBECONFIG, KUBERNETES_LOAD, and kubectl on PATH,
in `bin/` next to KUBECONFIG, or in KUBECTL. Both print lines with the time of their origin, on this machine's clock, so
that it only says something where the cluster's nodes are this machine.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from minio import Minio

from shared.settings import NetworkSettings
from shared.stack.object_store import ObjectStorePorts, ObjectStoreServer
from tests.bench.platform import line
from tests.support.cluster_images import bring_images
from tests.support.executors import HOST_TREES, make_spec
from tests.support.kubernetes_cluster import BuildsNamespace, builds_namespace, missing_cluster
from tests.support.pods_on_host import PodsOnHost, open_pods
from tests.support.ports import free_ports

_ROUNDS = 8
_LINES = 100
# Each line is the time of its origin in seconds; `sleep` keeps the writer slower than any reader.
_SCRIPT = f"for i in $(seq {_LINES}); do date +%s.%N; sleep 0.05; done"
_runs = itertools.count(1)


@dataclass
class Run:
    """Times in seconds since the epoch: of the request, of each line as (origin, arrival), of the outcome."""

    asked: float
    lines: list[tuple[float, float]] = field(default_factory=list)
    ended: float = 0.0

    def take(self, text: bytes) -> None:
        now = time.time()
        self.lines += [(float(each), now) for each in text.split()]

    @property
    def first_line(self) -> float:
        return self.lines[0][1] - self.asked

    @property
    def outcome(self) -> float:
        """From the end of the command: the last line's origin and its pause."""
        return self.ended - self.lines[-1][0] - 0.05

    @property
    def lags(self) -> list[float]:
        return [arrival - origin for origin, arrival in self.lines]


def by_executor(pods: PodsOnHost) -> Run:
    run = Run(time.time())
    pods.run(make_spec(_SCRIPT, cpu_count=1.0), HOST_TREES, lambda _, data: run.take(data), threading.Event())
    run.ended = time.time()
    return run


def by_hand(kubectl: str, namespace: str, image: str) -> Run:
    """`kubectl run`, attached: what somebody would type. Its pod has the same image and fewer restrictions."""
    command = [kubectl, "--namespace", namespace, "run", f"by-hand-{next(_runs)}", "--image", image, "--quiet"]
    command += ["--restart=Never", "--image-pull-policy=IfNotPresent", "--attach", "--rm", "--command", "--"]
    run = Run(time.time())
    with subprocess.Popen([*command, "sh", "-c", _SCRIPT], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for each in process.stdout:
            run.take(each)
    run.ended = time.time()
    return run


def find_kubectl() -> str | None:
    beside = Path(os.environ["KUBECONFIG"]).parent / "bin" / "kubectl"
    return os.environ.get("KUBECTL") or shutil.which("kubectl") or (str(beside) if beside.exists() else None)


def measure(namespace: BuildsNamespace, kubectl: str) -> None:
    own = f"by-hand-{secrets.token_hex(4)}"
    subprocess.run([kubectl, "create", "namespace", own], check=True, stdout=subprocess.DEVNULL)
    try:
        with open_pods(namespace, NetworkSettings(), {}) as pods:
            ways: dict[str, Callable[[], Run]] = {
                "executor": lambda: by_executor(pods),
                "kubectl": lambda: by_hand(kubectl, own, namespace.image),
            }
            runs: dict[str, list[Run]] = {name: [] for name in ways}
            # In turn, so that both have the same machine.
            for _ in range(_ROUNDS):
                for name, way in ways.items():
                    runs[name].append(way())
    finally:
        subprocess.run([kubectl, "delete", "namespace", own, "--wait=false"], check=True, stdout=subprocess.DEVNULL)
    show("submit → first line, median", runs, lambda each: [run.first_line for run in each], statistics.median)
    show("command end → outcome, median", runs, lambda each: [run.outcome for run in each], statistics.median)
    show("log lag, p95", runs, lambda each: [lag for run in each for lag in run.lags], p95)


def show(
    name: str,
    runs: dict[str, list[Run]],
    values: Callable[[list[Run]], list[float]],
    figure: Callable[[list[float]], float],
) -> None:
    ours, theirs = figure(values(runs["executor"])), figure(values(runs["kubectl"]))
    line(name, f"{ours * 1000:.0f} ms", f"kubectl {theirs * 1000:.0f} ms", ours / theirs)


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def main() -> None:
    obstacle = missing_cluster() or (None if find_kubectl() else "there is no kubectl")
    if obstacle is not None:
        print(json.dumps({"skipped": obstacle}))
        return
    kubectl = find_kubectl()
    assert kubectl is not None
    with tempfile.TemporaryDirectory() as directory:
        image = bring_images().builder
        server = ObjectStoreServer(
            Path(directory),
            ports=ObjectStorePorts(*free_ports(8)),
            access_key="bench",
            secret_key=secrets.token_hex(20),
        )
        server.start()
        try:
            server.wait()
            store = server.settings(bucket="bench")
            client = Minio(
                store.endpoint.removeprefix("http://"), store.access_key, store.secret_key, secure=False,
                region=store.region,
            )  # fmt: skip
            client.make_bucket(store.bucket)
            with builds_namespace(store, tuple(free_ports(1)), image) as namespace:
                measure(namespace, kubectl)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
