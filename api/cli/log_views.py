"""Ways to show a log while it is followed, and how following one ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from api.cli.output import Output
from api.client.errors import ExitCode
from api.client.event_stream import Interruption
from api.client.log_stream import EndEvent, GapEvent, LinesEvent, LogEvent, LogFollower, StatusEvent
from schemas.deployments import DeploymentResource

EXIT_CODES = {"ready": ExitCode.OK, "failed": ExitCode.FAILED, "cancelled": ExitCode.CANCELLED}


class LogView(Protocol):
    """`show` gets every event once, in order; `close` may come twice and leaves the terminal as it was."""

    def show(self, event: LogEvent) -> None: ...

    def close(self) -> None: ...


class PlainView:
    """Lines; `is_result` puts the build's own on stdout, everything else goes to stderr."""

    def __init__(self, output: Output, *, is_result: bool) -> None:
        self._output = output
        self._is_result = is_result

    def show(self, event: LogEvent) -> None:
        match event:
            case LinesEvent():
                self._output.log_lines(event.lines, is_result=self._is_result)
            case StatusEvent():
                self._output.note(f"==> {describe_status(event)}")
            case GapEvent():
                self._output.warning(describe_gap(event))
            case Interruption():
                if event.is_problem:
                    self._output.warning(describe_interruption(event))
            case EndEvent():
                pass

    def close(self) -> None:
        """Nothing to put back."""


class JsonView:
    """One JSON object a line: `event` is log, status, gap or end, the rest as the API sends it."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def show(self, event: LogEvent) -> None:
        match event:
            case LinesEvent():
                for line in event.lines:
                    self._print("log", line)
            case StatusEvent():
                self._print("status", event)
            case GapEvent():
                self._print("gap", event)
            case EndEvent():
                self._print("end", event)
            case Interruption():
                if event.is_problem:
                    self._output.warning(describe_interruption(event))

    def close(self) -> None:
        """Nothing to put back."""

    def _print(self, kind: str, value: msgspec.Struct) -> None:
        fields: dict[str, object] = msgspec.to_builtins(value)
        self._output.result({"event": kind, **fields})


def follow(follower: LogFollower, view: LogView, *, on_detach: Callable[[], None]) -> EndEvent:
    """Shows the log to its end. Ctrl-C only stops watching: `on_detach` says how to continue, then exit code 130."""
    try:
        for event in follower.events():
            view.show(event)
            if isinstance(event, EndEvent):
                return event
    except KeyboardInterrupt:
        view.close()
        on_detach()
        raise SystemExit(ExitCode.DETACHED) from None
    finally:
        view.close()
    raise AssertionError("the follower ended without an end")


def report_end(output: Output, deployment: DeploymentResource) -> None:
    """Says how a finished deployment ended, on stderr."""
    if deployment.stages:
        output.note("  ".join(describe_stages(deployment)))
    match deployment.status:
        case "ready":
            built = "" if deployment.build_time_seconds is None else f" in {deployment.build_time_seconds:.1f} s"
            output.success(f"Ready{built}.")
            if not deployment.is_active and not deployment.is_preview:
                output.warning(
                    "production serves another deployment (a newer one, or it is pinned by a rollback); "
                    f"`cloudify promote {deployment.id}` makes it this one."
                )
            for warning in deployment.warnings:
                output.warning(f"{warning[:1].lower()}{warning[1:]}")
        case "cancelled" if deployment.ignored is not None:
            output.note(f"Nothing to build: {deployment.ignored}")
        case "cancelled":
            output.warning("the deployment was cancelled.")
        case "failed":
            error = deployment.error
            if error is None:
                output.failure("Failed.")
            else:
                where = f" in {error.stage}" if error.stage else ""
                output.failure(f"Failed{where} ({error.code}): {error.message}")
        case _:
            output.note(f"The deployment is {deployment.status}.")


def describe_stages(deployment: DeploymentResource) -> list[str]:
    """One short text for the latest run of each stage, such as `build 5.1 s` or `install cached`."""
    latest = {run.stage: run for run in deployment.stages}
    described: list[str] = []
    for run in latest.values():
        if run.is_cache_hit:
            described.append(f"{run.stage} cached")
        elif run.status != "succeeded" or run.duration_seconds is None:
            described.append(f"{run.stage} {run.status}")
        else:
            described.append(f"{run.stage} {run.duration_seconds:.1f} s")
    return described


def describe_status(event: StatusEvent) -> str:
    again = f" (attempt {event.attempt})" if event.attempt is not None and event.attempt > 1 else ""
    place = f", place {event.queue_position} in the queue" if event.queue_position is not None else ""
    return f"{event.status}{again}{place}"


def describe_gap(event: GapEvent) -> str:
    if event.reason == "truncated":
        return "the log reached its size limit; the build continues, its further lines aren't kept."
    return f"entries {event.first} to {event.last} of the log are no longer kept."


def describe_interruption(event: Interruption, what: str = "log") -> str:
    return (
        f"the {what}'s connection was lost ({event.reason.rstrip('.')}); trying again in {event.pause_seconds:.1f} s."
    )
