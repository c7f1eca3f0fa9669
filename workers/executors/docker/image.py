"""`python -m workers.executors.docker.image <root>`: lays the toolchain out below <root> as a sandbox shows it.

Run while the builder image is made. The image then has the toolchain at the places where the bubblewrap sandbox
binds it, so a command can't tell the executors apart. TOOLCHAIN_FILE describes it; `toolchain_of` reads that file.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from shared.errors import PlatformError
from workers.executors.layout import SHIM_TARGET
from workers.executors.toolchain import Toolchain

TOOLCHAIN_FILE = "/opt/toolchain.json"


def write_toolchain(toolchain: Toolchain, root: Path) -> None:
    """Copies the toolchain's files and scripts to their places below `root`."""
    for bind in toolchain.binds:
        target = root / bind.target.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if bind.source.is_dir():
            shutil.copytree(bind.source, target, symlinks=True)
        else:
            shutil.copy2(bind.source, target)
    scripts = root / SHIM_TARGET.lstrip("/")
    scripts.mkdir(parents=True)
    for name, text in toolchain.shims.items():
        (scripts / name).write_text(text)
        (scripts / name).chmod(0o755)
    facts = dataclasses.asdict(dataclasses.replace(toolchain, binds=(), shims={}))
    (root / TOOLCHAIN_FILE.lstrip("/")).write_text(json.dumps(facts))


def toolchain_of(text: str) -> Toolchain:
    """Parses an image's toolchain file. Raises PlatformError if it is malformed."""
    try:
        facts: dict[str, Any] = json.loads(text)
        facts |= {"binds": (), "shims": {}}
        return Toolchain(**facts)
    except (ValueError, TypeError) as error:
        raise PlatformError(f"{TOOLCHAIN_FILE} of the builder image can't be read ({error}).") from error


if __name__ == "__main__":
    write_toolchain(Toolchain.discover(), Path(sys.argv[1]))
