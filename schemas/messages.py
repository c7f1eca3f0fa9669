"""What travels through the queue, between processes of possibly different versions.

A new field with a default needs nothing: workers of the version before ignore it, and the queue keeps the whole message
whatever they do with the job. A change that they would misunderstand raises MESSAGE_VERSION in the messages concerned;
they leave such a job to newer workers.
"""

from __future__ import annotations

import msgspec

# The newest version of a message that this code understands.
MESSAGE_VERSION = 1


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One unit of work for one pool.

    `id` makes enqueueing idempotent: a second job with the id of a waiting or running one changes nothing.
    `slot` is the member that occupies the tenant's running set while the job and its successors live (the
    deployment's id), or None for work that never waits behind builds. `priority` is 0 (most urgent) to 9.
    `tenant_limit` (concurrent slots) and `tenant_weight` (fair share) are the plan's at enqueue time; the latest win.
    `enqueued_at_ms` keeps the place in the line when a job is put back; None means now, by the queue's clock.
    """

    id: str
    pool: str
    actor: str
    tenant_id: str
    payload: dict[str, str | int | bool | None]
    slot: str | None = None
    priority: int = 5
    tenant_limit: int = 1
    tenant_weight: int = 1
    max_attempts: int = 5
    enqueued_at_ms: int | None = None
    traceparent: str | None = None
    version: int = 1


STAGE_ACTOR = "run_stage"
RELEASE_ACTOR = "run_release"
CLEANUP_ACTOR = "run_cleanup"
