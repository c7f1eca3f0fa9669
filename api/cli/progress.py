"""The stages of a running deployment with a spinner, under its log. Only for a terminal; imports rich."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from api.cli.log_views import describe_gap, describe_interruption
from api.cli.output import Output, format_log_lines
from api.client.event_stream import Interruption
from api.client.log_stream import GapEvent, LinesEvent, LogEvent, StatusEvent
from shared.deployments.state import STAGES, Stage

_STAGE_OF_STATUS = {traits.status.value: stage for stage, traits in STAGES.items()}


class ProgressView:
    """Draws on stderr from its making until `close`; leaves only the log's lines behind."""

    def __init__(self, output: Output) -> None:
        self._keep_colours = output.stderr_has_colours
        self._console = Console(stderr=True, highlight=False, no_color=not self._keep_colours)
        self._entered_at: dict[Stage, float] = {}
        self._current: Stage | None = None
        self._note = "queued"
        self._spinner = Spinner("dots")
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def show(self, event: LogEvent) -> None:
        match event:
            case LinesEvent():
                text = format_log_lines(event.lines, keep_colours=self._keep_colours)
                # The live display begins on a line of its own, so a line that continues is broken between two events.
                self._console.print(Text.from_ansi(text.removesuffix("\n")), soft_wrap=True)
            case StatusEvent():
                self._enter(event)
            case GapEvent():
                self._console.print(Text(f"Warning: {describe_gap(event)}"), soft_wrap=True)
            case Interruption():
                self._note = describe_interruption(event) if event.is_problem else self._note
            case _:
                pass

    def close(self) -> None:
        self._live.stop()

    def _enter(self, event: StatusEvent) -> None:
        again = f"attempt {event.attempt}" if event.attempt is not None and event.attempt > 1 else ""
        stage = _STAGE_OF_STATUS.get(event.status)
        if stage is None:
            place = "" if event.queue_position is None else f", place {event.queue_position}"
            self._note = event.status + place
            return
        self._note = again
        if stage is not self._current:
            self._current = stage
            self._entered_at[stage] = time.monotonic()

    def _render(self) -> Table:
        table = Table.grid(padding=(0, 1))
        stages = list(Stage)
        reached = -1 if self._current is None else stages.index(self._current)
        if self._current is None:
            table.add_row(self._spinner, Text(self._note))
        for index, stage in enumerate(stages):
            if index < reached:
                table.add_row(Text("✓", style="green"), Text(stage.value), Text(self._duration(stage), style="dim"))
            elif index == reached:
                table.add_row(
                    self._spinner, Text(stage.value, style="bold"), Text(self._duration(stage)), Text(self._note)
                )
            else:
                table.add_row(Text("·", style="dim"), Text(stage.value, style="dim"))
        return table

    def _duration(self, stage: Stage) -> str:
        """Until the next stage began, or now. Empty for a stage that was skipped over."""
        begin = self._entered_at.get(stage)
        if begin is None:
            return ""
        later = [moment for moment in self._entered_at.values() if moment > begin]
        return f"{min(later, default=time.monotonic()) - begin:.1f} s"
