"""Waits for the end of a run's pod, passes its log on, and tells how it ended."""

from __future__ import annotations

import threading
import time

from shared.errors import FailureCode, StageFailure
from workers.executors.base import ExecutionResult, ExecutionSpec, OnOutput, RunOutcome
from workers.executors.kubernetes.cluster import Cluster
from workers.executors.kubernetes.manifests import JOB_LABEL, RunNames, job_seconds
from workers.executors.kubernetes.pod import ending
from workers.executors.kubernetes.pod_log import PodLog
from workers.executors.kubernetes.pod_state import Ended, PodState
from workers.executors.kubernetes.pod_watch import PodWatch
from workers.executors.monitor import exit_message

_POLL_SECONDS = 0.1
_SILENCE_SECONDS = 3.0
_ASK_SECONDS = 2.0
# Images are pulled again for a while: a registry may fail for a moment.
_IMAGE_SECONDS = 30.0
_LOG_SECONDS = 30.0
# A pod that the Job controller has not made yet, or has just deleted.
_NO_POD_SECONDS = 30.0
_OVERTIME_SECONDS = 120.0
# From a machine to the first container: volumes and images may take a while.
_STARTING_SECONDS = 300.0
_NO_USER_NAMESPACES = "user namespaces"
_MEBIBYTE = 1024 * 1024
_KILLED = 137
_OUT_OF_MEMORY = "OOMKilled"
_STOPS = {
    ending.STOPPED_BY_TIME: "timeout",
    ending.STOPPED_BY_DISK: "disk_full",
    ending.STOPPED_BY_MEMORY: "out_of_memory",
}


