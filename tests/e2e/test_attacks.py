"""Every attack on every executor, as deployments of one platform, together with builds that mean no harm.

Those that end by themselves come first, all at once; then those that only a time limit ends, all at once.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.attacks import ATTACKS, PAGE, Target
from tests.support.campaign import HARMLESS, Campaign
from tests.support.docker_engine import SECONDS
from tests.support.executors import LoopbackServer, control_groups, listening_on_loopback, processes_with, unique_marker
from tests.support.git_server import serving
from tests.support.running_platform import INTRANET_HOST, Platform, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(SECONDS)]


@dataclass
class Theatre:
    """`campaigns` by executor; `obstacle`: why there is none for docker."""

    campaigns: dict[str, Campaign]
    obstacle: str
    outside: Path
    canary: LoopbackServer


@contextlib.contextmanager
def _as_owner(platform: Platform, plan: str) -> Generator[None]:
    """Acts as the platform's owner, on a plan that allows several builds at once, instead of as the test's account."""
    before = platform.client.headers["Authorization"]
    token = json.loads((platform.home / "credentials.json").read_text())["token"]
    platform.client.headers["Authorization"] = f"Bearer {token}"
    try:
        with platform.plan(plan):
            yield
    finally:
        platform.client.headers["Authorization"] = before


def _ports(platform: Platform) -> Iterator[int]:
    settings = platform.child_settings()
    for name in ("DATABASE_URL", "REDIS_URL", "S3_ENDPOINT"):
        yield httpx.URL(settings[f"CLOUDIFY_{name}"]).port or 0
    yield platform.sites_port


@pytest.fixture(scope="module")
def theatre(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """Deploys everything on all executors at the same time, and returns when all has ended."""
    directory = tmp_path_factory.mktemp("attacks")
    outside = directory / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (outside / "secret").write_text("of-the-host")
    names = {"bubblewrap": ("platform", "limited_platform")}
    engine, obstacle = None, ""
    try:
        engine = request.getfixturevalue("docker_engine")
        names["docker"] = ("docker_platform", "limited_docker_platform")
    except pytest.skip.Exception as skipped:
        obstacle = str(skipped)
    with ExitStack() as stack:
        canary = stack.enter_context(listening_on_loopback())
        server = stack.enter_context(serving(directory, host=INTRANET_HOST))
        campaigns: dict[str, Campaign] = {}
        for executor, fixtures in names.items():
            content, resources = (request.getfixturevalue(name) for name in fixtures)
            stack.enter_context(_as_owner(content, "TEAM"))
            stack.enter_context(_as_owner(resources, "PRO"))
            target = Target(unique_marker(), outside, (canary.port, *_ports(content)))
            docker = engine if executor == "docker" else None
            campaigns[executor] = Campaign(executor, target, content, resources, docker)
        for executor, campaign in campaigns.items():
            campaign.launch(directory / executor, server)
        for executor, campaign in campaigns.items():
            campaign.replace_history(directory / executor / "replaced-history")
        for executor, campaign in campaigns.items():
            campaign.launch_endless(directory / executor, server)
        for campaign in campaigns.values():
            campaign.finish()
        yield Theatre(campaigns, obstacle, outside, canary)


@pytest.fixture(params=["bubblewrap", "docker"])
def campaign(request: pytest.FixtureRequest, theatre: Theatre) -> Campaign:
    if request.param not in theatre.campaigns:
        pytest.skip(theatre.obstacle)
    return theatre.campaigns[request.param]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_as_it_should(campaign: Campaign, name: str) -> None:
    attack, ended = ATTACKS[name], campaign.ended[name]
    deployment, shown = ended.deployment, ended.pages[-3000:]
    if attack.code is None:
        assert deployment["status"] == "ready", (deployment["error"], shown)
        assert (ended.page.status_code, ended.page.text.strip()) == (200, PAGE)
    else:
        assert deployment["status"] == "failed", shown
        error = deployment["error"]
        assert (error["code"], error["stage"]) == (attack.code, attack.stage), (error, shown)
        assert [word for word in attack.advice if word not in error["message"]] == [], error
        assert error["message"] in ended.pages
        assert deployment["url"] is None
        assert ended.page.status_code == 404
    # A user's failure isn't tried again.
    assert [run["status"] for run in deployment["stages"]].count("failed") == (attack.code is not None)
    assert [text for text in attack.log if text not in ended.pages] == [], shown
    assert ended.pages == ended.stream
    for text in (ended.pages, ended.pages.replace("\n", ""), json.dumps(deployment)):
        assert [word for word in ("Traceback", *attack.never) if word in text] == []


def test_other_builds_are_unharmed(campaign: Campaign) -> None:
    """One that ran all the time, and one whose commit was removed by a force-push during its build."""
    for name in HARMLESS:
        ended = campaign.ended[name]
        assert ended.deployment["status"] == "ready", (ended.deployment["error"], ended.pages)
        assert ended.page.text.strip() == f"<h1>{name} unharmed</h1>"


def test_nothing_is_left_running_or_mounted(campaign: Campaign) -> None:
    assert processes_with(campaign.target.marker) == []
    for platform in campaign.platforms:
        assert platform.build_processes() == []
        mounts = (
            Path(f"/proc/{platform.pid('worker-build')}/mountinfo").read_text()
            + Path("/proc/self/mountinfo").read_text()
        )
        assert str(platform.home) not in mounts
        runs = platform.home / "run"
        left = [path.name for name in ("executions", "containers") for path in (runs / name).glob("[!.]*")]
        assert left == []
    identifiers = list(campaign.ids.values())
    groups = [path.name for path in control_groups() if path.name.startswith("cloudify-")]
    assert [name for name in groups if any(identifier in name for identifier in identifiers)] == []
    if campaign.engine is not None:
        with campaign.engine.client() as client:
            containers = [container["Labels"] for container in client.containers(all=True)]
            assert [labels for labels in containers if labels.get("io.cloudify.deployment") in identifiers] == []
            # Theirs are overlays of directories in the platform's home.
            volumes = json.dumps(client.volumes())
            assert [platform for platform in campaign.platforms if str(platform.home) in volumes] == []

    def directories() -> list[Path]:
        places = [platform.home / "work" for platform in campaign.platforms]
        return [place / name for place in places for name in identifiers if (place / name).exists()]

    wait_for(lambda: not directories(), what="their files are gone")


def test_the_host_and_its_services_are_untouched(theatre: Theatre) -> None:
    assert theatre.canary.accepted == []
    assert [(path.name, path.read_text()) for path in theatre.outside.iterdir()] == [("secret", "of-the-host")]
    assert not Path("/dev/shm/attack-filler").exists()
    for campaign in theatre.campaigns.values():
        for platform in campaign.platforms:
            # What a dependency on a busy machine takes a second to answer counts as no answer.
            wait_for(lambda each=platform: each.client.get("/api/health/ready").status_code == 200, what="it is ready")
