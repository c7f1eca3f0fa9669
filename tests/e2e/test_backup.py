"""The drill of a restore: an empty platform with the backup, the keys and the objects serves the same sites."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from schemas.artifacts import Manifest
from shared.settings import ObjectStoreSettings
from shared.storage.keys import blob_key, manifest_key
from shared.storage.object_store import S3ArtifactStore
from tests.support.repositories import make_repository
from tests.support.running_platform import TIMEOUT_SECONDS, Platform, wait_for
from tests.support.sites import BUILD, HOLD, node_site

pytestmark = pytest.mark.e2e

VALUE = "read from an encrypted variable"
SITES = {"whole": "a site that is whole", "torn": "a site whose page is lost"}


@contextmanager
def platform_in(home: Path) -> Iterator[Platform]:
    platform = Platform(home, LEASE_SECONDS="8", RECONCILE_SECONDS="1")
    try:
        yield platform
    finally:
        platform.close()


def admin(platform: Platform, *arguments: str) -> subprocess.CompletedProcess[str]:
    """While nothing runs."""
    return subprocess.run(
        [*platform.command, "admin", *arguments],
        env=platform.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * TIMEOUT_SECONDS,
    )


def lose_the_page_of(platform: Platform, deployment_id: str) -> str:
    """Deletes the blob of its index.html; returns the key."""
    environment = platform.child_settings()
    settings = ObjectStoreSettings(
        **{
            name: environment[f"CLOUDIFY_S3_{name.upper()}"]
            for name in ("endpoint", "access_key", "secret_key")
        }
    )  # fmt: skip
    store = S3ArtifactStore(settings)
    with platform.database() as database:
        parameters = {"id": deployment_id}
        tenant = database.fetch_value(str, "SELECT tenant_id FROM deployments WHERE id = %(id)s", parameters)
        digest = database.fetch_value(str, "SELECT manifest_digest FROM deployments WHERE id = %(id)s", parameters)
    assert tenant
    assert digest
    manifest = msgspec.json.decode(store.get_bytes(manifest_key(tenant, digest)), type=Manifest)
    key = blob_key(tenant, manifest.files["index.html"].digest)
    store.delete(key)
    return key


def test_a_restored_platform_serves_the_same_sites(tmp_path: Path, repositories: Path):
    file = tmp_path / "platform.backup"
    former_home, new_home = tmp_path / "former", tmp_path / "new"
    with platform_in(former_home) as former:
        former.start()
        deployed = {
            name: former.deploy(name, make_repository(repositories / name, {"index.html": text}))
            for name, text in SITES.items()
        }
        url = make_repository(
            repositories / "held",
            node_site("", before=HOLD, after='fs.writeFileSync("dist/index.html", process.env.V)'),
        )
        project = former.create_project("held", url, **BUILD)
        former.call("PUT", f"/api/projects/{project['id']}/env/V", {"value": VALUE}, status=(200, 201, 204))
        held = former.create_deployment(project["id"])["id"]
        former.wait_held(held)
        account = {"email": "ada@example.com", "password": "correct horse battery"}
        session = former.call("POST", "/api/auth/register", account)
        api_token = former.client.headers["Authorization"]

        former.cloudify("admin", "backup", str(file))
        lost = lose_the_page_of(former, deployed["torn"]["id"])
        # A restore into the database of a running platform is refused, whatever is asked.
        refused = subprocess.run(
            [*former.command, "admin", "restore", "--force", str(file)], env=former.child_settings(),
            capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
        )  # fmt: skip
        assert (refused.returncode, "in use" in refused.stderr) == (1, True), refused.stderr

    # The keys, and the copy of the bucket.
    new_home.mkdir()
    shutil.copy(former_home / "secrets.json", new_home)
    shutil.copytree(former_home / "object-store", new_home / "object-store", ignore=shutil.ignore_patterns("*.sock"))
    shutil.rmtree(former_home)
    with platform_in(new_home) as new:
        restored = admin(new, "restore", str(file))
        assert restored.returncode == 0, restored.stderr
        assert f"missing {lost} (torn)" in restored.stdout
        assert "1 site of 2 can't be served whole" in restored.stderr

        new.start()
        new.client.headers["Authorization"] = api_token
        wait_for(lambda: new.get_site("whole").text == SITES["whole"], what="the site is served")
        assert new.get_site("torn").status_code != 200
        former_session = httpx.get(
            f"{new.api_url}/api/auth/me", headers={"Authorization": f"Bearer {session['accessToken']}"}, trust_env=False
        )
        assert former_session.status_code == 401
        assert new.call("POST", "/api/auth/login", account)["accessToken"]

        # What was interrupted ends as if nothing had happened.
        assert new.release_and_finish(held)["status"] == "ready"
        assert new.get_site("held").text == VALUE
        # A new deployment brings back what is lost.
        again = new.finish(new.create_deployment(deployed["torn"]["projectId"])["id"])
        assert again["status"] == "ready", again["error"]
        assert new.get_site("torn").text == SITES["torn"]
        new.cloudify("admin", "missing-objects")
    assert file.stat().st_mode & 0o777 == 0o600
