"""Plans and their limits. Sizes are in bytes, times in seconds."""

from __future__ import annotations

import enum
from dataclasses import dataclass

_MEBIBYTE = 1024 * 1024
_GIBIBYTE = 1024 * _MEBIBYTE


class Plan(enum.StrEnum):
    FREE = "FREE"
    PRO = "PRO"
    TEAM = "TEAM"
    ENTERPRISE = "ENTERPRISE"


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """`weight` is the tenant's share in fair dispatch.

    `disk_entries`: files, directories and links of a build. Some projects' dependencies have 300 000.
    """

    concurrent_builds: int
    weight: int
    maximum_queued: int
    maximum_projects: int
    memory_bytes: int
    cpu_count: float
    process_count: int
    disk_bytes: int
    stage_timeout_seconds: int
    disk_entries: int


LIMITS: dict[Plan, PlanLimits] = {
    Plan.FREE: PlanLimits(1, 1, 100, 50, 2 * _GIBIBYTE, 2, 512, 4 * _GIBIBYTE, 900, 500_000),
    Plan.PRO: PlanLimits(3, 2, 500, 500, 4 * _GIBIBYTE, 2, 512, 8 * _GIBIBYTE, 1800, 1_000_000),
    Plan.TEAM: PlanLimits(6, 4, 2000, 2000, 8 * _GIBIBYTE, 4, 1024, 16 * _GIBIBYTE, 1800, 2_000_000),
    Plan.ENTERPRISE: PlanLimits(20, 8, 10000, 10000, 16 * _GIBIBYTE, 8, 2048, 32 * _GIBIBYTE, 3600, 4_000_000),
}


def limits_of(plan: Plan) -> PlanLimits:
    return LIMITS[plan]


def slots_within(limit: int, builds_at_once: int | None) -> int:
    """Returns the number of builds that a tenant may run at once: the plan's `limit`, capped by this installation's own
    (None: no cap). Both the queue and the database enforce it."""
    return limit if builds_at_once is None else min(limit, builds_at_once)
