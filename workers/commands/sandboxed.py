"""Runs a project's command in the sandbox and turns its outcome into the pipeline's exceptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shared.deployments.state import Stage
from shared.errors import Cancelled, FailureCode, PlatformError, StageFailure
from shared.plans import PlanLimits
from shared.projects.commands import find_command_problem
from shared.text.wording import counted
from shared.tracing import span
from workers.executors.base import (
    Directory,
    ExecutionResult,
    ExecutionSpec,
    Executor,
    Limits,
    Mount,
    OnOutput,
    Output,
    Overlay,
    RunOutcome,
    Tree,
    Trees,
)
from workers.executors.toolchain import Toolchain
from workers.frameworks.detection import Detection
from workers.pipeline.stage import StageContext

WORKSPACE = "/workspace"
VIRTUAL_ENVIRONMENT = f"{WORKSPACE}/.venv"
_TAIL_BYTES = 64 * 1024
_MEBIBYTE = 1024 * 1024


@dataclass(slots=True)
class OutputTail:
    """The last 64 KiB of a command's output: searched for known errors, never stored, because it is not masked."""

    data: bytes = b""

    def add(self, data: bytes) -> None:
        self.data = (self.data + data)[-_TAIL_BYTES:]


def check_command(command: str, what: str) -> None:
    """Raises StageFailure; `what` is "install command" or "build command"."""
    problem = find_command_problem(command)
    if problem is not None:
        raise StageFailure(FailureCode.COMMAND_NOT_ALLOWED, f"The {what} `{command[:200]}` {problem}")


def search_path(toolchain: Toolchain, detection: Detection, tools: Sequence[str] = ()) -> str:
    """Programs of the project's dependencies come first, those of fetched tools before the toolchain's."""
    node_bins = [
        f"{WORKSPACE}/{directory}/node_modules/.bin".replace("/./", "/")
        for directory in dict.fromkeys((detection.root_directory, detection.install_directory))
    ]
    return ":".join([f"{VIRTUAL_ENVIRONMENT}/bin", *node_bins, *tools, toolchain.path])


def workspace_path(directory: str) -> str:
    """The path of a repository's directory in the sandbox."""
    return WORKSPACE if directory == "." else f"{WORKSPACE}/{directory}"


def run_limits(limits: PlanLimits, output_bytes: int) -> Limits:
    """The plan's limits of a stage, for one command of it."""
    return Limits(
        memory_bytes=limits.memory_bytes,
        cpu_count=limits.cpu_count,
        process_count=limits.process_count,
        disk_bytes=limits.disk_bytes,
        disk_entries=limits.disk_entries,
        output_bytes=output_bytes,
        wall_seconds=float(limits.stage_timeout_seconds),
    )


def make_spec(
    context: StageContext,
    stage: Stage,
    *,
    command: tuple[str, ...],
    directory: str,
    layers: tuple[Tree, ...],
    changes: str,
    environment: dict[str, str],
    output_bytes: int,
    network: Literal["none", "proxy"],
    mounts: tuple[Mount, ...] = (),
    directories: tuple[Directory, ...] = (),
    output: str,
) -> ExecutionSpec:
    """`layers` are merged at /workspace; the command's changes to them are the tree `changes`. `output`: the tree to
    collect afterwards. `directory` is relative to the repository's root.
    """
    return ExecutionSpec(
        # The name that the runner reaps when a worker died in this stage.
        name=f"{context.deployment.id}-{stage.value}",
        command=command,
        working_directory=workspace_path(directory),
        mounts=mounts,
        overlay=Overlay(changes, WORKSPACE, layers),
        environment=environment,
        limits=run_limits(context.limits, output_bytes),
        network=network,
        directories=directories,
        outputs=(Output(output, context.deployment.tenant_id),),
        labels={"deployment": context.deployment.id, "stage": stage.value, "fence": str(context.fence)},
    )


