"""Real git repositories for the tests, the same commits on every machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITES = ROOT / "tests" / "fixtures" / "sites"
SAMPLE_SITE = ROOT / "shared" / "stack" / "sample_site"

_DATE = "2025-01-01T00:00:00+00:00"
_ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "Cloudify Tests",
    "GIT_AUTHOR_EMAIL": "tests@example.invalid",
    "GIT_AUTHOR_DATE": _DATE,
    "GIT_COMMITTER_NAME": "Cloudify Tests",
    "GIT_COMMITTER_EMAIL": "tests@example.invalid",
    "GIT_COMMITTER_DATE": _DATE,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C",
}


def write_site(directory: Path, site: Mapping[str, str | bytes] | str) -> None:
    """Files by path, or the name of a fixture below fixtures/sites; "sample" is the sample site."""
    if isinstance(site, str):
        source = SAMPLE_SITE if site == "sample" else SITES / site
        shutil.copytree(source, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules", "dist"))
        return
    for name, content in site.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def make_repository(directory: Path, site: Mapping[str, str | bytes] | str, *, branch: str = "main") -> str:
    """Makes `directory` a repository with one commit of the site; returns its file:// URL."""
    directory.mkdir(parents=True, exist_ok=True)
    git(directory, "init", "--quiet", f"--initial-branch={branch}")
    # A worker fetches single commits by their SHA.
    git(directory, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(directory, "config", "uploadpack.allowFilter", "true")
    commit(directory, site, "Add the site")
    return directory.absolute().as_uri()


def commit(directory: Path, site: Mapping[str, str | bytes] | str, message: str = "Change the site") -> str:
    """Writes the files over what is there and commits all; returns the commit's SHA."""
    write_site(directory, site)
    git(directory, "add", "--all", "--force")
    git(directory, "commit", "--quiet", "--allow-empty", "--no-gpg-sign", "-m", message)
    return git(directory, "rev-parse", "HEAD")


def git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=directory, env=_ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise AssertionError(f"git {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()
