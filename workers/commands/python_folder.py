"""Python interpreters in a folder of the operator (CLOUDIFY_PYTHON_DIRECTORY), such as those of uv or pyenv."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_NAME = re.compile(r"(?:cpython-)?(\d{1,2})\.(\d{1,3})\.(\d{1,3})(?:[+-].{0,80})?", re.ASCII)
# No build needs them; packages that the host has there are no business of a build's.
_LEFT_OUT = shutil.ignore_patterns("test", "idlelib", "turtledemo", "__pycache__", "*.a", "site-packages")


def find_interpreter(folder: Path | None, version: str) -> tuple[str, Path] | None:
    """Version and place of the newest interpreter of the same line (3.12), None where there is none."""
    wanted = tuple(int(part) for part in version.split(".")[:2])
    found: list[tuple[tuple[int, ...], Path]] = []
    for place in folder.iterdir() if folder is not None and folder.is_dir() else ():
        match = _NAME.fullmatch(place.name)
        parts = tuple(int(part) for part in match.groups()) if match else ()
        if parts[:2] == wanted and (place / f"bin/python{wanted[0]}.{wanted[1]}").is_file():
            found.append((parts, place))
    if not found:
        return None
    parts, place = max(found)
    return ".".join(str(part) for part in parts), place


def copy_interpreter(place: Path, target: Path) -> None:
    """Copies what builds need of the interpreter into the empty directory. Raises OSError."""
    shutil.copytree(place, target, symlinks=True, ignore=_LEFT_OUT, dirs_exist_ok=True)
    for library in target.glob("lib/python*"):
        (library / "site-packages").mkdir(exist_ok=True)
