"""Memory of this container, as its control group tells it. Standard library only."""

from __future__ import annotations

from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
# The kernel charges in batches and each CPU holds a few, so a full group may peak a little below its limit.
_CHARGE_BATCH_BYTES = 4 * 1024 * 1024


class Memory:
    """Version 2 or 1 of control groups; unknown counts as nothing."""

    def __init__(self, mount: Path = _MOUNT) -> None:
        old = mount / "memory"
        is_old = (old / "memory.oom_control").exists()
        self._events = old / "memory.oom_control" if is_old else mount / "memory.events"
        self._peak = old / "memory.max_usage_in_bytes" if is_old else mount / "memory.peak"
        self._limit = old / "memory.limit_in_bytes" if is_old else mount / "memory.max"

    def was_exceeded(self) -> bool:
        """Whether the kernel ended a process of this container for want of memory."""
        try:
            lines = self._events.read_text().splitlines()
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in lines)

    def is_at_limit(self) -> bool:
        """Whether it was the container's own limit, and not the machine's memory."""
        peak, limit = self.peak_bytes(), _number(self._limit)
        return peak is None or limit is None or peak >= limit - _CHARGE_BATCH_BYTES

    def peak_bytes(self) -> int | None:
        return _number(self._peak)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
