"""Runs commands in pods of a Kubernetes cluster. The sandbox's properties: README.md in the parent folder."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from shared.errors import PlatformError
from shared.settings.kinds import is_digest
from workers.egress.accounts import Traffic
from workers.executors.attachments import DirectoryTrees
from workers.executors.base import (
    ExecutionResult,
    ExecutionSpec,
    Limits,
    OnOutput,
    RunOutcome,
    Tree,
    Trees,
    check_run_name,
)
from workers.executors.docker.image import TOOLCHAIN_FILE, toolchain_of
from workers.executors.environment import build_environment
from workers.executors.kubernetes.cluster import Cluster, ClusterError
from workers.executors.kubernetes.code import build_archive
from workers.executors.kubernetes.egress import EgressAccess
from workers.executors.kubernetes.manifests import (
    JOB_LABEL,
    NAME_ANNOTATION,
    QUEUE_SECONDS,
    RUN_LABEL,
    STAGING_ANNOTATION,
    PodSettings,
    RunNames,
    job_of,
    job_seconds,
    secret_of,
    user_of,
)
from workers.executors.kubernetes.plan import (
    PlannedTree,
    StagedOutput,
    command_digest,
    command_request,
    fetch_request,
    pack_request,
    packed_limit,
    plan_trees,
    proxied,
    run_digest,
    stage_outputs,
)
from workers.executors.kubernetes.pod_run import PodRun
from workers.executors.seccomp import build_filter
from workers.executors.toolchain import Toolchain

_log = logging.getLogger(__name__)
_MEBIBYTE = 1024 * 1024
_GONE_SECONDS = 120.0
_POLL_SECONDS = 0.2
# From making a Job to starting it.
_STARTING_SECONDS = 15.0
# A Job that stays suspended for longer was made by a worker that died before it resumed it.
_BEGINNING_SECONDS = 300.0
_MANAGED = "app.kubernetes.io/managed-by=cloudify,app.kubernetes.io/component=build"
_NO_TOOLCHAIN = Toolchain((), {}, "/opt/bin:/usr/local/bin:/usr/bin:/bin", {}, "python3", "", "", "", "")
_PROBE_LIMITS = Limits(
    memory_bytes=256 * _MEBIBYTE,
    cpu_count=1,
    process_count=64,
    disk_bytes=_MEBIBYTE,
    output_bytes=64 * 1024,
    wall_seconds=60,
    stop_seconds=1,
)


@dataclasses.dataclass(frozen=True, slots=True)
class StoreAddress:
    """The object store as pods reach it. `bucket_url` is tried without a signature."""

    bucket_url: str


class KubernetesExecutor:
    """Implements Executor. Any worker may continue or end the runs of another: their names tell the command."""

    def __init__(
        self,
        cluster: Cluster,
        pods: PodSettings,
        store: StoreAddress,
        egress: EgressAccess,
        *,
        key: bytes,
        registries: Mapping[str, str],
        certificates: bytes | None,
        machine: str,
        toolchain: Toolchain | None = None,
    ) -> None:
        """`key` keys the names of runs; all workers of an installation have the same. `machine`: of the nodes.

        `toolchain`: of the image, where it is known already.
        """
        self._cluster = cluster
        self._pods = pods
        self._store = store
        self._egress = egress
        self._key = key
        self._registries = registries
        self._certificates = certificates
        self._filter = build_filter(machine)
        self._code = build_archive()
        self._lock = threading.Lock()
        self._taken_over: set[str] = set()
        self._toolchain = toolchain

    @property
    def toolchain(self) -> Toolchain:
        """Read from the image, by a pod. Raises PlatformError when that fails."""
        if self._toolchain is None:
            self._toolchain = self._read_toolchain()
        return self._toolchain

    def close(self) -> None:
        self._cluster.close()

    def probe(self) -> None:
        """Sweeps, then runs a command: it needs a node, the image, the store and the network policies."""
        self.sweep()
        self._toolchain = self._read_toolchain()

    def run(self, spec: ExecutionSpec, trees: Trees, on_output: OnOutput, cancel: threading.Event) -> ExecutionResult:
        """See Executor.run. An exception of `on_output` ends the command and is raised here."""
        check_run_name(spec.name)
        if cancel.is_set():
            return ExecutionResult(RunOutcome.CANCELLED, None, "The command was cancelled.", 0.0, None)
        result, _ = self._run(spec, trees, on_output, cancel, self.toolchain)
        return result

    def take_over(self, name: str) -> None:
        """See Executor.take_over: runs outlive their worker, and `run` continues one of the same command."""
        check_run_name(name)
        with self._lock:
            self._taken_over.add(name)

    def reap(self, name: str) -> None:
        """See Executor.reap. Raises PlatformError if a pod isn't gone after a while."""
        check_run_name(name)
        self._delete_jobs(f"{_MANAGED},{RUN_LABEL}={run_digest(name)}")

    def sweep(self) -> list[str]:
        """Removes Jobs that a worker made and never started. What runs belongs to the worker that continues it."""
        abandoned: list[str] = []
        for job in self._cluster.jobs(_MANAGED):
            made = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
            age = (datetime.now(UTC) - made).total_seconds()
            if job["spec"].get("suspend") and age > _BEGINNING_SECONDS:
                self._cluster.delete_job(job["metadata"]["name"])
                abandoned.append(str(job["metadata"].get("annotations", {}).get(NAME_ANNOTATION, "")))
        for name in abandoned:
            _log.info("Removed the Job of %s, which no worker started.", name)
        return sorted(abandoned)

    def _read_toolchain(self) -> Toolchain:
        printed: list[bytes] = []
        spec = ExecutionSpec(
            name=f"probe-{secrets.token_hex(6)}",
            command=("cat", TOOLCHAIN_FILE),
            working_directory="/",
            mounts=(),
            overlay=None,
            environment={},
            limits=_PROBE_LIMITS,
            network="none",
        )
        result, image = self._run(
            spec, _NO_TREES, lambda _, data: printed.append(data), threading.Event(), _NO_TOOLCHAIN, wait_seconds=300
        )
        if result.outcome is not RunOutcome.SUCCESS:
            said = b"".join(printed).decode(errors="replace").strip()[-500:]
            raise PlatformError(f"A build pod can't run here: {result.message} {said}".strip())
        if not is_digest(self._pods.image):
            # A tag may lead to another image tomorrow: all pods of this worker have the one of today.
            self._pods = dataclasses.replace(self._pods, image=image or self._pods.image)
        return dataclasses.replace(toolchain_of(b"".join(printed).decode()), image=self._pods.image)

    def _run(
        self,
        spec: ExecutionSpec,
        trees: Trees,
        on_output: OnOutput,
        cancel: threading.Event,
        toolchain: Toolchain,
        wait_seconds: float = QUEUE_SECONDS,
    ) -> tuple[ExecutionResult, str]:
        """The result, and the image that the command had."""
        started = time.monotonic()
        planned = plan_trees(spec)
        digest = command_digest(spec, self._pods.image, self._key)
        job = f"run-{digest[:40]}"
        self._end_other_jobs(spec.name, job)
        names = self._adopt(job, spec) or self._submit(job, spec, planned, trees, toolchain)
        staged = stage_outputs(spec, planned, names.staging)
        run = PodRun(self._cluster, names, spec, on_output, cancel, wait_seconds=wait_seconds)
        outputs: Mapping[str, Tree] = {}
        try:
            result = run.watch()
            if result.outcome is RunOutcome.SUCCESS:
                outputs = {each.output.name: trees.take_in(each.output, each.key) for each in staged}
        finally:
            try:
                self._end(job, run)
            finally:
                run.close()
                self._discard(staged, trees)
        self._check_damage(run, planned, trees)
        traffic = self._end_egress(names.staging) if spec.network == "proxy" else Traffic()
        # Of the command, if it is known: waiting for a machine counts against no limit.
        seconds = result.duration_seconds or time.monotonic() - started
        found = dataclasses.replace(result, outputs=outputs, traffic=traffic, duration_seconds=seconds)
        return found, run.image

    def _adopt(self, job: str, spec: ExecutionSpec) -> RunNames | None:
        """The names of this command's Job, if another worker has started one.

        Waits for one that is being deleted, and a moment for one that another worker may just be about to start.
        """
        now = time.monotonic()
        deadline, starting, uid = now + _GONE_SECONDS, now + _STARTING_SECONDS, ""
        while (found := self._cluster.find_job(job)) is not None:
            metadata = found["metadata"]
            if metadata["uid"] != uid:
                uid, starting = metadata["uid"], time.monotonic() + _STARTING_SECONDS
            is_started = not found["spec"].get("suspend")
            staging = metadata.get("annotations", {}).get(STAGING_ANNOTATION)
            if is_started and not metadata.get("deletionTimestamp") and staging:
                _log.info("Continuing the Job of %s, which another worker started.", spec.name)
                return RunNames(job, "", run_digest(spec.name), staging)
            if not metadata.get("deletionTimestamp") and (is_started or time.monotonic() > starting):
                self._cluster.delete_job(job)
            if time.monotonic() > deadline:
                raise PlatformError(f"The former Job of {spec.name} is not gone after {_GONE_SECONDS:.0f} s.")
            time.sleep(_POLL_SECONDS)
        return None

    def _submit(
        self, job: str, spec: ExecutionSpec, planned: tuple[PlannedTree, ...], trees: Trees, toolchain: Toolchain
    ) -> RunNames:
        nonce = secrets.token_hex(8)
        names = RunNames(job, f"{job}-{nonce}", run_digest(spec.name), f"{job}-{nonce}")
        seconds = job_seconds(spec) + QUEUE_SECONDS
        environment = build_environment(spec, toolchain, self._registries, has_certificates=True)
        closed = self._egress.addresses()
        proxy = None
        if spec.network == "proxy":
            closed, proxy = (), self._egress.address()
            environment = proxied(environment, self._egress.proxy_url(names.staging, seconds)) | dict(spec.environment)
        network = {"bucket": self._store.bucket_url, "closed": closed, "proxy": proxy}
        forms = [
            (staged, trees.upload_form(staged.key, packed_limit(spec), seconds))
            for staged in stage_outputs(spec, planned, names.staging)
        ]
        requests: dict[str, Any] = {
            "fetch": fetch_request(planned, trees, seconds, network),
            "command": command_request(spec, planned, environment, self._filter),
            "pack": pack_request(spec, planned, forms),
        }
        has_certificates = self._certificates is not None
        body = job_of(spec, planned, names, self._pods, has_certificates=has_certificates)
        try:
            created = self._cluster.create_job(body)
        except ClusterError as error:
            if error.status == HTTPStatus.CONFLICT:
                # Another worker was faster, or an answer was lost.
                adopted = self._adopt(job, spec)
                return adopted or self._submit(job, spec, planned, trees, toolchain)
            raise
        user = user_of(names, self._pods)
        secret = secret_of(names, created["metadata"]["uid"], requests, self._code, self._certificates, user)
        self._cluster.create_secret(secret)
        self._cluster.resume_job(job)
        return names

    def _end_other_jobs(self, name: str, job: str) -> None:
        """Before the first run of a new attempt: a Job of another command, whose worker died."""
        with self._lock:
            if name not in self._taken_over:
                return
            self._taken_over.discard(name)
        self._delete_jobs(f"{_MANAGED},{RUN_LABEL}={run_digest(name)},{JOB_LABEL}!={job}")

    def _end(self, job: str, run: PodRun) -> None:
        """Deletes the Job. Waits until nothing of it is left, unless its pod has ended by itself."""
        self._cluster.delete_job(job)
        if not run.is_over:
            self._wait_until_gone(f"{JOB_LABEL}={job}")

    def _end_egress(self, run: str) -> Traffic:
        """A gateway that is away ends the run's account by itself, at its time."""
        try:
            return self._egress.finish(run)
        except PlatformError as error:
            _log.warning("The hosts that a run reached, and those that were refused to it, are not known: %s", error)
            return Traffic()

    def _delete_jobs(self, selector: str) -> None:
        for job in self._cluster.jobs(selector):
            self._cluster.delete_job(job["metadata"]["name"])
        self._wait_until_gone(selector)

    def _wait_until_gone(self, selector: str) -> None:
        deadline = time.monotonic() + _GONE_SECONDS
        grace = 0.0
        while found := [*self._cluster.pods(selector), *self._cluster.jobs(selector)]:
            for each in found:
                grace = max(grace, float(each["metadata"].get("deletionGracePeriodSeconds") or 0))
            if time.monotonic() > deadline + grace:
                name = found[0]["metadata"]["name"]
                raise PlatformError(f"{name} is not gone after {_GONE_SECONDS:.0f} s: is its node away?")
            time.sleep(_POLL_SECONDS)

    @staticmethod
    def _discard(staged: tuple[StagedOutput, ...], trees: Trees) -> None:
        for each in staged:
            with contextlib.suppress(PlatformError):
                trees.discard_staged(each.key)

    @staticmethod
    def _check_damage(run: PodRun, planned: tuple[PlannedTree, ...], trees: Trees) -> None:
        """A layer's tarball was not what its name says: attaching it here deletes it and says so."""
        for tree in planned:
            for layer in tree.layers:
                if run.damaged and getattr(layer, "digest", "") == run.damaged:
                    with trees.attach(layer):  # type: ignore[arg-type]
                        pass


# The probe has no trees.
_NO_TREES = DirectoryTrees(Path("/nonexistent"))
