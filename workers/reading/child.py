"""The child's side: bounds itself, answers one question about a tree, and ends.

It imports little, so that it starts fast. Standard input holds two lines of JSON: the limits, which hold before more is
read, and the request `{"function": …, "tree": …, "arguments": …, "progress": descriptor, "parent": pid}`. What grows
with the tree is no part of it but in a file. The answer is JSON on standard output: `{"reading": …}` or
`{"failure": {"code": …, "message": …}}`. The exit status is 0 for either, OUT_OF_MEMORY when memory ran out, and 1 with
a traceback in place of an answer for a mistake of the platform's.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shared.errors import FailureCode, StageFailure
from shared.text.storable import storable

OUT_OF_MEMORY = 97
# What the parent can be told about the file that is read.
PROGRESS_BYTES = 1024
_MAXIMUM_MESSAGE = 2000
# A walk holds one for each directory on its way down.
_OPEN_FILES = 1024

_OnRead = Callable[[str], None]


def main() -> None:
    _bound(json.loads(sys.stdin.buffer.readline()))
    request: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    # The parent may have died before its death signal was set up.
    if os.getppid() != request["parent"]:
        os._exit(1)
    progress = mmap.mmap(request["progress"], PROGRESS_BYTES)

    def on_read(path: str) -> None:
        told = path.encode("utf-8", "replace")[: PROGRESS_BYTES - 1] + b"\0"
        progress[: len(told)] = told

    try:
        function = _FUNCTIONS[request["function"]]
        answer = _encode(_answer(function, Path(request["tree"]), request["arguments"], on_read))
    except MemoryError:
        # Without any clean-up, which might want memory as well.
        os._exit(OUT_OF_MEMORY)
    while answer:
        answer = answer[os.write(1, answer) :]


def _bound(limits: Mapping[str, int]) -> None:
    """Limits of this process, which reads trees, writes no files and starts nothing."""
    cpu = limits["cpu_seconds"]
    for kind, soft, hard in (
        # The signal of the soft limit ends the process, and says why.
        (resource.RLIMIT_CPU, cpu, cpu + 5),
        (resource.RLIMIT_AS, limits["memory_bytes"], limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NPROC, 0, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
    ):
        most = resource.getrlimit(kind)[1]
        # A limit that the worker itself has may be lower.
        values = (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))
        resource.setrlimit(kind, values)


def _answer(
    function: Callable[[Path, Any, _OnRead], Any], tree: Path, arguments: Any, on_read: _OnRead
) -> dict[str, Any]:
    last = ""

    def note(path: str) -> None:
        nonlocal last
        last = path
        on_read(path)

    try:
        return {"reading": function(tree, arguments, note)}
    except StageFailure as failure:
        code, message = failure.code, failure.message
    except RecursionError:
        code = FailureCode.CONFIGURATION_INVALID
        message = f"{last or 'A file'} nests values too deeply to be read. Flatten them and push again."
    return {"failure": {"code": code, "message": message[:_MAXIMUM_MESSAGE]}}


def _encode(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(_storable(answer)).encode()


def _storable(value: Any) -> Any:
    """The value in JSON's own kinds, with `storable` strings in it: a name in a tree may be any bytes.

    A caller that needs a name's exact bytes refuses such names before, or refers to them by their index.
    """
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(name): _storable(member) for name, member in value.items()}
    if dataclasses.is_dataclass(value):
        return {field.name: _storable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


def _project(tree: Path, arguments: Any, on_read: _OnRead) -> Any:
    from workers.frameworks.detection import Overrides
    from workers.reading.project import ProjectQuestion, read_project

    question = ProjectQuestion(**arguments | {"overrides": Overrides(**arguments["overrides"])})
    return read_project(tree, question, on_read)


def _lfs_pointers(tree: Path, arguments: Any, on_read: _OnRead) -> Any:
    from workers.reading.lfs_pointers import read_pointers

    with os.fdopen(arguments["names"], "rb") as names:
        return read_pointers(tree, names, on_read)


def _output(tree: Path, arguments: Any, on_read: _OnRead) -> Any:
    from workers.artifacts.first_page import read_first_page
    from workers.artifacts.output_tree import OutputLimits, scan_output

    files = scan_output(tree, OutputLimits(**arguments), on_read)
    page = read_first_page(tree, {path: source for path, source, _ in files}, on_read)
    return {"files": files, "first_page": page}


_FUNCTIONS: Mapping[str, Callable[[Path, Any, _OnRead], Any]] = {
    "project": _project,
    "lfs_pointers": _lfs_pointers,
    "output": _output,
}
