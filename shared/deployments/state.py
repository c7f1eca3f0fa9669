"""The state machine of deployments. Pure: no clock, no database.

    queued → cloning → installing → building → uploading → deploying → ready
       └────────┴──────────┴───────────┴──────────┴───────────┴──→ failed | cancelled

A stage that is delivered again re-enters its state. No transition leads backwards.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class DeploymentStatus(enum.StrEnum):
    QUEUED = "queued"
    CLONING = "cloning"
    INSTALLING = "installing"
    BUILDING = "building"
    UPLOADING = "uploading"
    DEPLOYING = "deploying"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Stage(enum.StrEnum):
    """The stages of the deployment pipeline, in order."""

    CLONE = "clone"
    INSTALL = "install"
    BUILD = "build"
    UPLOAD = "upload"
    DEPLOY = "deploy"


class Pool(enum.StrEnum):
    """Worker pools. Each has one queue, one process group and one Kubernetes Deployment."""

    CLONE = "clone"
    INSTALL = "install"
    BUILD = "build"
    UPLOAD = "upload"
    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    PREVIEW_CLEANUP = "preview-cleanup"


class SiteRuntime(enum.StrEnum):
    """What serves a site."""

    FILES = "files"  # the routers, from their disks
    PODS = "pods"  # pods of its own in the cluster, behind the routers


class SiteState(enum.StrEnum):
    """The state of a deployment's published site. A site that is being removed never returns."""

    NONE = "none"
    PUBLISHED = "published"
    REMOVING = "removing"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class StageTraits:
    """What the whole platform knows about a stage; its workers' part is the table in `workers/pipeline/table.py`.

    `status` is the deployment's while the stage runs, `threads` the number of jobs at once in one worker process.
    `takes_variables`: a project's variables may be set for its commands.
    """

    status: DeploymentStatus
    threads: int
    takes_variables: bool = False


STAGES: dict[Stage, StageTraits] = {
    Stage.CLONE: StageTraits(DeploymentStatus.CLONING, threads=4),
    Stage.INSTALL: StageTraits(DeploymentStatus.INSTALLING, threads=2, takes_variables=True),
    Stage.BUILD: StageTraits(DeploymentStatus.BUILDING, threads=2, takes_variables=True),
    Stage.UPLOAD: StageTraits(DeploymentStatus.UPLOADING, threads=2),
    Stage.DEPLOY: StageTraits(DeploymentStatus.DEPLOYING, threads=4),
}
FIRST_STAGE, *_, LAST_STAGE = STAGES

# The number of jobs at once in one worker process.
DEFAULT_THREADS: dict[Pool, int] = {
    **{Pool(stage.value): traits.threads for stage, traits in STAGES.items()},
    Pool.ROLLBACK: 4,
    Pool.PREVIEW_CLEANUP: 2,
}

FINISHED = frozenset({DeploymentStatus.READY, DeploymentStatus.FAILED, DeploymentStatus.CANCELLED})

_ORDER = [DeploymentStatus.QUEUED, *(traits.status for traits in STAGES.values()), DeploymentStatus.READY]

# States can be skipped, because a stage with a recorded output doesn't run.
_SUCCESSORS: dict[DeploymentStatus, frozenset[DeploymentStatus]] = {
    status: frozenset(_ORDER[index:]) | {DeploymentStatus.FAILED, DeploymentStatus.CANCELLED}
    for index, status in enumerate(_ORDER[:-1])
} | {status: frozenset[DeploymentStatus]() for status in FINISHED}


def may_follow(current: DeploymentStatus, following: DeploymentStatus) -> bool:
    return following in _SUCCESSORS[current]


def predecessors(following: DeploymentStatus) -> list[DeploymentStatus]:
    """The states from which `following` may be entered, for `status = ANY(...)`."""
    return [status for status in DeploymentStatus if may_follow(status, following)]


def next_stage(stage: Stage) -> Stage | None:
    stages = list(Stage)
    index = stages.index(stage) + 1
    return stages[index] if index < len(stages) else None
