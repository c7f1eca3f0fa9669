"""What a command prints: results on stdout, words for the user on stderr, one JSON object with `--json`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

import click
import msgspec

from api.cli.standard_streams import give_up
from api.cli.terminal_text import neutralise
from api.client.errors import ApiError, ClientError
from schemas.deployments import LogLineResource

_WIDEST_CELL = 40
_STATUS_COLOURS = {"ready": "green", "failed": "red", "cancelled": "yellow", "queued": "bright_black"}


class Output:
    """`environment` decides about colours: none with NO_COLOR (no-color.org) or TERM=dumb, or away from a terminal."""

    def __init__(self, *, as_json: bool, environment: Mapping[str, str] = os.environ) -> None:
        self.as_json = as_json
        self.stdout_is_terminal = sys.stdout.isatty()
        self.stderr_is_terminal = sys.stderr.isatty()
        may_colour = not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
        self.stdout_has_colours = may_colour and self.stdout_is_terminal
        self.stderr_has_colours = may_colour and self.stderr_is_terminal
        # A log line that continues in the next entry, and where its beginning was printed.
        self._begun: LogLineResource | None = None
        self._begun_on: TextIO | None = None
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A terminal of another encoding shows an escape instead of ending the command.
                stream.reconfigure(errors="backslashreplace")

    def result(self, value: object) -> None:
        """One JSON line; call it only with --json."""
        encoded = msgspec.json.encode(value).decode()
        self._write(sys.stdout, encoded)

    def text(self, line: str) -> None:
        """One line of a result for people and pipes, made harmless."""
        self._write(sys.stdout, neutralise(line, keep_colours=self.stdout_has_colours))

    def log_lines(self, lines: Sequence[LogLineResource], *, is_result: bool) -> None:
        """A build's lines behind the names of their stages: on stdout as a result, else on stderr.

        A line of several entries is put together again; `end_line` when no more lines come.
        """
        if not lines:
            return
        has_colours = self.stdout_has_colours if is_result else self.stderr_has_colours
        stream = sys.stdout if is_result else sys.stderr
        if self._begun_on is not stream:
            self.end_line()
        _put(stream, format_log_lines(lines, keep_colours=has_colours, begun=self._begun))
        self._begun, self._begun_on = (lines[-1], stream) if lines[-1].continued else (None, None)

    def end_line(self) -> None:
        """Ends the line of the log that should continue but doesn't, if there is one."""
        if self._begun_on is not None:
            _put(self._begun_on, "\n")
        self._begun = self._begun_on = None

    def note(self, message: str) -> None:
        """What happens, for the user, on stderr."""
        self._message(message, None)

    def warning(self, message: str) -> None:
        self._message(f"Warning: {message}", "yellow")

    def success(self, message: str) -> None:
        self._message(message, "green")

    def failure(self, message: str) -> None:
        self._message(message, "red")

    def error(self, error: ClientError) -> None:
        """One sentence, what to do next, and the request id; with --json also the object `{"ok": false, "error"}`."""
        self.failure(f"Error: {error.message}")
        if error.advice:
            self.note(error.advice)
        if isinstance(error, ApiError):
            self._field_problems(error)
            if error.request_id is not None:
                self.note(f"Request id: {error.request_id}")
        if self.as_json:
            self.result({"ok": False, "error": error.describe()})

    def table(
        self, headings: Sequence[str], rows: Sequence[Sequence[str]], *, status_column: int | None = None
    ) -> None:
        """Aligned columns. The last one isn't padded; cells of the others are cut to 40 characters, as one long name
        would make every row wide. `--json` has them whole."""
        cells = [[neutralise(cell, keep_colours=False) for cell in row] for row in rows]
        cells = [[*(_shortened(cell) for cell in row[:-1]), row[-1]] for row in cells]
        widths = [max(len(row[column]) for row in [list(headings), *cells]) for column in range(len(headings))]
        heading = "  ".join(name.ljust(width) for name, width in zip(headings, widths, strict=True)).rstrip()
        self._write(sys.stdout, click.style(heading, bold=True) if self.stdout_has_colours else heading)
        for row in cells:
            padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            if status_column is not None and self.stdout_has_colours:
                colour = _STATUS_COLOURS.get(row[status_column], "cyan")
                padded[status_column] = click.style(padded[status_column], fg=colour)
            self._write(sys.stdout, "  ".join(padded).rstrip())

    def _field_problems(self, error: ApiError) -> None:
        fields = error.details.get("fields")
        if not isinstance(fields, list):
            return
        for problem in fields:
            if isinstance(problem, dict) and isinstance(problem.get("message"), str):
                message: str = problem["message"]
                if message not in error.message:
                    self.note(f"  {problem.get('field')}: {message}")

    def _message(self, message: str, colour: str | None) -> None:
        shown = neutralise(message, keep_colours=False)
        if colour is not None and self.stderr_has_colours:
            shown = click.style(shown, fg=colour)
        self._write(sys.stderr, shown)

    def _write(self, stream: TextIO, line: str) -> None:
        if self._begun_on is stream or (self.stdout_is_terminal and self.stderr_is_terminal):
            self.end_line()
        _put(stream, line + "\n")


def _put(stream: TextIO, text: str) -> None:
    """Raises ClientError when a result can't be written, BrokenPipeError when its reader has gone. What can't be
    written to standard error is dropped: there is nowhere else to say it."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up(stream)
        if stream is not sys.stderr:
            raise ClientError(f"The result can't be written to stdout: {error.strerror}.") from error


def _shortened(cell: str) -> str:
    return cell if len(cell) <= _WIDEST_CELL else cell[: _WIDEST_CELL - 1] + "…"


def format_log_lines(
    lines: Sequence[LogLineResource], *, keep_colours: bool, begun: LogLineResource | None = None
) -> str:
    """Harmless on a terminal, whatever the build printed. Each line ends with a line break, unless it continues.

    `begun` was printed before and continues: in the first of these lines, unless something else comes in between.
    """
    parts: list[str] = []
    for line in lines:
        text = neutralise(line.text, keep_colours=keep_colours)
        if begun is None or (begun.stage, begun.stream) != (line.stage, line.stream):
            label = neutralise(line.stage, keep_colours=False).ljust(8)
            parts += ["" if begun is None else "\n", click.style(label, dim=True) if keep_colours else label, " "]
        parts.append(text if line.continued else text + "\n")
        begun = line if line.continued else None
    return "".join(parts)
