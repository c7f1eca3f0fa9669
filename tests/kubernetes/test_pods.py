"""Builds in pods of a real cluster: what ends them, who continues them, and what they never see."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.errors import PlatformError
from shared.settings import NetworkSettings
from tests.support.docker_engine import SECONDS
from tests.support.executors import (
    HOST_TREES,
    TIMEOUT_SECONDS,
    Output,
    make_spec,
    processes_with,
    run,
    unique_marker,
    wait_for,
)
from tests.support.kubernetes_cluster import BuildsNamespace, left_in_cluster, request
from tests.support.pods_on_host import PodsOnHost, open_pods
from workers.executors.base import ExecutionResult, ExecutionSpec, RunOutcome
from workers.executors.kubernetes.cluster import Cluster
from workers.executors.kubernetes.manifests import RUN_LABEL
from workers.executors.kubernetes.plan import run_digest

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(SECONDS)]


@pytest.fixture
def pods(kubernetes: BuildsNamespace) -> Iterator[PodsOnHost]:
    with open_pods(kubernetes, NetworkSettings(), {}) as executor:
        yield executor


@pytest.fixture
def cluster(kubernetes: BuildsNamespace) -> Iterator[Cluster]:
    with contextlib.closing(kubernetes.connect()) as cluster:
        yield cluster


class Background:
    """A run in a thread of its own."""

    def __init__(self, executor: PodsOnHost, spec: ExecutionSpec, marker: bytes = b"ready") -> None:
        self.output = Output(marker=marker)
        self.cancel = threading.Event()
        self.results: list[ExecutionResult] = []
        self.thread = threading.Thread(target=self._run, args=(executor, spec))
        self.thread.start()

    def _run(self, executor: PodsOnHost, spec: ExecutionSpec) -> None:
        self.results.append(executor.run(spec, HOST_TREES, self.output, self.cancel))

    def wait_for_output(self) -> None:
        assert self.output.seen.wait(TIMEOUT_SECONDS), self.output.text()

    def result(self) -> ExecutionResult:
        self.thread.join(TIMEOUT_SECONDS)
        return self.results[0]


def pods_of(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    return cluster.pods(f"{RUN_LABEL}={run_digest(name)}")


def path_of(cluster: Cluster, kind: str) -> str:
    return f"/api/v1/namespaces/{cluster.namespace}/{kind}"


# A worker of its own. argv: the namespace, the run's name and script.
WORKER = """
import sys, threading
from shared.settings import NetworkSettings
from tests.support.executors import HOST_TREES, ExecutorKind, make_spec
from tests.support.pods_on_host import open_pods
kind = ExecutorKind.from_text(sys.argv[1])
spec = make_spec("", name=sys.argv[2], command=("sh", "-c", sys.argv[3]))
with open_pods(kind.namespace, NetworkSettings(), {}) as executor:
    executor.run(spec, HOST_TREES, lambda stream, data: print(data.decode(), end="", flush=True), threading.Event())
