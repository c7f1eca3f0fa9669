"""The queue as the platform's administrators see it."""

from __future__ import annotations

from datetime import datetime

from schemas.base import Resource


class QueueResource(Resource):
    """One pool. `depth`: jobs in line; `oldest_age_seconds`: how long the first of them has waited, 0 when none does.

    `waiting_for_slot`: those in line whose tenant has no free slot; `workers`: live processes, with their threads.
    """

    pool: str
    depth: int
    running: int
    delayed: int
    dead: int
    waiting_for_slot: int
    oldest_age_seconds: float
    is_paused: bool
    workers: int
    threads: int
    busy_threads: int


class DeadJobResource(Resource):
    """A job whose attempts are used up. `deployment_id` is None for jobs that belong to no deployment."""

    id: str
    pool: str
    tenant_id: str
    deployment_id: str | None
    attempts: int
    reason: str
    died_at: datetime


class JobPlace(Resource):
    """Where a job is after a command: ready, running, dropped."""

    id: str
    state: str


class ProcessResource(Resource):
    """A process of the platform. `pool`: what it serves, or its role: api, exporter, reconciler, router.

    `state`: running, draining, paused; for a router also not ready or silent. `reason`: why it isn't running, or what
    else an operator should know. `threads`: how much it does at once, 0 for a router.
    """

    id: str
    pool: str
    host: str
    version: str
    state: str
    reason: str | None
    threads: int
    busy_threads: int
    seen_at: datetime
