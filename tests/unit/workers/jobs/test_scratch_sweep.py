"""The sweep of a host's scratch directories."""

from __future__ import annotations

import os
from pathlib import Path

from shared.errors import Unavailable
from tests.support.log_rows import eventually
from workers.filesystem.trees import StageDirectories
from workers.jobs.scratch_sweep import ScratchSweep


def directory_of(root: Path, deployment_id: str) -> Path:
    directory = root / deployment_id
    (directory / "build-1").mkdir(parents=True)
    os.utime(directory, (0, 0))
    return directory


def test_what_dead_workers_left_is_deleted_and_an_outage_only_delays_it(tmp_path: Path) -> None:
    finished, live = directory_of(tmp_path, "depl_finished"), directory_of(tmp_path, "depl_live")
    failures = iter([Unavailable("The database does not answer.")])

    def is_live(deployment_id: str) -> bool:
        for failure in failures:
            raise failure
        return deployment_id == "depl_live"

    sweep = ScratchSweep(StageDirectories(tmp_path), is_live, interval_seconds=0.01)
    sweep.start()
    try:
        eventually(lambda: not finished.exists(), 60)
    finally:
        sweep.stop()
    assert (live / "build-1").is_dir()