"""


@contextlib.contextmanager
def worker_with(namespace: BuildsNamespace, name: str, script: str) -> Generator[subprocess.Popen[bytes]]:
    """Another worker that has the run; it is killed."""
    from tests.support.executors import ExecutorKind

    kind = ExecutorKind("kubernetes", namespace=namespace).to_text()
    arguments = [sys.executable, "-c", WORKER, kind, name, script]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
            yield worker
        finally:
            worker.kill()


def test_another_worker_continues_the_run_of_a_killed_one(
    pods: PodsOnHost, cluster: Cluster, kubernetes: BuildsNamespace
) -> None:
    name = f"adopted-{unique_marker()}"
    script = "echo ready; for i in 1 2 3 4 5 6 7 8; do sleep 1; echo $i; done; exit 4"
    with worker_with(kubernetes, name, script) as worker:
        worker.kill()
    [pod] = pods_of(cluster, name)
    pods.take_over(name)
    output = Output()
    spec = make_spec("", name=name, command=("sh", "-c", script))
    result = pods.run(spec, HOST_TREES, output, threading.Event())
    assert (result.outcome, result.exit_code) == (RunOutcome.USER_ERROR, 4)
    # From the first line on, though another worker had read some.
    assert output.text() == b"ready\n1\n2\n3\n4\n5\n6\n7\n8\n"
    assert all(each["metadata"]["uid"] == pod["metadata"]["uid"] for each in pods_of(cluster, name))


def test_a_new_attempt_ends_the_run_of_another_command(
    pods: PodsOnHost, cluster: Cluster, kubernetes: BuildsNamespace
) -> None:
    name, marker = f"other-{unique_marker()}", unique_marker()
    with worker_with(kubernetes, name, f"echo ready; sleep {marker}") as worker:
        worker.kill()
    pods.take_over(name)
    result, printed = run(pods, "echo second", name=name)
    assert (result.outcome, printed) == (RunOutcome.SUCCESS, b"second\n")
    assert processes_with(marker) == []


def test_two_workers_with_one_run_start_one_pod(pods: PodsOnHost, cluster: Cluster) -> None:
    spec = make_spec("echo ready; sleep 5; exit 4")
    runs = [Background(pods, spec), Background(pods, spec)]
    for each in runs:
        each.wait_for_output()
    assert len(pods_of(cluster, spec.name)) == 1
    outcomes = [each.result().outcome for each in runs]
    # The slower one may find the pod gone, which is never success.
    assert RunOutcome.USER_ERROR in outcomes
    assert set(outcomes) <= {RunOutcome.USER_ERROR, RunOutcome.PLATFORM_LOST}


def test_a_job_that_a_dead_worker_never_started_is_made_again(
    pods: PodsOnHost, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec("echo ran")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Cluster, "create_secret", die)
    with pytest.raises(KeyboardInterrupt):
        pods.run(spec, HOST_TREES, Output(), threading.Event())
    monkeypatch.undo()
    assert len(cluster.jobs(f"{RUN_LABEL}={run_digest(spec.name)}")) == 1
    assert pods.sweep() == []  # a worker may just be about to start it
    output = Output()
    result = pods.run(spec, HOST_TREES, output, threading.Event())
    assert (result.outcome, output.text()) == (RunOutcome.SUCCESS, b"ran\n")


def test_a_job_that_is_deleted_by_hand_is_the_platforms_loss(pods: PodsOnHost, cluster: Cluster) -> None:
    spec = make_spec("echo ready; sleep 600")
    background = Background(pods, spec)
    background.wait_for_output()
    [job] = cluster.jobs(f"{RUN_LABEL}={run_digest(spec.name)}")
    cluster.delete_job(job["metadata"]["name"])
    assert background.result().outcome is RunOutcome.PLATFORM_LOST


def test_a_pod_that_is_deleted_by_hand_is_the_platforms_loss(pods: PodsOnHost, cluster: Cluster) -> None:
    spec = make_spec("trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done")
    background = Background(pods, spec)
    background.wait_for_output()
    [pod] = pods_of(cluster, spec.name)
    request(cluster, "DELETE", f"{path_of(cluster, 'pods')}/{pod['metadata']['name']}")
    assert background.result().outcome in (RunOutcome.PLATFORM_LOST, RunOutcome.EVICTED)


def test_a_drained_node_evicts_the_run(pods: PodsOnHost, cluster: Cluster) -> None:
    spec = make_spec("echo ready; sleep 600")
    background = Background(pods, spec)
    background.wait_for_output()
    [pod] = pods_of(cluster, spec.name)
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    request(cluster, "POST", f"{path_of(cluster, 'pods')}/{name}/eviction", eviction)
    assert background.result().outcome is RunOutcome.EVICTED, background.results
    assert processes_with("sleep 600") == []


def test_an_image_that_is_not_there_is_an_image_error(kubernetes: BuildsNamespace) -> None:
    missing = "registry.invalid/builder@sha256:" + "0" * 64
    with (
        pytest.raises(PlatformError, match="builder image can't be used"),
        open_pods(kubernetes, NetworkSettings(), {}, image=missing),
    ):
        pass


def test_a_node_without_user_namespaces_is_named_with_the_setting(kubernetes: BuildsNamespace) -> None:
    with open_pods(kubernetes, NetworkSettings(), {}, has_user_namespaces=True) as executor:
        said = ""
        try:
            executor.probe()
        except PlatformError as error:
            said = str(error)
    if not said:
        pytest.skip("the cluster's nodes support user namespaces")
    assert "Set CLOUDIFY_KUBERNETES_USER_NAMESPACES to false" in said


def test_a_used_up_quota_waits_and_says_so(pods: PodsOnHost, cluster: Cluster) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "full"},
        "spec": {"hard": {"pods": "0"}},
    }
    request(cluster, "POST", path_of(cluster, "resourcequotas"), quota)
    try:
        background = Background(pods, make_spec("echo ran"), marker=b"Waiting for the quota")
        background.wait_for_output()
    finally:
        request(cluster, "DELETE", f"{path_of(cluster, 'resourcequotas')}/full")
    assert background.result().outcome is RunOutcome.SUCCESS
    assert background.output.text("stdout") == b"ran\n"
    assert b"exceeded quota" in background.output.text("stderr")


def test_a_run_that_fits_nowhere_waits_with_the_schedulers_words(pods: PodsOnHost) -> None:
    background = Background(pods, make_spec("true", cpu_count=4000.0), marker=b"Waiting for a machine")
    background.wait_for_output()
    assert b"Insufficient cpu" in background.output.text()
    background.cancel.set()
    assert background.result().outcome is RunOutcome.CANCELLED


def test_a_cluster_without_network_policies_is_refused(kubernetes: BuildsNamespace, cluster: Cluster) -> None:
    policies = f"/apis/networking.k8s.io/v1/namespaces/{cluster.namespace}/networkpolicies"
    kept = request(cluster, "GET", policies)["items"]
    for policy in kept:
        request(cluster, "DELETE", f"{policies}/{policy['metadata']['name']}")
    try:
        with (
            pytest.raises(PlatformError, match="does not enforce the network policy"),
            open_pods(kubernetes, NetworkSettings(), {}) as executor,
        ):
            executor.probe()
    finally:
        for policy in kept:
            body = {**policy, "metadata": {"name": policy["metadata"]["name"]}}
            request(cluster, "POST", policies, body)


def test_a_store_that_is_open_to_strangers_is_refused(kubernetes: BuildsNamespace) -> None:
    open_to_all = f"{kubernetes.store.link_endpoint}/healthz"
    with (
        pytest.raises(PlatformError, match="without a signature"),
        open_pods(kubernetes, NetworkSettings(), {}, bucket_url=open_to_all) as executor,
    ):
        executor.probe()


def test_a_command_sees_no_links_and_no_account(pods: PodsOnHost, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    script = """
    signed=$(printf 'x-am%s' z)  # the request holds this very text
    cat /run/cloudify/* /proc/*/environ 2>/dev/null | grep -a -c -i "$signed"; ls /run/cloudify
    ls -A /var/run/secrets /run/secrets /trees /state 2>/dev/null; exit 0
    """
    result, printed = run(pods, script, workspace=workspace)
    assert (result.outcome, printed.split()) == (RunOutcome.SUCCESS, [b"0", b"code.pyz", b"request.json"])


def test_an_api_server_that_is_away_ends_no_run(pods: PodsOnHost) -> None:
    servers = [process for process in processes_with("kube-apiserver") if "kube-apiserver" in process.cmdline()[:2]]
    if not servers:
        pytest.skip("the cluster's API server is not a process of this machine")
    script = "echo ready; for i in 1 2 3 4 5; do sleep 4; echo $i; done; exit 4"
    background = Background(pods, make_spec(script))
    background.wait_for_output()
    for process in servers:
        process.send_signal(signal.SIGSTOP)
    try:
        background.thread.join(45)
    finally:
        for process in servers:
            process.send_signal(signal.SIGCONT)
    result = background.result()
    assert (result.outcome, result.exit_code) == (RunOutcome.USER_ERROR, 4)
    assert background.output.text() == b"ready\n1\n2\n3\n4\n5\n"


def test_nothing_is_left(kubernetes: BuildsNamespace, pods: PodsOnHost) -> None:
    run(pods, "true")
    run(pods, "exit 3")
    wait_for(lambda: left_in_cluster(kubernetes) == [])
    assert os.environ["KUBECONFIG"]
