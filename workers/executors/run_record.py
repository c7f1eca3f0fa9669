"""A file about a running command, by which another worker can end it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from workers.executors.process_tree import ProcessIdentity

_FILE = "run.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """`worker` owns the run, `launcher` is bubblewrap, `init` the first process of the sandbox's pid namespace.

    The last two are None until the sandbox exists; the command starts only after they are recorded.
    """

    worker: ProcessIdentity
    launcher: ProcessIdentity | None = None
    init: ProcessIdentity | None = None

    def write(self, directory: Path) -> None:
        """Writes the file atomically."""
        unfinished = directory / f"{_FILE}.new"
        unfinished.write_bytes(msgspec.json.encode(_Stored(_BOOT_ID.read_text().strip(), self)))
        unfinished.rename(directory / _FILE)

    @classmethod
    def read(cls, directory: Path) -> RunRecord | None:
        """None if nothing was recorded since the last boot."""
        try:
            stored = msgspec.json.decode((directory / _FILE).read_bytes(), type=_Stored)
        except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
            return None
        return stored.run if stored.boot_id == _BOOT_ID.read_text().strip() else None


@dataclass(frozen=True, slots=True)
class _Stored:
    boot_id: str
    run: RunRecord
