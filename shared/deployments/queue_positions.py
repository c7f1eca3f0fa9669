"""Positions of deployments in the queue."""

from __future__ import annotations

from collections.abc import Sequence

from shared.deployments.jobs import stage_job_id
from shared.deployments.state import Stage
from shared.queue.base import JobQueue


class QueuePositions:
    """Safe from any thread."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def __call__(self, deployment_ids: Sequence[str]) -> dict[str, int]:
        """Returns positions by deployment. 1 is the next of its account; deployments that don't wait are missing.

        Raises Unavailable.
        """
        places: dict[str, int] = {}
        for deployment_id in deployment_ids:
            position = self._find(deployment_id)
            if position is not None:
                places[deployment_id] = position
        return places

    def _find(self, deployment_id: str) -> int | None:
        # Any stage may be the waiting one. The queue has at most one job of a deployment at a time.
        for stage in Stage:
            found = self._queue.explain(stage_job_id(deployment_id, stage))
            if found is not None:
                return found.position
        return None
