"""Debian's Chromium for tests: the one on PATH, else installed once with apt where that is allowed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

# Another apt on this machine is waited for.
_APT = ("apt-get", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3", "--quiet=2")
_INSTALL_SECONDS = 600


class ChromiumMissing(Exception):
    """Its text says why there is none and what to do."""


def chromium() -> Path:
    """The program. Installs the package `chromium` when there is none and this is root on Debian; takes a minute."""
    found = shutil.which("chromium")
    if found is None:
        _install()
        found = shutil.which("chromium")
    if found is None:
        raise ChromiumMissing("The package chromium is installed, but no program of that name is on PATH.")
    return Path(found)


def _install() -> None:
    if shutil.which("apt-get") is None:
        raise ChromiumMissing("No chromium is on PATH and there is no apt-get to install it; install it yourself.")
    if os.geteuid() != 0:
        raise ChromiumMissing("No chromium is on PATH; run `sudo apt-get install chromium`.")
    started = time.monotonic()
    _apt("update")
    _apt("install", "--yes", "--no-install-recommends", "chromium")
    print(f"installed chromium in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _apt(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(
            [*_APT, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ChromiumMissing(f"apt-get {arguments[0]} took longer than {_INSTALL_SECONDS} s.") from error
    except subprocess.CalledProcessError as error:
        raise ChromiumMissing(f"apt-get {arguments[0]} failed: {error.stdout[-1000:]}") from error


@contextlib.contextmanager
def browsing(program: Path, url: str, directory: Path) -> Generator[subprocess.Popen[bytes]]:
    """A headless browser of its own that shows the page; what it says goes to `directory`/chromium.log."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), *_arguments(directory / "profile"), url],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # It keeps settings and caches below HOME, and a group of its own can be ended as a whole.
            env={**os.environ, "HOME": str(directory)},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end_group(process)


def _arguments(profile: Path) -> Sequence[str]:
    return (
        "--headless=new",
        # Root may not use its sandbox, and containers have a small /dev/shm.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        # A page that nobody looks at must not be slowed.
        "--disable-background-timer-throttling",
        "--disable-renderer-backgrounding",
        "--no-proxy-server",
        "--enable-logging=stderr",
        f"--user-data-dir={profile}",
    )


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue
    # Children that outlived the first one.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
