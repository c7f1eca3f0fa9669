"""What a worker finds wrong with its own machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.settings import ObjectStoreSettings, load_settings
from tests.support.worker_process import worker_environment
from workers.composition import WorkerContext

pytestmark = pytest.mark.integration


@contextmanager
def context(environment: dict[str, str]) -> Iterator[WorkerContext]:
    made = WorkerContext(load_settings(environment), "w", connections=2)
    try:
        yield made
    finally:
        made.close()


def test_it_finds_nothing_or_what_is_wrong(
    database_url: str, redis_url: str, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> None:
    environment = worker_environment(tmp_path / "home", database_url, redis_url, object_store_settings)
    with context(environment) as worker:
        assert worker.find_problem() is None
        work = worker.settings.directories.work
        assert list(work.iterdir()) == []
        shutil.rmtree(work)
        work.write_text("no folder")
        assert str(work) in (worker.find_problem() or "")
        work.unlink()
        assert worker.find_problem() is None
    with context(environment | {"CLOUDIFY_S3_SECRET_KEY": "wrong" * 8}) as worker:
        assert "object store" in (worker.find_problem() or "")
