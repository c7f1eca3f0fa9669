"""`python -m api.cli.sample HOME`: deploys the sample site to the platform of that folder, unless it is live.

Prints what `cloudify deploy` prints, and the site's address.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

from api.client.errors import ApiError, ClientError
from api.client.http import ApiClient

_SLUG = "sample"


def make_repository(directory: Path) -> str:
    """A git repository with the sample and one commit, made once; returns the commit at its head.

    What a person commits there later is kept, and deployed at the next start.
    """
    if not directory.exists():
        partial = directory.with_name(f"{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with resources.as_file(resources.files("shared.stack") / "sample_site") as sample:
            shutil.copytree(sample, partial, ignore=shutil.ignore_patterns("node_modules", "dist", "__pycache__"))
        _git(partial, "init", "--quiet", "--initial-branch=main")
        _git(partial, "add", "--all")
        _git(partial, "commit", "--quiet", "--message=Add the sample site")
        partial.rename(directory)
    return _git(directory, "rev-parse", "HEAD").strip()


def live_address(client: ApiClient, commit: str) -> str | None:
    """Where the commit of the sample is live; None when it isn't."""
    try:
        project = client.project_by_slug(_SLUG)
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    for deployment in client.deployments(project.id, limit=20):
        if deployment.is_active and deployment.status == "ready" and deployment.commit_sha == commit:
            return deployment.url
    return None


def main(arguments: list[str]) -> int:
    home = Path(arguments[0])
    repository = home / "sample"
    try:
        credentials = json.loads((home / "credentials.json").read_bytes())
        commit = make_repository(repository)
        with ApiClient(credentials["apiUrl"], credentials["token"]) as client:
            address = live_address(client, commit)
    except (ClientError, OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"The sample site can't be deployed: {error}", file=sys.stderr)
        return 1
    if address is not None:
        print(f"The sample site is live at {address}")
        return 0
    os.environ |= {"CLOUDIFY_API_URL": credentials["apiUrl"], "CLOUDIFY_TOKEN": credentials["token"]}
    from api.cli.main import cli

    cli.main(["deploy", str(repository), "--local", "--yes", "--name", _SLUG], prog_name="cloudify")
    return 0


def _git(directory: Path, *arguments: str) -> str:
    identity = {
        "GIT_AUTHOR_NAME": "Cloudify",
        "GIT_AUTHOR_EMAIL": "sample@localhost",
        "GIT_COMMITTER_NAME": "Cloudify",
        "GIT_COMMITTER_EMAIL": "sample@localhost",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }
    return subprocess.run(
        ["git", *arguments],
        cwd=directory,
        env={**os.environ, **identity},
        check=True,
        capture_output=True,
        encoding="utf-8",
    ).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
