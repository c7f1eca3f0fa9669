"""How the containers of a build's pod end: exit codes, and the last words of `fetch` and `pack`. Standard library only.

The command's own container can be given any exit code by the command, so its last log line counts; the codes below are
for a log that is lost. `fetch` and `pack` run nothing of the project, so their termination message counts.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NoReturn

# Of the command's container. 137 is left to the kernel: a container that ends with it was killed from outside.
COMMAND_KILLED, STOPPED_BY_TIME, STOPPED_BY_DISK, STOPPED_BY_MEMORY = 165, 166, 167, 168

# Reasons of `fetch` and `pack`.
NETWORK_OPEN = "network_open"
STORE_OPEN = "store_open"
STORE_AWAY = "store_away"
LINK_REFUSED = "link_refused"
TREE_DAMAGED = "tree_damaged"
OUTPUT_REJECTED = "output_rejected"
OUTPUT_TOO_LARGE = "output_too_large"
BROKEN = "broken"

# Kubernetes keeps 4096 bytes of a termination message.
_MESSAGE_CHARACTERS = 1500
_MESSAGE_FILE = Path("/dev/termination-log")
_FAILED = 3


class PodFailure(Exception):
    """`reason` is one of the constants above; the message is for people."""

    def __init__(self, reason: str, message: str, digest: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.digest = digest


def fail(error: BaseException) -> NoReturn:
    """Writes the last words and ends the process."""
    if isinstance(error, PodFailure):
        words = {"reason": error.reason, "message": str(error)[:_MESSAGE_CHARACTERS], "digest": error.digest}
    else:
        words = {"reason": BROKEN, "message": f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS], "digest": ""}
    sys.stderr.write(f"{words['message']}\n")
    sys.stderr.flush()
    try:
        _MESSAGE_FILE.write_text(json.dumps(words))
    finally:
        os._exit(_FAILED)
