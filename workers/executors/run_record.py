"""What a run leaves on disk while it lives, so that another worker can end it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from workers.executors.process_tree import ProcessIdentity

_NAME = "run.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """`launcher` is bubblewrap on the host, `init` the first process of the sandbox's pid namespace."""

    launcher: ProcessIdentity
    init: ProcessIdentity

    def write(self, directory: Path) -> None:
        """Whole or not at all."""
        content = {"boot_id": _BOOT_ID.read_text().strip(), **asdict(self)}
        unfinished = directory / f"{_NAME}.new"
        unfinished.write_text(json.dumps(content))
        unfinished.rename(directory / _NAME)

    @classmethod
    def read(cls, directory: Path) -> RunRecord | None:
        """None when nothing was recorded, or before the last boot."""
        try:
            content = json.loads((directory / _NAME).read_text())
            if content["boot_id"] != _BOOT_ID.read_text().strip():
                return None
            return cls(ProcessIdentity(**content["launcher"]), ProcessIdentity(**content["init"]))
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
