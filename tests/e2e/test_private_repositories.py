"""A private repository, and the credentials that the command line sets for it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.git_server import serving
from tests.support.repositories import make_repository
from tests.support.running_platform import INTRANET_HOST, Platform
from tests.support.sites import BUILD, node_site

pytestmark = pytest.mark.e2e

TOKEN = "private-t0ken-that-nobody-may-see"


def credentials(platform: Platform, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [*platform.command, "credentials", *arguments],
        input=stdin,
        env=platform.environment
        | {"CLOUDIFY_API_URL": platform.api_url, "CLOUDIFY_TOKEN": platform.client.headers["Authorization"].split()[1]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout


def test_a_private_repository_is_deployed_with_the_token_that_is_set(platform: Platform, repositories: Path):
    make_repository(repositories / "site.git", node_site("private", before=f'console.log("it is {TOKEN}");'))
    with serving(repositories, host=INTRANET_HOST) as server:
        server.credentials = f"oauth2:{TOKEN}"
        project = platform.create_project("private", server.url("site.git"), **BUILD)
        refused = platform.finish(platform.create_deployment(project["id"])["id"])
        assert (refused["status"], refused["error"]["code"]) == ("failed", "REPOSITORY_AUTHENTICATION")
        assert "cloudify credentials set" in refused["error"]["message"]

        credentials(platform, "set", "--username", "oauth2", "--project", project["id"], stdin=f"{TOKEN}\n")
        shown = json.loads(credentials(platform, "show", "--json", "--project", project["id"]))
        assert (shown["kind"], shown["username"]) == ("token", "oauth2")
        deployed = platform.finish(platform.create_deployment(project["id"])["id"])
        assert deployed["status"] == "ready", deployed["error"]
        text = platform.log_text(deployed["id"])
        assert "it is ***" in text
        assert TOKEN not in text
        # Whether there is something new is asked with them as well.
        same = platform.finish(platform.create_deployment(project["id"], ifChanged=True)["id"])
        assert (same["status"], same["ignored"] is not None) == ("cancelled", True)

        # An address with credentials in it sets them too, and is kept without.
        credentials(platform, "rm", "--project", project["id"])
        address = server.url("site.git", f"oauth2:{TOKEN}")
        platform.call("PATCH", f"/api/projects/{project['id']}", {"repositoryUrl": address})
        again = platform.finish(platform.create_deployment(project["id"], clean=True)["id"])
        assert again["status"] == "ready", again["error"]
        with platform.database() as database:
            addresses = database.fetch_values(
                str, "SELECT repository_url FROM deployments UNION SELECT repository_url FROM projects"
            )
        assert not any(TOKEN in address for address in addresses)
