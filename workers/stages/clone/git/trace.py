"""Reads git's own errors, and how its child processes ended, from its trace.

Its standard error isn't reliable: it also contains text of servers and file names, which tenants choose, newlines
included.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path

_MAXIMUM_TRACE = 4 << 20
_MAXIMUM_MESSAGES = 100
# git reports a server's message as its own error, with this prefix.
_REMOTE_PREFIX = "remote error: "
# ssh exits with the status of the server's program, which the server can choose.
_SSH = "transport/ssh"
# git exits with 128 + 1 after an invalid option; signals 2, 3 and 13 follow from the end of another process.
_IGNORED_SIGNALS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE})


@dataclass(frozen=True, slots=True)
class GitTrace:
    """`messages`: git's errors, without `fatal:` and without servers' messages. `child_signal`: the signal that ended
    one of git's child processes, or None."""

    messages: tuple[str, ...] = ()
    child_signal: int | None = None

    @classmethod
    def read(cls, path: Path) -> GitTrace:
        """Reads a file that git wrote as GIT_TRACE2_EVENT; the result is empty if there is no file."""
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
