from __future__ import annotations

import pytest

from shared.deployments.state import (
    FINISHED,
    DeploymentStatus,
    Pool,
    Stage,
    may_follow,
    next_stage,
    predecessors,
)


def test_every_stage_has_a_pool_of_its_name():
    assert {stage.value for stage in Stage} < {pool.value for pool in Pool}


def test_the_pipeline_runs_in_order_and_ends():
    walked = [Stage.CLONE]
    while (following := next_stage(walked[-1])) is not None:
        walked.append(following)
    assert walked == list(Stage)


@pytest.mark.parametrize("finished", sorted(FINISHED))
def test_nothing_follows_an_end(finished: DeploymentStatus):
    assert not any(may_follow(finished, status) for status in DeploymentStatus)


@pytest.mark.parametrize("live", sorted(set(DeploymentStatus) - FINISHED))
def test_every_unfinished_deployment_may_fail_or_be_cancelled(live: DeploymentStatus):
    assert may_follow(live, DeploymentStatus.FAILED)
    assert may_follow(live, DeploymentStatus.CANCELLED)


def test_no_transition_goes_backwards():
    assert not may_follow(DeploymentStatus.BUILDING, DeploymentStatus.CLONING)
    assert not may_follow(DeploymentStatus.DEPLOYING, DeploymentStatus.QUEUED)


def test_a_redelivered_stage_enters_its_own_state_again():
    assert DeploymentStatus.BUILDING in predecessors(DeploymentStatus.BUILDING)