def run_logged(
    executor: Executor, context: StageContext, spec: ExecutionSpec, trees: Trees, tail: OutputTail
) -> ExecutionResult:
    """Runs the command with its output in the deployment's log. Raises Cancelled, PlatformError."""

    def on_output(stream: Literal["stdout", "stderr"], data: bytes) -> None:
        tail.add(data)
        context.log.write(stream, data)

    result = run_traced(executor, context, spec, trees, on_output, spec.labels.get("stage", "command"))
    for host in result.traffic.blocked_hosts:
        context.log.system(f"The command tried to reach {host}, which is not allowed.")
    raise_interruption(context, result)
    return result


def run_traced(
    executor: Executor, context: StageContext, spec: ExecutionSpec, trees: Trees, on_output: OnOutput, what: str
) -> ExecutionResult:
    """Runs the command as a span called `command <what>`. Its text stays out of the trace: it is the tenant's."""
    with span(f"command {what}", {"cloudify.network": spec.network}) as command_span:
        result = executor.run(spec, trees, on_output, context.cancelled)
        command_span.set("cloudify.outcome", result.outcome.value)
        if result.exit_code is not None:
            command_span.set("process.exit.code", result.exit_code)
        if result.peak_memory_bytes is not None:
            command_span.set("cloudify.peak_memory_bytes", result.peak_memory_bytes)
        if result.outcome is not RunOutcome.SUCCESS:
            command_span.fail(result.outcome.value)
        return result


def raise_interruption(context: StageContext, result: ExecutionResult) -> None:
    """Raises Cancelled or PlatformError for outcomes that are neither success nor the user's failure."""
    if result.outcome is RunOutcome.CANCELLED or context.cancelled.is_set():
        raise Cancelled(result.message)
    if result.outcome in (RunOutcome.EVICTED, RunOutcome.IMAGE_ERROR, RunOutcome.PLATFORM_LOST):
        raise PlatformError(result.message)


def raise_failure(context: StageContext, result: ExecutionResult, what: str, advice: str = "") -> None:
    """Raises StageFailure unless the command succeeded; `what` is "install command" or "build command".

    `advice` ends the message of a command that failed by itself.
    """
    limits = context.limits
    outcome = result.outcome
    if outcome is RunOutcome.SUCCESS:
        return
    if outcome is RunOutcome.OUT_OF_MEMORY:
        raise StageFailure(
            FailureCode.OUT_OF_MEMORY,
            f"The {what} needed more than {limits.memory_bytes // _MEBIBYTE} MiB of memory and was ended. Lower what it"
            " needs (fewer workers, NODE_OPTIONS=--max-old-space-size=…) or use a plan with more memory.",
        )
    if outcome is RunOutcome.TIMEOUT:
        raise StageFailure(
            FailureCode.TIMEOUT,
            f"The {what} ran longer than {counted(limits.stage_timeout_seconds, 'second')} and was ended. Look in the"
            " log for where it waits, or use a plan with a longer limit.",
        )
    if outcome is RunOutcome.DISK_FULL:
        raise StageFailure(
            FailureCode.DISK_FULL,
            f"{result.message.replace('The command', f'The {what}', 1)} Write less, or use a plan with more disk.",
        )
    refused = result.traffic.blocked_hosts
    blocked = f" It was refused these hosts: {', '.join(refused[:5])}." if refused else ""
    if result.exit_code == 127 and not advice:
        blocked += " Code 127 means that a program was not found: is it among the project's dependencies?"
    if result.exit_code == 137 and not advice:
        blocked += (
            " Code 137 means that it was killed, though not for passing a limit: by itself, or by a machine that has no"
            " memory left. Deploy again; if it happens again, ask your operator."
        )
    blocked += f" {advice}" if advice else ""
    raise StageFailure(
        FailureCode.COMMAND_FAILED,
        f"The {what} ended with exit code {result.exit_code}. The last lines of the log say why.{blocked}",
    )
