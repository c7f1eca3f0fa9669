"""All tests as two runs of pytest at once: `python -m tests.side_by_side`, arguments of pytest may follow.

Most tests wait for servers and builds, so two of them together take little longer than one. Each run has servers, ports
and directories of its own, and only one of them uses Docker. What they say while they run appears line by line; what
each says at its end, one after the other; the last line counts both together.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

_APART = ("tests/contract", "tests/e2e", "tests/chaos", "tests/streams")
_RUNS = (_APART, ("tests", *(f"--ignore={path}" for path in _APART)))
_SECTION = re.compile(r"=+ (?!test session starts)\S.*=+$")
_COUNT = re.compile(r"(\d+) (\w+)")
# As pytest exits: tests failed, it was interrupted, and so on; nothing was selected.
_NO_TESTS = 5


class Run:
    """A pytest whose output is shown until its first closing section; `closing` is the rest."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.closing: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if self.closing or _SECTION.match(line):
                self.closing.append(line)
            else:
                sys.stdout.write(line)
                sys.stdout.flush()

    def interrupt(self) -> None:
        """It stops its servers, and says what it has found."""
        self._process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """The exit code."""
        code = self._process.wait()
        self._reader.join()
        return code

    def counts(self) -> Counter[str]:
        """Outcome → number of tests, of the last line."""
        last = self.closing[-1] if self.closing else ""
        return Counter({name: int(number) for number, name in _COUNT.findall(last.partition(" in ")[0])})


def main(arguments: Sequence[str]) -> int:
    started = time.monotonic()
    runs = [Run([*arguments, *paths]) for paths in _RUNS]

    def interrupt(_number: int, _frame: object) -> None:
        for run in runs:
            run.interrupt()

    # Ctrl-C in a terminal reaches them as well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupt)
    codes = [run.wait() for run in runs]
    for run in runs:
        sys.stdout.write("".join(run.closing))
    counts = sum((run.counts() for run in runs), Counter[str]())
    seconds = time.monotonic() - started
    first = sorted(counts, key=lambda name: name not in ("failed", "error", "errors"))
    outcomes = ", ".join(f"{counts[name]} {name}" for name in first)
    for run, code in zip(runs, codes, strict=True):
        if not run.counts():
            print(f"One of the two ended without a count, with exit code {code}.")
    # As pytest closes a single run.
    print(f" {outcomes} in {seconds:.2f}s ({timedelta(seconds=int(seconds))}) ".center(80, "="), flush=True)
    failures = [code for code in codes if code not in (0, _NO_TESTS)]
    if failures or all(code == _NO_TESTS for code in codes):
        return max(codes, key=abs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
