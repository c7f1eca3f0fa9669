"""Real projects of every kind, from a repository to bytes served by the router."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.repositories import make_repository
from tests.support.running_platform import Platform, wait_for
from tests.support.sites import BUILD, node_site

pytestmark = pytest.mark.e2e


def test_the_vite_sample(platform: Platform, repositories: Path):
    deployment = platform.deploy("vite", make_repository(repositories / "vite", "sample"))
    assert deployment["status"] == "ready", (deployment["error"], platform.log_text(deployment["id"]))
    page = platform.get_site("vite")
    assert page.status_code == 200
    script = re.search(r'src="(/assets/[^"]+\.js)"', page.text)
    assert script, page.text
    asset = platform.get_site("vite", script[1])
    assert asset.status_code == 200
    assert "immutable" in asset.headers["cache-control"]
    assert [run["stage"] for run in deployment["stages"]] == ["clone", "install", "build", "upload", "deploy"]
    # A deep link falls back to the page; an asset that is missing never does.
    assert platform.get_site("vite", "/some/route").text == page.text
    missing = platform.get_site("vite", "/assets/gone-12345678.js")
    assert (missing.status_code, missing.headers["cache-control"]) == (404, "no-store")


def test_a_static_site(platform: Platform, repositories: Path):
    files = {"index.html": "<h1>plain</h1>", "about/index.html": "<h1>about</h1>", "404.html": "<h1>lost</h1>"}
    deployment = platform.deploy("plain", make_repository(repositories / "plain", files))
    assert deployment["status"] == "ready", deployment["error"]
    assert "plain" in platform.get_site("plain").text
    assert "about" in platform.get_site("plain", "/about/").text
    lost = platform.get_site("plain", "/nowhere")
    assert (lost.status_code, "lost" in lost.text) == (404, True)
    assert platform.get_site("plain", "/.git/config").status_code == 404


def test_an_mkdocs_site(platform: Platform, repositories: Path):
    deployment = platform.deploy("mkdocs", make_repository(repositories / "mkdocs", "mkdocs"))
    assert deployment["status"] == "ready", (deployment["error"], platform.log_text(deployment["id"]))
    page = platform.get_site("mkdocs").text
    assert "MkDocs version" in page


def test_the_second_deployment_of_a_commit_skips_what_is_known(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_site("again"))
    project = platform.create_project("again", url, **BUILD)
    first = platform.finish(platform.create_deployment(project["id"])["id"])
    second = platform.finish(platform.create_deployment(project["id"])["id"])
    assert [first["status"], second["status"]] == ["ready", "ready"]
    hits = {run["stage"]: run["isCacheHit"] for run in second["stages"]}
    assert hits["clone"]
    assert hits["build"]
    assert second["isActive"]
    clean = platform.finish(platform.create_deployment(project["id"], clean=True)["id"])
    assert not any(run["isCacheHit"] for run in clean["stages"])


def test_variables_reach_the_build_and_never_the_log(platform: Platform, repositories: Path):
    secret = "s3cr3t-value-that-nobody-may-see"
    before = 'console.log("the secret is " + process.env.MY_SECRET); console.error(process.env.MY_SECRET.slice(0));'
    after = 'fs.writeFileSync("dist/length.txt", String(process.env.MY_SECRET.length));'
    url = make_repository(repositories / "site", node_site("secrets", before=before, after=after))
    project = platform.create_project("variables", url, **BUILD)
    platform.call("PUT", f"/api/projects/{project['id']}/env/MY_SECRET", {"value": secret}, status=(200, 201, 204))
    deployment = platform.finish(platform.create_deployment(project["id"])["id"])
    assert deployment["status"] == "ready", deployment["error"]
    text = platform.log_text(deployment["id"])
    assert "the secret is " in text
    assert secret not in text
    assert platform.get_site("variables", "/length.txt").text == str(len(secret))
    with platform.database() as database:
        ciphertexts = database.fetch_values(bytes, "SELECT ciphertext FROM environment_variables")
    assert ciphertexts
    assert secret.encode() not in b"".join(ciphertexts)


def test_a_build_reaches_nothing_of_the_host(platform: Platform, repositories: Path):
    api_port = platform.api_url.rsplit(":", 1)[1]
    before = f"""
    const net = require("net");
    const targets = [["127.0.0.1", {api_port}], ["127.0.0.1", {platform.sites_port}], ["169.254.169.254", 80]];
    for (const [host, port] of targets) {{
      net.connect({{ host, port, timeout: 2000 }})
        .on("connect", () => console.log("REACHED " + host))
        .on("error", (error) => console.log("blocked " + host + " " + error.code))
        .on("timeout", function () {{ console.log("blocked " + host); this.destroy(); }});
    }}
    for (const path of ["/root", "/home", "/etc/shadow", "/var", "/proc/1/environ"]) {{
      try {{ console.log("entries", path, require("fs").readdirSync(path).join(",")); }}
      catch (error) {{ console.log("hidden", path, error.code); }}
    }}
    console.log("variables " + Object.keys(process.env).filter((name) => /URL|KEY|TOKEN|PASS/.test(name)).join(","));
    """
    url = make_repository(repositories / "site", node_site("isolated", before=before))
    deployment = platform.deploy("isolated", url, **BUILD)
    assert deployment["status"] == "ready", deployment["error"]
    text = platform.log_text(deployment["id"])
    assert "REACHED" not in text
    assert text.count("blocked") == 3
    for name in ("CLOUDIFY_DATABASE_URL", "CLOUDIFY_REDIS_URL", "CLOUDIFY_SECRET_KEY"):
        assert name not in text


def test_previews_have_hosts_of_their_own_and_are_removed(platform: Platform, repositories: Path):
    url = make_repository(repositories / "site", node_site("previewed"))
    project = platform.create_project("previewed", url, **BUILD)
    preview = platform.finish(platform.create_deployment(project["id"], isPreview=True)["id"])
    assert preview["status"] == "ready", preview["error"]
    host = re.match(r"http://([^.]+)\.", preview["url"])
    assert host
    page = platform.get_site(host[1])
    assert "previewed" in page.text
    assert page.headers["x-robots-tag"] == "noindex"
    assert platform.get_site("previewed").status_code == 404
    platform.call("DELETE", f"/api/deployments/{preview['id']}", status=(202, 204))
    wait_for(lambda: platform.get_site(host[1]).status_code == 404, what="the preview is gone")
    assert platform.client.get(f"/api/deployments/{preview['id']}").status_code == 404
