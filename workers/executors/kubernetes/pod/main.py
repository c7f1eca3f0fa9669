"""`code.pyz fetch|command|pack`: the programs of a build's pod. Standard library only: the image's Python runs it.

The worker sends this code with each pod, so that the image is bound to no version of the platform.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from workers.executors.kubernetes.pod.command import run_command
from workers.executors.kubernetes.pod.ending import fail
from workers.executors.kubernetes.pod.fetch import fetch
from workers.executors.kubernetes.pod.layout import CERTIFICATES, FILES, REQUEST, STATE, TREES
from workers.executors.kubernetes.pod.pack import pack

# Of the files that builds make.
_UMASK = 0o022


def main() -> None:
    os.umask(_UMASK)
    files = Path(FILES)
    request = json.loads((files / REQUEST).read_bytes())
    if sys.argv[1] == "command":
        run_command(request)
    certificates = files / CERTIFICATES
    part = {"fetch": fetch, "pack": pack}[sys.argv[1]]
    try:
        part(request, Path(TREES), Path(STATE), certificates if certificates.exists() else None)
    except BaseException as error:  # noqa: BLE001 - the worker is told by the last words
        fail(error)
