"""Plans within the machine that they are run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.plans import Plan, limits_of
from shared.settings import LimitSettings, load_settings
from shared.stack.home import Home
from shared.stack.platform import assemble, largest_build_mebibytes
from tests.support.environment import ENVIRONMENT
from workers.pipeline.deployment_view import effective_limits

GIBIBYTE = 1024**3


@pytest.mark.parametrize(("machine", "mebibytes"), [(1, 512), (2, 512), (4, 1024), (8, 3072), (64, 31 * 1024)])
def test_builds_at_once_share_all_but_two_gibibytes(machine: int, mebibytes: int) -> None:
    assert largest_build_mebibytes(machine * GIBIBYTE) == mebibytes


@pytest.mark.parametrize(
    ("settings", "plan", "gibibytes"),
    [
        (LimitSettings(), Plan.ENTERPRISE, 16),
        (LimitSettings(largest_memory_bytes=3 * GIBIBYTE), Plan.ENTERPRISE, 3),
        (LimitSettings(largest_memory_bytes=3 * GIBIBYTE), Plan.FREE, 2),
        # The operator's own figure stands.
        (LimitSettings(largest_memory_bytes=3 * GIBIBYTE, memory_bytes=5 * GIBIBYTE), Plan.FREE, 5),
    ],
)
def test_a_builds_memory_is_the_plans_within_the_machines(settings: LimitSettings, plan: Plan, gibibytes: int) -> None:
    assert effective_limits(limits_of(plan), settings).memory_bytes == gibibytes * GIBIBYTE


@pytest.mark.parametrize(
    ("largest", "plan", "cpus"), [(None, Plan.ENTERPRISE, 8), (3, Plan.ENTERPRISE, 3), (3, Plan.FREE, 2)]
)
def test_a_builds_processors_are_the_plans_within_the_operators(largest: int | None, plan: Plan, cpus: int) -> None:
    assert effective_limits(limits_of(plan), LimitSettings(largest_cpu_count=largest)).cpu_count == cpus


def test_a_platform_on_one_machine_is_bounded_and_others_are_not(tmp_path: Path) -> None:
    several = load_settings({**ENVIRONMENT, "CLOUDIFY_EXECUTOR": "bubblewrap"}).limits
    assert (several.builds_at_once, several.largest_memory_bytes) == (None, None)
    home = Home(tmp_path)
    home.lock()
    try:
        one = assemble(home, {}).settings.limits
        assert (one.builds_at_once, one.memory_bytes) == (2, None)
        assert one.largest_memory_bytes is not None
        network = assemble(home, {}).settings.network
        elsewhere = load_settings({**ENVIRONMENT, "CLOUDIFY_EXECUTOR": "bubblewrap"}).network
        assert (network.build_network, network.build_network_choice) == ("filtered", True)
        assert (elsewhere.build_network, elsewhere.build_network_choice) == ("none", False)
        assert assemble(home, {"CLOUDIFY_BUILD_NETWORK": "none"}).settings.network.build_network == "none"
        assert assemble(home, {"CLOUDIFY_BUILDS_AT_ONCE": "7"}).settings.limits.builds_at_once == 7
    finally:
        home.unlock()
