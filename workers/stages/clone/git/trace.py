"""What git says of itself and of the programs that it starts, read from its own trace.

Its standard error also holds the words of servers and the names of files, which tenants choose, newlines included.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path

_MAXIMUM_TRACE = 4 << 20
_MAXIMUM_MESSAGES = 100
# What a server says comes as an error of git's own, after these words.
_REMOTE_PREFIX = "remote error: "
# ssh ends with the status of the server's program, so that one could be chosen.
_SSH = "transport/ssh"
# 128 + 1 is how git ends after a wrong option; 2, 3 and 13 follow from another end.
_IGNORED_SIGNALS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE})


@dataclass(frozen=True, slots=True)
class GitTrace:
    """`messages`: git's errors, without `fatal:` and without servers' words. `child_signal`: what ended a program that
    git had started, None when none was ended so."""

    messages: tuple[str, ...] = ()
    child_signal: int | None = None

    @classmethod
    def read(cls, path: Path) -> GitTrace:
        """Of a file that git wrote as GIT_TRACE2_EVENT; empty where there is no file."""
        try:
            with path.open("rb") as file:
                lines = file.read(_MAXIMUM_TRACE).splitlines()
        except FileNotFoundError:
            return cls()
        messages: list[str] = []
        child_signal: int | None = None
        over_ssh: set[tuple[object, object]] = set()
        for line in lines:
            if b'"event":"child_' not in line and b'"event":"error"' not in line:
                continue
            try:
                event = json.loads(line)
            except ValueError:
                continue
            child = (event.get("sid"), event.get("child_id"))
            match event.get("event"):
                case "error":
                    messages.append(str(event.get("msg", "")))
                case "child_start" if event.get("child_class") == _SSH:
                    over_ssh.add(child)
                case "child_exit" if child not in over_ssh:
                    child_signal = _signal_of(event.get("code")) or child_signal
                case _:
                    pass
        own = [text for text in messages if not text.startswith(_REMOTE_PREFIX)]
        return cls(tuple(own[-_MAXIMUM_MESSAGES:]), child_signal)


def _signal_of(code: object) -> int | None:
    number = code - 128 if isinstance(code, int) else 0
    return number if 0 < number < signal.NSIG and number not in _IGNORED_SIGNALS else None
