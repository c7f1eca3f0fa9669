"""Where the Pythons that projects ask for come from."""

from __future__ import annotations

from pathlib import Path

from shared.settings.declaration import part, setting
from shared.settings.kinds import FOLDER, url


@part
class PythonSettings:
    """Interpreters besides the one that Cloudify runs with."""

    directory: Path | None = setting(
        "PYTHON_DIRECTORY",
        FOLDER,
        "Folder of Pythons for builds, one a folder by its version (`3.12.8`, `cpython-3.12.8-linux-x86_64-gnu`), for"
        " this machine's C library. Workers copy them to the object store.",
        default=None,
        default_text="",
    )
    mirror: str = setting(
        "PYTHON_MIRROR",
        url("http", "https"),
        "Mirror of the Pythons that uv fetches for projects that ask for another one than Cloudify's. A private one"
        " also needs `CLOUDIFY_EGRESS_ALLOWED_NETWORKS`.",
        default="",
        default_text="uv's own",
        is_secret=True,
    )