class PodRun:
    """Call `watch` once, then `close`. `damaged`: the digest of a layer that was not what its name says.

    `is_over`: nothing of the pod runs any more. `image`: the one that the command had, by its content.
    """

    def __init__(
        self,
        cluster: Cluster,
        names: RunNames,
        spec: ExecutionSpec,
        on_output: OnOutput,
        cancel: threading.Event,
        *,
        wait_seconds: float,
    ) -> None:
        self._cluster = cluster
        self._names = names
        self._spec = spec
        self._on_output = on_output
        self._cancel = cancel
        self._wait_seconds = wait_seconds
        self.damaged = ""
        self.is_over = False
        self.image = ""
        self._log = PodLog(cluster, spec.limits.output_bytes, on_output)
        self._watch = PodWatch(cluster, f"{JOB_LABEL}={names.job}")
        self._said = ""
        self._asked_at = self._refused_at = self._scheduled_at = 0.0
        # A pod that was taken away before its command started; its successor counts.
        self._passed_over: set[str] = set()

    def watch(self) -> ExecutionResult:
        """Returns when the pod has ended, or has to be ended. Raises what `on_output` raised, StageFailure."""
        started = time.monotonic()
        version = -1
        while True:
            version = self._watch.wait(version, _POLL_SECONDS)
            if self._log.pump.error is not None:
                raise self._log.pump.error
            if self._cancel.is_set():
                return self._cancelled()
            result = self._look(started)
            if result is not None:
                if self._log.pump.error is not None:
                    raise self._log.pump.error
                return result

    def close(self) -> None:
        """The Job is deleted: ends the following of pod and log."""
        self._watch.close()
        self._log.close()

    def _look(self, started: float) -> ExecutionResult | None:
        now = time.monotonic()
        pods = [pod for pod in self._watch.pods() if pod.uid not in self._passed_over]
        if not pods:
            return self._without_pod(now - started)
        pod = pods[0]
        if pod.has_started("command"):
            if not self._log.is_followed:
                self._log.follow(pod.name)
        elif pod.disruption() is not None and len(pods) > 1:
            # The Job has made another one: nothing of the command has run.
            self._passed_over.add(pod.uid)
            return None
        refused = pod.refusal()
        if refused is not None:
            self._refused_at = self._refused_at or now
            if now - self._refused_at > _IMAGE_SECONDS or "Never" in refused[1] or "Invalid" in refused[1]:
                return self._result(*refused)
        else:
            self._refused_at = 0.0
        if pod.is_over:
            self.is_over = True
            self.image = pod.image("command")
            return self._conclude(pod)
        if now - started > job_seconds(self._spec) + self._wait_seconds + _OVERTIME_SECONDS:
            return self._result(RunOutcome.PLATFORM_LOST, "The command's pod neither ended nor was ended by its Job.")
        waits_for = pod.waits_for()
        if waits_for is not None and now - started > _SILENCE_SECONDS:
            if now - started > self._wait_seconds:
                return self._result(RunOutcome.PLATFORM_LOST, f"No machine was found for the command: {waits_for}")
            self._say(f"Waiting for a machine: {waits_for}")
        elif waits_for is None and not pod.has_started("fetch"):
            return self._not_started(pod)
        return None

    def _not_started(self, pod: PodState) -> ExecutionResult | None:
        """A pod that has its machine, where no container starts: the node says why in events alone."""
        now = time.monotonic()
        self._scheduled_at = self._scheduled_at or now
        if now - self._scheduled_at < _SILENCE_SECONDS or now - self._asked_at < _ASK_SECONDS:
            return None
        self._asked_at = now
        problem = self._cluster.find_problem_of(pod.name)
        if problem is None:
            return None
        if _NO_USER_NAMESPACES in problem:
            advice = "Set CLOUDIFY_KUBERNETES_USER_NAMESPACES to false (in the chart executor.userNamespaces)."
            return self._result(RunOutcome.PLATFORM_LOST, f"The node can't start the pod: {problem} {advice}")
        if now - self._scheduled_at > _STARTING_SECONDS:
            return self._result(RunOutcome.PLATFORM_LOST, f"The node does not start the pod: {problem}")
        self._say(f"Waiting for the pod to start: {problem}")
        return None

    def _without_pod(self, waited: float) -> ExecutionResult | None:
        gone = [pod for pod in self._watch.gone() if pod.uid not in self._passed_over]
        if gone:
            found = gone[0].disruption() or (
                RunOutcome.PLATFORM_LOST,
                "The command's pod is gone: somebody deleted it.",
            )
            if gone[0].is_over and gone[0].has_succeeded:
                # It has ended, but its log can't be read any more.
                found = (RunOutcome.PLATFORM_LOST, "The command's pod is gone before its end was seen.")
            return self._result(*found)
        now = time.monotonic()
        if waited < _SILENCE_SECONDS or now - self._asked_at < _ASK_SECONDS:
            return None
        self._asked_at = now
        if self._cluster.find_job(self._names.job) is None:
            return self._result(RunOutcome.PLATFORM_LOST, "The command's Job is gone: somebody deleted it.")
        problem = self._cluster.find_problem_of(self._names.job)
        if waited > self._wait_seconds:
            said = problem or "Kubernetes made no pod for its Job"
            return self._result(RunOutcome.PLATFORM_LOST, f"The command could not start: {said}")
        if problem:
            quota = "exceeded quota" in problem
            self._say(f"Waiting for {'the quota of builds' if quota else 'a pod'}: {problem}")
        return None

    def _cancelled(self) -> ExecutionResult:
        """Deletes the Job: its pod gets SIGTERM, and the log what the command says to that."""
        self._cluster.delete_job(self._names.job)
        limits = self._spec.limits
        deadline = time.monotonic() + limits.stop_seconds + _LOG_SECONDS
        version = -1
        while self._watch.pods() and time.monotonic() < deadline:
            version = self._watch.wait(version, _POLL_SECONDS)
            if all(pod.is_over or pod.ended("command") for pod in self._watch.pods()):
                break
        self._log.finish(1.0)
        return self._result(RunOutcome.CANCELLED, "The command was cancelled.")

    def _conclude(self, pod: PodState) -> ExecutionResult:
        command = pod.ended("command")
        disruption = pod.disruption()
        if command is None:
            return self._without_command(pod, disruption)
        self._log.finish(_LOG_SECONDS)
        words = self._log.words or {}
        stop = str(words.get("stop") or "") or (_STOPS.get(command.exit_code, "") if not words else "")
        if not words and disruption is not None:
            return self._result(*disruption)
        if stop or command.reason == _OUT_OF_MEMORY:
            return self._stopped(stop or "out_of_memory", str(words.get("excess", "")))
        # The command may have sent the signal to its init itself; then nobody has deleted the pod.
        if words.get("was_terminated") and (disruption is not None or pod.is_being_deleted):
            gone = (RunOutcome.PLATFORM_LOST, "Somebody deleted the command's pod while it ran.")
            return self._result(*(disruption or gone))
        if not words and command.exit_code == _KILLED:
            return self._result(RunOutcome.PLATFORM_LOST, "Something outside ended the sandbox.")
        code = int(words["exit_code"]) if words else command.exit_code
        code = _KILLED if code == ending.COMMAND_KILLED and not words else code
        if code:
            return self._result(RunOutcome.USER_ERROR, exit_message(code), code)
        if pod.has_succeeded:
            return self._result(RunOutcome.SUCCESS, "", 0)
        return self._unpacked(pod.ended("pack"), disruption)

    def _without_command(self, pod: PodState, disruption: tuple[RunOutcome, str] | None) -> ExecutionResult:
        fetch = pod.ended("fetch")
        words = fetch.words() if fetch is not None else {}
        if words:
            self.damaged = words.get("digest", "") if words.get("reason") == ending.TREE_DAMAGED else ""
            return self._result(RunOutcome.PLATFORM_LOST, words.get("message", ""))
        if disruption is not None:
            return self._result(*disruption)
        return self._result(RunOutcome.PLATFORM_LOST, f"The pod ended before the command started ({_shown(fetch)}).")

    def _unpacked(self, pack: Ended | None, disruption: tuple[RunOutcome, str] | None) -> ExecutionResult:
        words = pack.words() if pack is not None else {}
        reason, message = words.get("reason", ""), words.get("message", "")
        if reason == ending.OUTPUT_REJECTED:
            raise StageFailure(
                FailureCode.OUTPUT_INVALID, f"{message} Remove it from the repository, or from what the commands write."
            )
        if reason == ending.OUTPUT_TOO_LARGE:
            return self._result(RunOutcome.DISK_FULL, f"The command was stopped: {message}")
        if words:
            return self._result(RunOutcome.PLATFORM_LOST, f"The output could not be stored: {message}")
        if disruption is not None:
            return self._result(*disruption)
        return self._result(RunOutcome.PLATFORM_LOST, f"The output could not be stored ({_shown(pack)}).")

    def _stopped(self, stop: str, excess: str) -> ExecutionResult:
        limits = self._spec.limits
        if stop == "timeout":
            limit = f"{limits.wall_seconds:g} seconds"
            message = f"The command was stopped: it ran longer than its limit of {limit}."
            return self._result(RunOutcome.TIMEOUT, message)
        if stop == "disk_full":
            what = f"it wrote more than its limit of {limits.disk_bytes // _MEBIBYTE} MiB, or nested directories too"
            what += " deeply to be measured."
            if excess == "entries":
                what = f"it made more files, directories and links than its limit of {limits.disk_entries}."
            return self._result(RunOutcome.DISK_FULL, f"The command was stopped: {what}")
        if stop == "out_of_memory":
            message = (
                f"The command ran out of memory: its limit is {limits.memory_bytes // _MEBIBYTE} MiB, files in /tmp and"
                " HOME included."
            )
            return self._result(RunOutcome.OUT_OF_MEMORY, message)
        return self._result(RunOutcome.PLATFORM_LOST, "The node ran out of memory and ended the command.")

    def _result(self, outcome: RunOutcome, message: str, exit_code: int | None = None) -> ExecutionResult:
        words = self._log.words or {}
        peak, seconds = words.get("peak_memory_bytes"), words.get("seconds")
        return ExecutionResult(
            outcome,
            exit_code,
            message,
            float(seconds) if isinstance(seconds, (int, float)) else 0.0,
            peak if isinstance(peak, int) else None,
        )

    def _say(self, text: str) -> None:
        """A line of the platform's own in the command's output, once for each text."""
        if text != self._said:
            self._said = text
            self._on_output("stderr", f"[{text[:1000]}]\n".encode())


def _shown(ended: Ended | None) -> str:
    return "no status" if ended is None else f"{ended.reason}, code {ended.exit_code}"
