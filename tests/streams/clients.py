"""The programs that follow the log, and what each of them processed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

LINE_FIELDS = ("seq", "ts", "stage", "stream", "text")
STATUS_FIELDS = ("seq", "status", "stage", "attempt")
_LINE_OF_BUILD = re.compile(r'"event": ?"log".*"stage": ?"build"')
_END = re.compile(r'"event": ?"end"')


@dataclass
class Client:
    """`file` is written by `process`, one JSON object a line; the browser's by who listens to it."""

    name: str
    file: Path
    process: subprocess.Popen[bytes]
    is_browser: bool = False
    complaints: Path | None = field(default=None)

    def text(self) -> str:
        return self.file.read_text(encoding="utf-8") if self.file.exists() else ""

    def tail(self) -> str:
        """The last 4 000 bytes."""
        if not self.file.exists():
            return ""
        with self.file.open("rb") as file:
            file.seek(max(0, self.file.stat().st_size - 4000))
            return file.read().decode(errors="replace")

    def has_line_of_build(self) -> bool:
        self.check()
        return _LINE_OF_BUILD.search(self.text()) is not None

    def is_finished(self) -> bool:
        """Whether it has processed the end. Raises AssertionError when it gave up before."""
        self.check()
        return _END.search(self.tail()) is not None and (self.is_browser or self.process.poll() is not None)

    def check(self) -> None:
        """Raises AssertionError when it failed, or ended before the log did."""
        code = self.process.poll()
        tail = self.tail()
        if '"event": "failed"' in tail:
            raise AssertionError(f"{self.name} failed: {tail[-1000:]}")
        if code is not None and (code != 0 or self.is_browser or not _END.search(tail)):
            said = "" if self.complaints is None else self.complaints.read_text(errors="replace")[-3000:]
            raise AssertionError(f"{self.name} ended with exit code {code}: {said}")


class View:
    """One client's log: `entries` in the order in which it processed them."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        # Not splitlines: lines of the log hold characters that it takes for line ends.
        records: list[dict[str, Any]] = [json.loads(record) for record in text.split("\n") if record]
        self.connections = sum(record["event"] == "connected" for record in records)
        self.entries = [record for record in records if record["event"] != "connected"]

    @cached_property
    def lines(self) -> list[tuple[Any, ...]]:
        return _fields(self.entries, "log", LINE_FIELDS)

    @cached_property
    def statuses(self) -> list[tuple[Any, ...]]:
        return _fields(self.entries, "status", STATUS_FIELDS)

    def check_sequence(self) -> None:
        """Every entry once, in order, none missing, and the end as the last one."""
        kinds = {entry["event"] for entry in self.entries}
        assert kinds == {"log", "status", "end"}, f"{self.name}: {kinds}"
        for index, entry in enumerate(self.entries):
            assert entry["seq"] == index + 1, f"{self.name}: entry {index + 1} is {entry}"
        assert self.entries[-1]["event"] == "end", f"{self.name}: {self.entries[-1]}"


def _fields(entries: Sequence[dict[str, Any]], kind: str, names: Sequence[str]) -> list[tuple[Any, ...]]:
    return [tuple(entry.get(name) for name in names) for entry in entries if entry["event"] == kind]


def runs_of(lines: Sequence[tuple[Any, ...]]) -> dict[str, list[int]]:
    """The numbers that each run of the counting build printed, by run, in the order of the log."""
    runs: dict[str, list[int]] = {}
    for _seq, _ts, stage, stream, text in lines:
        if stage == "build" and stream == "stdout":
            run, number, _rest = text.split(" ", 2)
            runs.setdefault(run, []).append(int(number))
    return runs
