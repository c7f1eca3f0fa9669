"""Overrides of the plans' limits on this installation."""

from __future__ import annotations

from shared.settings.declaration import part, setting
from shared.settings.kinds import integer, mebibytes

_OF_PLAN = "the plan's"


@part
class LimitSettings:
    """Limits of a stage and of an account's builds, in place of the plan's."""

    # None: the plan's limit holds.

    memory_bytes: int | None = setting(
        "BUILD_MEMORY_MB", mebibytes(64), "Memory of one stage in MiB.", default=None, default_text=_OF_PLAN
    )
    largest_memory_bytes: int | None = setting(
        "LARGEST_BUILD_MEMORY_MB",
        mebibytes(64),
        "Upper bound in MiB of the memory that plans give a stage. `cloudify up` sets an equal share of all but 2 GiB.",
        default=None,
        default_text="no bound",
    )
    largest_cpu_count: int | None = setting(
        "LARGEST_BUILD_CPUS",
        integer(1, 1024),
        "Most processors that plans give a stage. A node of Kubernetes must have the requested part free.",
        default=None,
        default_text="no bound",
    )
    builds_at_once: int | None = setting(
        "BUILDS_AT_ONCE",
        integer(1),
        "Upper bound of the builds at once that plans give an account. `cloudify up` sets the threads of the build"
        " pool, 2.",
        default=None,
        default_text="no bound",
    )
    disk_bytes: int | None = setting(
        "BUILD_DISK_MB", mebibytes(16), "Disk space of one stage in MiB.", default=None, default_text=_OF_PLAN
    )
    disk_entries: int | None = setting(
        "BUILD_DISK_FILES",
        integer(1000),
        "Files and directories that one stage may create.",
        default=None,
        default_text=_OF_PLAN,
    )
    stage_timeout_seconds: int | None = setting(
        "STAGE_TIMEOUT_SECONDS", integer(1), "Time in seconds of one stage.", default=None, default_text=_OF_PLAN
    )
    output_bytes: int = setting(
        "BUILD_OUTPUT_MB",
        mebibytes(1, 10_000),
        "Output in MiB that one command may print.",
        default=200 * 1024 * 1024,
    )
